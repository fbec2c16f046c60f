"""Mutants of the surrogate, its parts and the advantages."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

SURROGATE, ADVANTAGE = "tests/losses/test_surrogate.py", "tests/stages/test_advantage.py"

SURROGATES = (
    Mutant(
        "a surrogate descends the advantage",
        "losses/surrogate.py",
        "reduction(kl(difference, log_ratio) - policy, tokens.mask, weight)",
        "reduction(kl(difference, log_ratio) + policy, tokens.mask, weight)",
        (f"{ADVANTAGE}::test_a_small_bandit_is_learned_to_its_optimum",),
    ),
    Mutant(
        "the two sides of a clip change places",
        "losses/ratio_bounds.py",
        "objective = jnp.minimum(within * advantage",
        "objective = jnp.maximum(within * advantage",
        (f"{SURROGATE}::test_two_sides_of_a_clip",),
    ),
    Mutant(
        "the weight of CISPO is differentiated",
        "losses/ratio_bounds.py",
        "weight = jax.lax.stop_gradient(jnp.clip(ratio, low, high))",
        "weight = jnp.clip(ratio, low, high)",
        (SURROGATE, "-k", "test_at_ratio_1_every_bound and cispo"),
    ),
    Mutant(
        "the kernel of VESPO is differentiated",
        "losses/ratio_bounds.py",
        "moved = jax.lax.stop_gradient(jnp.clip(tokens.moved, -FARTHEST, FARTHEST))",
        "moved = jnp.clip(tokens.moved, -FARTHEST, FARTHEST)",
        (SURROGATE, "-k", "test_at_ratio_1_every_bound and vespo"),
    ),
    Mutant(
        "a bad token is held back where it rises",
        "losses/ratio_bounds.py",
        "beyond = (apart > threshold) & ((new - old) * tokens.advantage > 0)",
        "beyond = (apart > threshold) & ((new - old) * tokens.advantage < 0)",
        (SURROGATE, "-k", "test_dppo_bounds"),
    ),
    Mutant(
        "GSPO-token differentiates the whole sequence",
        "losses/policy_ratios.py",
        "return jax.lax.stop_gradient(sequence_ratio(tokens)) + no_ratio(tokens)",
        "return sequence_ratio(tokens) + no_ratio(tokens)",
        (SURROGATE, "-k", "test_at_ratio_1_every_bound and sequence_ratio_of_tokens"),
    ),
    Mutant(
        "means of sequences are sums",
        "losses/reductions.py",
        "return Mean.of(masked_sum(values, normalized(mask)), weight)",
        "return Mean.of(masked_sum(values, mask), weight)",
        (f"{SURROGATE}::test_reductions_weigh_tokens_as_they_say",),
    ),
    Mutant(
        "k3 is of the other direction",
        "losses/kl_terms.py",
        "bounded_exp(-difference) - 1 + difference",
        "bounded_exp(difference) - 1 - difference",
        (f"{SURROGATE}::test_gradients_of_kl_terms_by_enumeration",),
    ),
    Mutant(
        "a completion is in the mean of the others",
        "stages/advantage.py",
        "others = jnp.sum(weight, axis=1, keepdims=True) - weight",
        "others = jnp.sum(weight, axis=1, keepdims=True)",
        (f"{ADVANTAGE}::test_leaving_one_out_is_the_mean_of_all_in_other_units",),
    ),
    Mutant(
        "pass@k counts sets without the completion",
        "stages/advantage.py",
        "sets = _choose(number - 1, k - 1)",
        "sets = _choose(number, k - 1)",
        (ADVANTAGE, "-k", "test_pass_at_k_by_enumeration"),
    ),
    Mutant(
        "rewards are summed before they are normalized",
        "stages/advantage.py",
        "(reward - mean) / (deviation + spread), 0)\n        known",
        "(reward - mean), 0)\n        known",
        (f"{ADVANTAGE}::test_rewards_are_normalized_apart",),
    ),
)
