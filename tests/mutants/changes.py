"""The list of mutants. A mutant's text stands exactly once in its file; `killers` are what pytest is given."""

from __future__ import annotations

from tests.mutants.critic_changes import CRITICS
from tests.mutants.decoding_changes import DECODING
from tests.mutants.edge_changes import EDGE
from tests.mutants.loss_changes import LOSSES
from tests.mutants.mutant import Mutant
from tests.mutants.paper_changes import PAPERS
from tests.mutants.report_changes import REPORTS
from tests.mutants.surrogate_changes import SURROGATES

STEP, SCORING, ROLES, OPTIMIZERS = (
    f"tests/{name}.py" for name in ("train/test_step", "test_scoring", "test_roles", "train/test_optimizers")
)
FILTERS, SAMPLES = "tests/sampling/test_filters.py", "tests/sampling/test_generate.py"
SELECT, RELABEL = "tests/stages/test_select.py", "tests/stages/test_relabel.py"
MEMORIES = "tests/stages/test_memories.py"
TABULAR, EQUILIBRIA, EXACT = (f"tests/games/test_{name}.py" for name in ("tabular", "equilibria", "exact"))
CONTROLS, EXACT_TASKS = "tests/evaluate/test_controls.py", "tests/exact_tasks/test_exact_tasks.py"
WIN_RATE, PLAYED = "tests/evaluate/test_win_rate.py", "tests/train/test_played.py"

MUTANTS = (
    *LOSSES,
    *SURROGATES,
    *DECODING,
    *REPORTS,
    *CRITICS,
    *PAPERS,
    *EDGE,
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
        "batch, new = with_metrics(stage(here, batch, fold_name(state.key(), name)))",
        "batch, new = with_metrics(stage(here, batch, state.key()))",
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
        (f"{STEP}::test_microbatches_change_neither_loss_nor_gradient", "-k", "dpo or sorted"),
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
        "weigh_pairs(batch, jnp.abs(reward[:, :, None] - reward[:, None, :]))",
        "batch.replace(pair_weight=jnp.abs(reward[:, :, None] - reward[:, None, :]))",
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
        "width: NonNegative = 2.0",
        "width: NonNegative = 1.0",
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
        (f"{MEMORIES}::test_no_prompt_is_twice_in_a_batch",),
    ),
    Mutant(
        "rewards that nobody knows are regretted",
        "stages/memories.py",
        "jnp.max(jnp.where(known, side, -jnp.inf), axis=1)",
        "jnp.max(side, axis=1)",
        (f"{MEMORIES}::test_a_reward_of_which_nothing_is_known_is_no_regret",),
    ),
    # recipes
    Mutant(
        "replay forgets which pairs count",
        "algorithms/continual.py",
        '    fields["pair_weight"] = (pairs, "float32")\n',
        "",
        ("tests/train/test_memories.py::test_replayed_pairs_count_as_they_did",),
    ),
    Mutant(
        "a role with a rule stands still",
        "roles.py",
        "if role.optimizer is None and role.rule.function is frozen)",
        "if role.optimizer is None)",
        ("tests/train/test_memories.py::test_a_reference_that_moves_is_not_remembered",),
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
        "games/distances.py",
        "(kl(p, game.reference) - kl(q, game.reference))",
        "(kl(p, game.reference) + kl(q, game.reference))",
        (f"{EQUILIBRIA}::test_no_policy_gains_on_a_best_response", TABULAR),
    ),
    Mutant(
        "a duality gap is half of itself",
        "games/distances.py",
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
        "prompts are played twice",
        "evaluate/tournament.py",
        "        if names & seen:",
        "        if names & set():",
        (f"{CONTROLS}::test_no_prompt_is_played_twice",),
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
