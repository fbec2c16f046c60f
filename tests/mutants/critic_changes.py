"""Mutants of the critic's advantages, the rewards of tokens and the weights of stale samples."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CRITIC, IMPORTANCE = "tests/stages/test_critic.py", "tests/stages/test_importance.py"

SAFE = "tests/train/test_safe_rlhf.py"

CRITICS = (
    Mutant(
        "a multiplier falls where the cost is above its limit",
        "stages/lagrangian.py",
        "(excess.value() - limit)",
        "(limit - excess.value())",
        (f"{SAFE}::test_multipliers_move_with_the_excess_up_to_the_largest",),
    ),
    Mutant(
        "aspects count where the whole is poor",
        "stages/several_rewards.py",
        "jnp.where(passed, jax.nn.sigmoid",
        "jnp.where(~passed, jax.nn.sigmoid",
        ("tests/stages/test_several_rewards.py", "-k", "aspects"),
    ),
    Mutant(
        "the mixed reward grows with its multipliers",
        "stages/lagrangian.py",
        "total / scale",
        "total",
        (f"{SAFE}::test_the_mixed_reward_is_a_mean_weighted_by_the_multipliers",),
    ),
    Mutant(
        "a token that does not count ends the bootstrap",
        "stages/critic.py",
        "jnp.where(counts, value, next_value))",
        "jnp.where(counts, value, 0))",
        (f"{CRITIC}::test_tokens_that_the_policy_did_not_write_are_stepped_over",),
    ),
    Mutant(
        "the score is on the first token",
        "stages/token_rewards.py",
        "jnp.flip(jnp.cumsum(jnp.flip(counts, -1), axis=-1), -1)",
        "jnp.cumsum(counts, axis=-1)",
        (f"{CRITIC}::test_the_score_is_on_the_last_token_that_the_policy_wrote",),
    ),
    Mutant(
        "moments are merged without the distance of the means",
        "stages/token_rewards.py",
        ' + squares + jnp.square(gap) * state["count"] * share',
        " + squares",
        (f"{CRITIC}::test_running_moments_are_those_of_all_scores_so_far",),
    ),
    Mutant(
        "the coefficient falls where the KL is too large",
        "stages/token_rewards.py",
        "(1 + rate * error)",
        "(1 - rate * error)",
        (f"{CRITIC}::test_an_adaptive_coefficient_rests_where_the_kl_is_the_target",),
    ),
    Mutant(
        "a held value is not held",
        "losses/value_function.py",
        "jnp.maximum(plain, held)",
        "jnp.minimum(plain, held)",
        (f"{CRITIC}::test_a_value_learns_until_it_is_held",),
    ),
    Mutant(
        "weights are upside down",
        "stages/importance.py",
        "jnp.where(counts, now - then, 0)",
        "jnp.where(counts, then - now, 0)",
        (f"{IMPORTANCE}::test_stale_samples_are_fresh_ones_in_expectation",),
    ),
)
