"""Sorting: eight letters are to be written in order, by a policy that learned from lazy people.

Most people make one or two passes of bubble sort and stop, a quarter finishes, and a tenth slips once. People judge
better than they demonstrate, so the mode of what they write is not what they prefer: neither a lower temperature nor
more imitation sorts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import fn
from alignjax.exact_tasks.task import ExactTask, Measure, first_letters, letter_counts, prompt_letters, slipped
from alignjax.ranges import NonNegative
from alignjax.stages.judge import bradley_terry
from alignjax.types import Array, Batch, Context, Key

KINDS, LENGTH = 12, 8
PASSES, SHARES = (1, 2, 3, LENGTH), (0.35, 0.3, 0.1, 0.25)
SLIP = 0.1  # probability that one letter of a demonstration is another one


def lazily_sorted(prompt: Array, key: Key) -> tuple[Array, Array]:
    """A person makes some passes of bubble sort over the letters [8] and may slip once.

    Args:
        prompt: The letters [8].
        key: Random key.

    Returns:
        The answer [8], and its length.
    """
    count, slip, place, letter = jax.random.split(key, 4)
    passes = jax.random.choice(count, jnp.array(PASSES), p=jnp.array(SHARES))

    def bubbled(text: Array, number: Array) -> tuple[Array, None]:
        # What a pass carries along is the largest letter so far; it leaves the smaller one of that and the next behind.
        largest = jax.lax.cummax(text)
        after = jnp.append(jnp.minimum(largest[:-1], text[1:]), largest[-1])
        return jnp.where(number < passes, after, text), None

    text, _ = jax.lax.scan(bubbled, prompt, jnp.arange(LENGTH))
    return slipped(text, SLIP, KINDS, (slip, place, letter)), jnp.array(LENGTH)


def in_order(prompt: Array, key: Key) -> tuple[Array, Array]:
    """The right answer: the letters [8] in order, and their number."""
    return jnp.sort(prompt), jnp.array(LENGTH)


def sorting_score(batch: Batch) -> Array:
    """Gold score [B,N] in [0, 1]: the share of the 28 pairs of letters that stand in order, less the share of the
    prompt's letters that are missing; 0 for an answer that is not eight tokens and an end token.

    Its maximum is 1, of the sorted prompt alone. A policy that does not read the prompt reaches 1 - (11/12)^8 = 0.501
    at best, by eight different letters in order: E min(1, Binomial(8, 1/12)) of each letter is right.

    Args:
        batch: Prompts of eight letters with answers [B,N,T].
    """
    tokens, exact = first_letters(batch, LENGTH)
    first, second = jnp.triu_indices(LENGTH, 1)
    order = jnp.mean(tokens[..., first] <= tokens[..., second], axis=-1)
    wanted = letter_counts(prompt_letters(batch, LENGTH), KINDS)[:, None]
    present = jnp.sum(jnp.minimum(letter_counts(tokens, KINDS), wanted), axis=-1)
    return jnp.where(exact, jnp.maximum(order - (1 - present / LENGTH), 0), 0)


def sorted_exactly(batch: Batch) -> Array:
    """Says which answers [B,N] are the sorted prompt and nothing else, as 0 or 1.

    A policy that does not read the prompt is right with probability 8! / 12^8 = 0.00009 at best.

    Args:
        batch: Prompts of eight letters with answers [B,N,T].
    """
    tokens, exact = first_letters(batch, LENGTH)
    right = jnp.all(tokens == jnp.sort(prompt_letters(batch, LENGTH), axis=1)[:, None], axis=-1)
    return (right & exact).astype(jnp.float32)


def sorting_gold(context: Context, batch: Batch, key: Key, *, scale: NonNegative = 12.0) -> Array:
    """Gold judge of sorting: P(y > y') = S(scale (s - s')) of the gold scores s.

    Args:
        context: Not used.
        batch: Prompts of eight letters with answers [B,N,T].
        key: Not used.
        scale: How sure it is: log-odds per unit of the score.

    Returns:
        The preference [B,N,N].
    """
    return bradley_terry(sorting_score(batch), scale)


SORTING = ExactTask(
    title="write eight letters in order",
    kinds=KINDS,
    length=LENGTH,
    max_tokens=LENGTH + 2,
    demonstrate=fn(lazily_sorted),
    solve=fn(in_order),
    gold=fn(sorting_gold),
    annotator=fn(sorting_gold),
    measures=(
        Measure("exact", "exactly sorted", fn(sorted_exactly), 1.0, 40320 / KINDS**LENGTH),
        Measure("score", "gold score", fn(sorting_score), 1.0, 1 - (1 - 1 / KINDS) ** LENGTH),
    ),
)
