"""The list of mutants. A mutant's text stands exactly once in its file; `killers` are what pytest is given."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One wrong edit: `text` of alignjax/`file` replaced, and the tests that must fail for it."""

    name: str
    file: str
    text: str
    replacement: str
    killers: tuple[str, ...]


IDENTITIES, SELF_PLAY, TOKENS = (
    f"tests/losses/test_{name}.py" for name in ("pairwise_identities", "selfplay", "token_level")
)
CONSTANTS, NOISY, RANKING, FEEDBACK, UNJUDGED, IMITATION, FINE = (
    f"tests/losses/test_{name}.py"
    for name in ("constants", "noisy_labels", "ranking", "binary_feedback", "unjudged", "imitation", "fine_grained")
)
STEP, SCORING, ROLES, OPTIMIZERS = (
    f"tests/{name}.py" for name in ("train/test_step", "test_scoring", "test_roles", "train/test_optimizers")
)
FILTERS, SAMPLES = "tests/sampling/test_filters.py", "tests/sampling/test_generate.py"
SELECT, RELABEL = "tests/stages/test_select.py", "tests/stages/test_relabel.py"
TABULAR, EQUILIBRIA, EXACT = (f"tests/games/test_{name}.py" for name in ("tabular", "equilibria", "exact"))
CONTROLS, EXACT_TASKS = "tests/evaluate/test_controls.py", "tests/exact_tasks/test_exact_tasks.py"
WIN_RATE, PLAYED = "tests/evaluate/test_win_rate.py", "tests/train/test_played.py"

