"""Mutants of behaviors and searches."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

COMBINED, SEARCHES = "tests/sampling/test_combined_logits.py", "tests/stages/test_searches.py"
BLOCKS, STEERED = "tests/stages/test_block_search.py", "tests/steering/test_steered.py"

DECODING = (
    Mutant(
        "realignment begins at the policy",
        "sampling/combined_logits.py",
        "return reference + lam * (jax.nn.log_softmax(logits[policy]) - reference)",
        "return jax.nn.log_softmax(logits[policy]) + lam * (jax.nn.log_softmax(logits[policy]) - reference)",
        (COMBINED, "-k", "test_realigned"),
    ),
    Mutant(
        "several objectives are not normalized by their constant",
        "sampling/combined_logits.py",
        "return jnp.where(low, middle, ends[0]), jnp.where(low, ends[1], middle)",
        "return ends[0], ends[0]",
        (COMBINED, "-k", "test_several_objectives"),
    ),
    Mutant(
        "a population takes turns within a completion",
        "sampling/following_history.py",
        "share = jax.nn.log_softmax(share + said, axis=0)",
        "share = jax.nn.log_softmax(share, axis=0)",
        (COMBINED, "-k", "test_a_population and None"),
    ),
    Mutant(
        "the strong model is sure of tokens that are not there yet",
        "sampling/following_history.py",
        "& (place >= window - 1) & (place < history.step)",
        "& (place >= window - 1)",
        (COMBINED, "-k", "test_the_strong_model"),
    ),
    Mutant(
        "who is not rejected goes on with the random numbers of others",
        "sampling/decode.py",
        "_picked(carry, best), take_rows(keys, best)",
        "_picked(carry, best), keys[:, :count]",
        (SEARCHES, "-k", "test_what_goes_on"),
    ),
    Mutant(
        "completions that go on have the caches of others",
        "sampling/decode.py",
        "pick_completions(cache, index) for name",
        "pick_completions(cache, jnp.sort(jnp.argsort(index, axis=1), axis=1)) for name",
        (SEARCHES, "-k", "test_what_goes_on"),
    ),
    Mutant(
        "a search by blocks keeps its look-ahead",
        "sampling/decode.py",
        "return _picked(carry, jnp.repeat(best, width, axis=1))",
        "return _picked(ahead._replace(step=carry.step), jnp.repeat(best, width, axis=1))",
        (BLOCKS, "-k", "test_with_the_likeliest"),
    ),
    Mutant(
        "what has ended takes all places of a beam",
        "sampling/decode.py",
        "(ended & (copy > 0)) |",
        "(ended & (copy > n)) |",
        (BLOCKS, "-k", "test_with_the_likeliest or test_a_wide_beam"),
    ),
    Mutant(
        "the reward does not see the look-ahead",
        "stages/searches.py",
        "total = rated(further) + likelihood * logp",
        "total = rated(sampled) + likelihood * logp",
        (BLOCKS, "-k", "test_with_the_likeliest"),
    ),
    Mutant(
        "a prompt of one token ends in front of the prefix",
        "models/prefixed.py",
        "place[:, length : length + 1]",
        "place[:, :1]",
        ("tests/models/test_prefixed.py", "-k", "test_it_scores"),
    ),
    Mutant(
        "equal rewards are not shared among the best of n",
        "evaluate/best_of_n.py",
        'below.append(running[np.searchsorted(r[order], r, "left")])',
        'below.append(running[np.searchsorted(r[order], r, "right") - 1])',
        ("tests/evaluate/test_best_of_n.py",),
    ),
    Mutant(
        "what is steered in the prompt is steered in completions",
        "models/layers.py",
        'on = jnp.asarray(prompt) == (where == "prompt")',
        'on = jnp.asarray(prompt) == (where != "prompt")',
        (STEERED, "-k", "test_positions"),
    ),
    Mutant(
        "the gate opens for the other side",
        "steering/steered_params.py",
        "* direction[None], axis=-1) > 0)",
        "* direction[None], axis=-1) < 0)",
        (STEERED, "-k", "test_the_gate_opens"),
    ),
    Mutant(
        "the principal direction is that of single states",
        "steering/contrast_directions.py",
        "differences = jnp.moveaxis(positive - negative, 0, -2)",
        "differences = jnp.moveaxis(positive, 0, -2)",
        ("tests/steering/test_directions.py", "-k", "test_pairs"),
    ),
    Mutant(
        "what online DARE keeps is not rescaled",
        "weights/online_merges.py",
        "leaf / density, 0)",
        "leaf, 0)",
        ("tests/weights/test_online_merges.py", "-k", "test_masks"),
    ),
)
