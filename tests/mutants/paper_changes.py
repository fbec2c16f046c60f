"""Mutants of what papers needed: the rounds of SPO, the prefixes of RECAP."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ROUNDS, PREFIXES = "tests/losses/test_sequential.py", "tests/stages/test_prefixes.py"

PAPERS = (
    Mutant(
        "an earlier reward forgets those before it",
        "losses/sequential.py",
        "held = held + alpha * (beta * margin - held)",
        "held = held + alpha * (beta * margin)",
        (f"{ROUNDS}::test_every_round_s_optimum_is_that_of_the_held_rewards",),
    ),
    Mutant(
        "earlier rewards are learned",
        "losses/sequential.py",
        "    held = jax.lax.stop_gradient(held)\n",
        "",
        (f"{ROUNDS}::test_every_round_s_optimum_is_that_of_the_held_rewards",),
    ),
    Mutant(
        "a prefix is learned",
        "stages/prefixes.py",
        "mask=behind(mask),",
        "mask=joined_valid * 1.0,",
        (f"{PREFIXES}::test_nothing_is_learned_from_a_prefix",),
    ),
)