MUTANTS = (
    # losses
    Mutant(
        "ipo aims twice as far",
        "losses/margin.py",
        "jnp.square(margin - (2 * preference - 1) / (2 * tau))",
        "jnp.square(margin - (2 * preference - 1) / tau)",
        (f"{IDENTITIES}::test_ipo_is_a_square_around_what_dpo_bends",),
    ),
    Mutant(
        "dpo ignores the label",
        "losses/margin.py",
        "return -(preference * jax.nn.log_sigmoid(beta * margin)",
        "return -(0 * preference + jax.nn.log_sigmoid(beta * margin)",
        (f"{IDENTITIES}::test_ipo_is_a_square_around_what_dpo_bends",),
    ),
    Mutant(
        "slic's hinge of the loser has the winner's sign",
        "losses/margin.py",
        "jax.nn.relu(1 + beta * margin)",
        "jax.nn.relu(1 - beta * margin)",
        ("tests/losses/test_margin.py", "-k", "slic"),
    ),
    Mutant(
        "robust dpo is not rescaled",
        "losses/margin.py",
        "- epsilon * wrong) / (1 - 2 * epsilon)",
        "- epsilon * wrong) / (1 - epsilon)",
        (f"{IDENTITIES}::test_robust_dpo_is_unbiased_over_flips",),
    ),
    Mutant(
        "exo aims at the reverse label",
        "losses/margin.py",
        "target = (1 - epsilon) * preference + epsilon * (1 - preference)",
        "target = epsilon * preference + (1 - epsilon) * (1 - preference)",
        (f"{IDENTITIES}::test_exo_turns_dpo_round",),
    ),
    Mutant(
        "pair weights are ignored",
        "losses/decorators/pairwise.py",
        "return jnp.where(weight != 0, label, 0.5), weight",
        "return jnp.where(weight != 0, label, 0.5), jnp.ones_like(weight)",
        (f"{SELF_PLAY}::test_a_bootstrapped_loss_counts_rows_by_the_members_weights", TOKENS),
    ),
    Mutant(
        "a soft label counts as certain",
        "losses/decorators/pairwise.py",
        "return label * forth + (1 - label) * back",
        "return forth + 0 * label * back",
        (f"{IDENTITIES}::test_robust_dpo_is_unbiased_over_flips", "tests/losses/test_margin.py", "-k", "robust"),
    ),
    Mutant(
        "length means divide by the padded length",
        "losses/decorators/sequences.py",
        "return total / jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(logps.dtype)",
        "return total / mask.shape[-1]",
        (f"{IDENTITIES}::test_equal_lengths_rescale_beta", "tests/losses/test_margin.py", "-k", "length"),
    ),
    Mutant(
        "the reference is no constant",
        "losses/decorators/sequences.py",
        "else jax.lax.stop_gradient(scored(context, batch, name))",
        "else scored(context, batch, name)",
        (f"{CONSTANTS}::test_a_reference_that_is_trained_too_is_a_constant",),
    ),
    Mutant(
        "mnpo counts every opponent whole",
        "losses/self_play.py",
        "(1 - c) * (weight / sum(share))",
        "(1 - c) * weight",
        (f"{SELF_PLAY}::test_mnpo_weighs_its_opponents",),
    ),
    Mutant(
        "sppo's win rate is not centered",
        "losses/self_play.py",
        "eta * (win_rate - 0.5)",
        "eta * win_rate",
        (f"{SELF_PLAY}::test_sppo_on_two_is_its_hard_form_where_win_rates_are_hard",),
    ),
    Mutant(
        "egpo exchanges the completions",
        "losses/self_play.py",
        "(reward[:, :, None] - reward[:, None, :])",
        "(reward[:, None, :] - reward[:, :, None])",
        (f"{SELF_PLAY}::test_egpo_with_labels_for_rewards_is_ipo",),
    ),
    Mutant(
        "reinforce descends the reward",
        "losses/policy_gradient.py",
        "- advantage * total)",
        "+ advantage * total)",
        (
            f"{EXACT}::test_online_ipo_descends_as_self_play_ascends",
            f"{SELF_PLAY}",
            "-k",
            "reinforce or leaving or sel",
        ),
    ),
    Mutant(
        "leaving one out leaves none out",
        "losses/policy_gradient.py",
        "others = jnp.sum(weight, axis=1, keepdims=True) - weight",
        "others = jnp.sum(weight, axis=1, keepdims=True)",
        (f"{SELF_PLAY}::test_leaving_one_out_centres_rewards",),
    ),
    Mutant(
        "reinforce differentiates its log-ratio",
        "losses/policy_gradient.py",
        "ratio = jax.lax.stop_gradient(jnp.where(mask != 0, difference, 0))",
        "ratio = jnp.where(mask != 0, difference, 0)",
        (f"{CONSTANTS}::test_the_log_ratio_of_reinforce_is_a_constant",),
    ),
    Mutant(
        "importance weights are differentiated",
        "losses/policy_gradient.py",
        "return jax.lax.stop_gradient(jnp.minimum(jnp.exp(jnp.sum(moved, axis=-1)), cap))",
        "return jnp.minimum(jnp.exp(jnp.sum(moved, axis=-1)), cap)",
        (f"{CONSTANTS}::test_importance_weights_are_constants",),
    ),
    Mutant(
        "bco's shift is differentiated",
        "losses/binary_feedback.py",
        "d = jax.lax.stop_gradient(beta * _center(context, completions.metrics(), shift, pooled))",
        "d = beta * _center(context, completions.metrics(), shift, pooled)",
        (f"{CONSTANTS}::test_the_shift_of_bco_is_a_constant",),
    ),
    Mutant(
        "tdpo2 moves by the winner's KL",
        "losses/token_level.py",
        "alpha * (loser - jax.lax.stop_gradient(winner))",
        "alpha * (loser - winner)",
        (f"{TOKENS}::test_tdpo2_does_not_move_by_the_kl_of_the_winner",),
    ),
    Mutant(
        "lcpo differentiates its posterior",
        "losses/noisy_labels.py",
        "jax.lax.stop_gradient(jax.nn.sigmoid(prior + b - a))",
        "jax.nn.sigmoid(prior + b - a)",
        (f"{NOISY}::test_the_m_step_climbs_the_likelihood",),
    ),
    Mutant(
        "lcpo differentiates the posterior of the reversed label",
        "losses/noisy_labels.py",
        "jax.lax.stop_gradient(jax.nn.sigmoid(prior + a - b))",
        "jax.nn.sigmoid(prior + a - b)",
        (f"{NOISY}::test_the_m_step_climbs_the_likelihood",),
    ),
    Mutant(
        "lcpo is not the paper's M-step",
        "losses/noisy_labels.py",
        "normalizer: bool = True,",
        "normalizer: bool = False,",
        (f"{NOISY}::test_the_normaliser_is_nothing_for_dpo_and_makes_dpo_of_ipo",),
    ),
    Mutant(
        "tdpo and sparse_po take the KL from the policy",
        "losses/token_level.py",
        'return context.score((role, reference), batch, read=reads.forward_kl)["forward_kl"]',
        'return context.score((reference, role), batch, read=reads.forward_kl)["forward_kl"]',
        (f"{TOKENS}::test_the_kl_of_tdpo_is_that_from_the_reference",),
    ),
    Mutant(
        "wpo's weight is differentiated",
        "losses/token_level.py",
        "weight = jax.lax.stop_gradient(jnp.exp(jnp.minimum(confidence[:, :, None] + confidence[:, None, :], 0)))",
        "weight = jnp.exp(jnp.minimum(confidence[:, :, None] + confidence[:, None, :], 0))",
        (f"{TOKENS}::test_weights_are_not_divided_out",),
    ),
    Mutant(
        "masks pull at the states that they read",
        "losses/token_level.py",
        "states = jax.lax.stop_gradient(jnp.concatenate(parts, axis=3))",
        "states = jnp.concatenate(parts, axis=3)",
        (f"{FINE}::test_masks_do_not_pull_at_the_states_they_read",),
    ),
    Mutant(
        "kto's KL is differentiated",
        "losses/binary_feedback.py",
        "sequence_logps(jax.lax.stop_gradient(scores[name])",
        "sequence_logps((scores[name])",
        (f"{CONSTANTS}::test_the_kl_of_kto_is_a_constant",),
    ),
    Mutant(
        "bco_pair's shift is differentiated",
        "losses/anchored.py",
        "jax.lax.stop_gradient(scored.mean(beta * ratio))",
        "scored.mean(beta * ratio)",
        (f"{CONSTANTS}::test_the_shift_of_bco_pair_is_a_constant",),
    ),
    Mutant(
        "point-wise dpo takes its shift off",
        "losses/binary_feedback.py",
        "logit = beta * ratio + shift",
        "logit = beta * ratio - shift",
        (f"{FEEDBACK}::test_ulma_of_good_completions_is_sft_and_of_bad_ones_pointwise_dpo",),
    ),
    Mutant(
        "d2o exchanges its two temperatures",
        "losses/binary_feedback.py",
        "margin = beta * ratio - alpha * other",
        "margin = alpha * ratio - beta * other",
        (f"{FEEDBACK}::test_d2o_has_a_temperature_for_each_side",),
    ),
    Mutant(
        "knowpat's mu is differentiated",
        "losses/ranking.py",
        "share = jax.lax.stop_gradient(jnp.where(on, logps - low, 0) / jnp.where(high > low, high - low, 1))",
        "share = jnp.where(on, logps - low, 0) / jnp.where(high > low, high - low, 1)",
        (f"{RANKING}::test_knowpat_on_three",),
    ),
    Mutant(
        "knowpat adds up what is worse",
        "losses/ranking.py",
        "/ jnp.maximum(below, 1)",
        "/ 1",
        (f"{RANKING}::test_knowpat_on_three",),
    ),
    Mutant(
        "pro's best competes at the sum of its gaps",
        "losses/ranking.py",
        "logps * jnp.max(gap, axis=-1)",
        "logps * jnp.sum(gap, axis=-1)",
        (f"{RANKING}::test_pro_on_more_than_two",),
    ),
    Mutant(
        "the likelihood of the best grows by the length of the list",
        "losses/ranking.py",
        "axis=-1) - 1) ** 2 * _of_best",
        "axis=-1) - 1) * _of_best",
        (f"{RANKING}::test_pro_on_more_than_two",),
    ),
    Mutant(
        "an absent completion is beaten",
        "losses/decorators/listwise.py",
        " & takes_part(reward)[..., None, :]",
        "",
        (RANKING, "-k", "who_takes_no_part"),
    ),
    Mutant(
        "hir smooths its contrast by half",
        "losses/imitation.py",
        "(1 - epsilon) * right + epsilon * wrong",
        "(1 - epsilon / 2) * right + epsilon / 2 * wrong",
        (IMITATION, "-k", "hir"),
    ),
    Mutant(
        "a bonus counts twice",
        "losses/exploration_bonus.py",
        "weight = (1 if rises else -1) * alpha * beta",
        "weight = (1 if rises else -1) * 2 * alpha * beta",
        (SELF_PLAY, "-k", "optimistic_bonuses or pessimism"),
    ),
    Mutant(
        "the rewards of others are not weighed",
        "losses/policy_gradient.py",
        "rest = jnp.sum(reward * weight, axis=1, keepdims=True) - reward * weight",
        "rest = jnp.sum(reward, axis=1, keepdims=True) - reward",
        (f"{SELF_PLAY}::test_leaving_one_out_centres_rewards_that_count_in_part",),
    ),
    Mutant(
        "completions that nobody judged count",
        "losses/decorators/sequences.py",
        'return counted(batch) * batch.completions.get("weight", 1)',
        "return counted(batch)",
        (UNJUDGED,),
    ),
    Mutant(
        "an order that the label rules out is evaluated",
        "losses/decorators/pairwise.py",
        "jnp.where(on, a[name], b[name])",
        "a[name]",
        (f"{IDENTITIES}::test_an_order_that_the_label_rules_out_is_not_evaluated",),
    ),
    Mutant(
        "thumbs go down on what is undecided",
        "stages/relabel.py",
        "up = (jnp.sign(reward - threshold) + 1) / 2",
        "up = (reward > threshold).astype(reward.dtype)",
        (f"{RELABEL}::test_thumbs_are_up_above_the_threshold_and_counted",),
    ),
    # step, roles, scoring, optimizers
    Mutant(
        "rules are applied twice",
        "train/step.py",
        "    new = _apply_rules(algorithm, state.optimizers, new, batch, metrics, key)\n",
        "    new = _apply_rules(algorithm, state.optimizers, new, batch, metrics, key)\n" * 2,
        (f"{STEP}::test_rules_move_roles_from_the_values_that_stood_before",),
    ),
    Mutant(
        "every epoch has the same order",
        "train/step.py",
        "epoch_key = jax.random.fold_in(key, epoch)",
        "epoch_key = key",
        (f"{STEP}::test_minibatches_are_shuffled_anew_by_epoch_step_and_seed",),
    ),
    Mutant(
        "one epoch too few",
        "train/step.py",
        "jnp.arange(algorithm.epochs * algorithm.minibatches)",
        "jnp.arange(max(algorithm.epochs - 1, 1) * algorithm.minibatches)",
        (f"{STEP}::test_every_epoch_sees_every_row_once",),
    ),
    Mutant(
        "stages share a key",
        "train/step.py",
        "batch, new = with_metrics(algorithm.experience[name](context, batch, fold_name(state.key(), name)))",
        "batch, new = with_metrics(algorithm.experience[name](context, batch, state.key()))",
        (f"{STEP}::test_stages_have_streams_of_their_own_name",),
    ),
    Mutant(
        "a snapshot is a step early",
        "roles.py",
        "return _where((context.step + 1) % every == 0,",
        "return _where(context.step % every == 0,",
        (f"{STEP}::test_rules_move_roles_from_the_values_that_stood_before",),
    ),
    Mutant(
        "a moving average exchanges its weights",
        "roles.py",
        "(decay * old + (1 - decay) * new)",
        "((1 - decay) * old + decay * new)",
        (f"{STEP}::test_rules_move_roles_from_the_values_that_stood_before",),
    ),
    Mutant(
        "a pool draws slots that are not filled",
        "roles.py",
        "jax.random.randint(key, (), 0, jnp.minimum(pushed, size))",
        "jax.random.randint(key, (), 0, size)",
        (ROLES, "-k", "pool"),
    ),
    Mutant(
        "microbatches come back in another order",
        "scoring.py",
        "leaf.swapaxes(0, 1).reshape(rows, *leaf.shape[2:])",
        "leaf.reshape(rows, *leaf.shape[2:])",
        (f"{STEP}::test_microbatches_change_neither_loss_nor_gradient", "-k", "dpo"),
    ),
    Mutant(
        "padding is scored",
        "scoring.py",
        "*[1] * (leaf.ndim - 3)), leaf, 0)",
        "*[1] * (leaf.ndim - 3)), leaf, leaf)",
        (SCORING, "-k", "outputs or transformer"),
    ),
    Mutant(
        "warmup ends a step late",
        "train/optimizers.py",
        "max(warmup_steps - 1, 1)",
        "max(warmup_steps, 1)",
        (f"{OPTIMIZERS}::test_schedule_ends", f"{OPTIMIZERS}::test_almost_no_warmup"),
    ),
    Mutant(
        "scales and biases decay",
        "train/optimizers.py",
        "return leaf.ndim > 1 and not any(",
        "return leaf.ndim > 1 or not any(",
        (f"{OPTIMIZERS}::test_decay_shrinks_matrices_and_nothing_else",),
    ),
    # sampling, stages
    Mutant(
        "temperature multiplies",
        "sampling/filters.py",
        "return logits / jnp.maximum(temperature, 1e-6)",
        "return logits * jnp.maximum(temperature, 1e-6)",
        (f"{FILTERS}::test_temperature",),
    ),
    Mutant(
        "top_p counts the token itself",
        "sampling/filters.py",
        "jnp.cumsum(probability, axis=-1) - probability",
        "jnp.cumsum(probability, axis=-1)",
        (f"{FILTERS}::test_top_p_keeps_the_smallest_set_that_reaches_p",),
    ),
    Mutant(
        "a mixture exchanges policy and reference",
        "sampling/behaviors.py",
        "(1 - beta) * jax.nn.log_softmax(logits[policy]) + beta * jax.nn.log_softmax(logits[reference])",
        "beta * jax.nn.log_softmax(logits[policy]) + (1 - beta) * jax.nn.log_softmax(logits[reference])",
        (f"{SAMPLES}::test_the_ends_of_a_mixture",),
    ),
    Mutant(
        "completions of a prompt share a key",
        "numerics.py",
        "jax.random.fold_in(jax.random.fold_in(key, e), n)",
        "jax.random.fold_in(key, e)",
        (
            f"{SELECT}::test_bootstrap_weights_have_mean_one_and_differ_between_members",
            SAMPLES,
            "-k",
            "members or follow",
        ),
    ),
    Mutant(
        "the worst stands for the best",
        "stages/select.py",
        "[order[:, :1], order[:, -1:], others]",
        "[order[:, -1:], order[:, :1], others]",
        (f"{SELECT}::test_the_best_and_the_worst_and_what_is_kept",),
    ),
    Mutant(
        "gap weights forget which pairs count",
        "stages/select.py",
        "gap if batch.pair_weight is None else batch.pair_weight * gap",
        "gap",
        (f"{SELECT}::test_ranks_are_in_order_and_gaps_are_weights",),
    ),
    Mutant(
        "two rate each other",
        "stages/relabel.py",
        "return weight * _different(preference.shape[1])",
        "return weight",
        (RELABEL, "-k", "rivals or two_are"),
    ),
    Mutant(
        "rivals that one alone has met rate both",
        "stages/relabel.py",
        'gained = jnp.einsum("bik,bjk->bij", wins, labeled)',
        'gained = jnp.einsum("bik,bjk->bij", wins, jnp.ones_like(labeled))',
        (RELABEL, "-k", "rivals or two_are"),
    ),
    Mutant(
        "active pairs look one deviation far",
        "stages/select.py",
        "width: float = 2.0",
        "width: float = 1.0",
        (f"{SELECT}::test_bounds_lie_two_deviations_from_the_mean",),
    ),
    Mutant(
        "borda's bounds are both sides' upper or lower ones",
        "stages/select.py",
        "_borda(upper, lower, rivals), _borda(lower, upper, rivals)",
        "_borda(upper, upper, rivals), _borda(lower, lower, rivals)",
        (f"{SELECT}::test_borda_scores_are_bounded_and_their_rivals_are_the_references",),
    ),
    Mutant(
        "borda's rival is the policy's",
        "stages/select.py",
        "number >= n - rivals",
        "number < n - rivals",
        (f"{SELECT}::test_borda_scores_are_bounded_and_their_rivals_are_the_references",),
    ),
    Mutant(
        "a prompt is drawn into its own batch",
        "stages/memories.py",
        ' & (memory["priority"] > 0) & ~present',
        ' & (memory["priority"] > 0)',
        (f"{SELECT}::test_no_prompt_is_twice_in_a_batch",),
    ),
    Mutant(
        "rewards that nobody knows are regretted",
        "stages/memories.py",
        "jnp.max(jnp.where(known, side, -jnp.inf), axis=1)",
        "jnp.max(side, axis=1)",
        (f"{SELECT}::test_a_reward_of_which_nothing_is_known_is_no_regret",),
    ),
    # recipes
    Mutant(
        "replay forgets which pairs count",
        "algorithms/continual.py",
        '    fields["pair_weight"] = (pairs, "float32")\n',
        "",
        (f"{PLAYED}::test_replayed_pairs_count_as_they_did",),
    ),
    Mutant(
        "a role with a rule stands still",
        "roles.py",
        "if role.optimizer is None and role.rule.function is frozen)",
        "if role.optimizer is None)",
        (f"{PLAYED}::test_a_reference_that_moves_is_not_remembered",),
    ),
    Mutant(
        "moments see what was looked ahead",
        "roles.py",
        "    back = (context.step + 1) % every != 0\n",
        "    back = context.step < 0\n",
        (f"{PLAYED}::test_moments_do_not_see_what_was_looked_ahead_unless_they_are_to",),
    ),
    Mutant(
        "schedules go back with the moments",
        "roles.py",
        "is_leaf=counts",
        "is_leaf=None",
        (f"{PLAYED}::test_moments_do_not_see_what_was_looked_ahead_unless_they_are_to",),
    ),
    Mutant(
        "a stream takes the place of what was sampled from",
        "sampling/logit_streams.py",
        "if stream.name == SAMPLER:",
        "if False:",
        (f"{PLAYED}::test_what_was_sampled_from_has_its_own_name",),
    ),
    Mutant(
        "reinforce takes several steps on a sample",
        "train/step.py",
        "if several and (names := on_policy(algorithm)):",
        "if False and (names := on_policy(algorithm)):",
        (f"{PLAYED}::test_reinforce_takes_one_step_on_a_sample_or_weighs_it",),
    ),
    # games, statistics
    Mutant(
        "both players pay for their own distance",
        "games/game.py",
        "(kl(p, game.reference) - kl(q, game.reference))",
        "(kl(p, game.reference) + kl(q, game.reference))",
        (f"{EQUILIBRIA}::test_no_policy_gains_on_a_best_response", TABULAR),
    ),
    Mutant(
        "a duality gap is half of itself",
        "games/game.py",
        "return 2 * game.tau * np.sum(",
        "return game.tau * np.sum(",
        (TABULAR, EQUILIBRIA),
    ),
    Mutant(
        "wins are counted along the wrong axis",
        "games/game.py",
        'np.einsum("...ij,...j->...i"',
        'np.einsum("...ji,...j->...i"',
        (TABULAR,),
    ),
    Mutant(
        "rewards of rare actions are fitted loosely",
        "games/equilibria.py",
        "if np.abs(gradient).max() <= tolerance:",
        "if np.abs(gradient * sampler).max() <= tolerance:",
        (f"{EQUILIBRIA}::test_rewards_of_rare_actions_are_as_exact_as_others",),
    ),
    Mutant(
        "newton searches among roundings",
        "games/equilibria.py",
        "range(20 if before > ROUNDING * max(1, 1 / tau) else 1)",
        "range(20)",
        (f"{EQUILIBRIA}::test_an_equilibrium_costs_a_few_residuals_for_each_tau_on_the_way",),
    ),
    Mutant(
        "equal games have starts of their own",
        "games/table_policy.py",
        "return isinstance(other, Tables) and self._content() == other._content()",
        "return self is other",
        ("tests/games/test_run.py::test_equal_games_give_equal_parts",),
    ),
    Mutant(
        "one completion is compared with nobody",
        "games/enumeration.py",
        'rated |= stage.kwargs.get("own") is not None',
        "rated |= False",
        (f"{EXACT}::test_what_rests_on_three_samples_of_a_prompt_is_refused",),
    ),
    Mutant(
        "a human text exploits policies",
        "evaluate/tournament.py",
        "win_rate.exploitability(_of_policies(rates))",
        "win_rate.exploitability(rates)",
        (f"{WIN_RATE}::test_no_human_text_exploits_a_policy",),
    ),
    Mutant(
        "an interval is one-sided",
        "evaluate/intervals.py",
        "[0.025, 0.975]",
        "[0.05, 0.95]",
        (f"{WIN_RATE}::test_an_interval_is_as_wide_as_the_normal_theory_says",),
    ),
    Mutant(
        "a complement keeps its bounds in place",
        "evaluate/win_rate.py",
        '"low": 1 - rate["high"], "high": 1 - rate["low"]',
        '"low": 1 - rate["low"], "high": 1 - rate["high"]',
        (f"{WIN_RATE}::test_the_two_orders_of_a_pair_are_complements",),
    ),
    Mutant(
        "the weakest opponent exploits",
        "evaluate/win_rate.py",
        "by = max(against, key=",
        "by = min(against, key=",
        (f"{WIN_RATE}::test_exploitability_finds_the_cycle_of_an_intransitive_game",),
    ),
    Mutant(
        "a control is chosen where it is compared",
        "evaluate/controls.py",
        "np.where(odd, columns[chosen[1]], columns[chosen[0]])",
        "np.where(odd, columns[chosen[0]], columns[chosen[1]])",
        (f"{CONTROLS}::test_the_control_of_a_prompt_is_chosen_on_others",),
    ),
    Mutant(
        "length is paid twice",
        "evaluate/win_rate.py",
        "p - slope * d",
        "p + slope * d",
        (f"{CONTROLS}::test_a_judge_of_length_alone_says_one_half_at_equal_length",),
    ),
    # exact tasks
    Mutant(
        "sorting forgives foreign letters",
        "exact_tasks/sorting.py",
        "order - (1 - present / LENGTH)",
        "order",
        (f"{EXACT_TASKS}::test_gold_scores_are_those_of_plain_python",),
    ),
    Mutant(
        "the cycle of styles runs the other way",
        "exact_tasks/styles.py",
        "np.log(WINS) - np.log(WINS.T)",
        "np.log(WINS.T) - np.log(WINS)",
        (f"{EXACT_TASKS}::test_styles_are_read_as_plain_python_reads_them",),
    ),
)
