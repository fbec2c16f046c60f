"""Arithmetic: sums and differences of numbers of one to four digits, by a policy that learned from people who mostly
forget to carry. Whether an answer is right can be verified.

Numbers are written from the ones on, as one adds them, with zeros behind: 47 + 85 = 132 is 7400+5800 and 23100. How
many digits the numbers of a prompt may have, its grade, is drawn first, so that easy prompts are as common as hard
ones.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from alignjax.config import fn
from alignjax.exact_tasks.task import FIRST, ExactTask, Measure, first_letters, prompt_letters, slipped, verified_gold
from alignjax.types import Array, Batch, Key

ALPHABET = "0123456789+-"
DIGITS = 4  # of a number at most
LENGTH = 2 * DIGITS + 1
PLUS, MINUS = FIRST + 10, FIRST + 11
FORGOTTEN = 0.8  # probability that a person forgets to carry, in each column where there is something to carry
SLIP = 0.1  # probability that one digit of a demonstration is another one


def _digits(number: Array, count: int) -> Array:
    """The digits [..,count] of numbers, as letters, from the ones on."""
    return FIRST + jnp.stack([number // 10**place % 10 for place in range(count)], axis=-1)


def _numbers(prompt: Array) -> tuple[Array, Array, Array]:
    """The digits of both numbers [..,4] and the sign [..], 1 or -1, of prompts [..,9]."""
    first, second = prompt[..., :DIGITS] - FIRST, prompt[..., DIGITS + 1 :] - FIRST
    return first, second, jnp.where(prompt[..., DIGITS] == PLUS, 1, -1)


def a_sum(key: Key) -> Array:
    """Draws a prompt [9]: a grade of 1 to 4 digits, two numbers of so many digits at most, plus or minus; of a
    difference the larger number stands first.

    Args:
        key: Random key.
    """
    grade, numbers, sign = jax.random.split(key, 3)
    most = 10 ** jax.random.randint(grade, (), 1, DIGITS + 1)
    first, second = jax.random.randint(numbers, (2,), 0, most)
    plus = jax.random.bernoulli(sign)
    larger, smaller = jnp.maximum(first, second), jnp.minimum(first, second)
    texts = (_digits(jnp.where(plus, first, larger), DIGITS), _digits(jnp.where(plus, second, smaller), DIGITS))
    return jnp.concatenate([texts[0], jnp.where(plus, PLUS, MINUS)[None], texts[1]])


def grade(batch: Batch) -> Array:
    """Counts the digits [B] of the larger number of every prompt, 1 to 4.

    Args:
        batch: Prompts of two numbers.
    """
    first, second, _ = _numbers(prompt_letters(batch, LENGTH))
    used = (first > 0) | (second > 0)
    return jnp.maximum(1, jnp.max(used * jnp.arange(1, DIGITS + 1)[None], axis=-1))


def _added(prompt: Array, carried: Array) -> Array:
    """The answer [5] to a prompt [9], written column by column: where `carried` [4] is not true, what should be carried
    out of a column is lost."""
    first, second, sign = _numbers(prompt)

    def column(carry: Array, parts: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        one, other, kept = parts
        total = one + sign * (other + carry)
        over = (total > 9) | (total < 0)
        return (over & kept).astype(jnp.int32), total % 10

    last, digits = jax.lax.scan(column, jnp.int32(0), (first, second, carried))
    return FIRST + jnp.append(digits, last)


def forgetful(prompt: Array, key: Key) -> tuple[Array, Array]:
    """A person adds or subtracts column by column, forgets most carries, and may slip once.

    Args:
        prompt: Two numbers with a sign between them [9].
        key: Random key.

    Returns:
        The answer [5], and its length.
    """
    carry, slip, place, digit = jax.random.split(key, 4)
    text = _added(prompt, jax.random.bernoulli(carry, 1 - FORGOTTEN, (DIGITS,)))
    return slipped(text, SLIP, 10, (slip, place, digit)), jnp.array(DIGITS + 1)


def calculated(prompt: Array, key: Key) -> tuple[Array, Array]:
    """The right answer [5], and its length.

    Args:
        prompt: Two numbers with a sign between them [9].
        key: Not used.
    """
    return _added(prompt, jnp.ones(DIGITS, bool)), jnp.array(DIGITS + 1)


def right_result(batch: Batch) -> Array:
    """Verifier of arithmetic: says which answers [B,N] are the sum or difference and nothing else, as 0 or 1.

    The number is computed as a number, not column by column. A policy that does not read the prompt is right with
    probability (1/10 + 1/100 + 1/1000 + 1/10000) / 4 = 0.0278 at best, by always writing 1.

    Args:
        batch: Prompts of two numbers with answers [B,N,T].
    """
    return _are_right(batch, *first_letters(batch, DIGITS + 1))


def _are_right(batch: Batch, results: Array, exact: Array) -> Array:
    """1 where results [B,N,5] are right and what was written is `exact` [B,N], else 0."""
    first, second, sign = _numbers(prompt_letters(batch, LENGTH))
    value = (first + sign[..., None] * second) @ (10 ** jnp.arange(DIGITS))
    return (exact & jnp.all(results == _digits(value, DIGITS + 1)[:, None], axis=-1)).astype(jnp.float32)


ARITHMETIC = ExactTask(
    title="add or subtract numbers of up to four digits",
    kinds=len(ALPHABET),
    length=LENGTH,
    max_tokens=DIGITS + 3,
    demonstrate=fn(forgetful),
    solve=fn(calculated),
    gold=fn(verified_gold, function=fn(right_result)),
    annotator=fn(verified_gold, function=fn(right_result)),
    measures=(Measure("exact", "right", fn(right_result), 1.0, 0.1111 / 4),),
    alphabet=ALPHABET,
    ask=fn(a_sum),
)


# The same with a second look: ten digits, a draft and then the answer, which alone decides.
COPIED = 0.5  # share of the demonstrations whose answer is the draft


def looked_over(prompt: Array, key: Key) -> tuple[Array, Array]:
    """A person writes a draft, and then the same again or another attempt.

    Args:
        prompt: Two numbers with a sign between them [9].
        key: Random key.

    Returns:
        Draft and answer [10], and their length.
    """
    first, second, copied = jax.random.split(key, 3)
    draft, other = forgetful(prompt, first)[0], forgetful(prompt, second)[0]
    answer = jnp.where(jax.random.bernoulli(copied, COPIED), draft, other)
    return jnp.concatenate([draft, answer]), jnp.array(2 * (DIGITS + 1))


def calculated_twice(prompt: Array, key: Key) -> tuple[Array, Array]:
    """The right answer twice [10], and its length.

    Args:
        prompt: Two numbers with a sign between them [9].
        key: Not used.
    """
    text = calculated(prompt, key)[0]
    return jnp.concatenate([text, text]), jnp.array(2 * (DIGITS + 1))


def wrong_draft(prompt: Array, key: Key) -> Array:
    """A draft [5] that is wrong: the right one with one digit changed.

    Args:
        prompt: A prompt that ends with two numbers and their sign [P].
        key: Random key.
    """
    place, shift = jax.random.split(key)
    spot = jax.random.randint(place, (), 0, DIGITS + 1)
    text = calculated(prompt[-LENGTH:], key)[0]
    return text.at[spot].set(FIRST + (text[spot] - FIRST + jax.random.randint(shift, (), 1, 10)) % 10)


def right_at_last(batch: Batch) -> Array:
    """Verifier of arithmetic with a draft: says which answers [B,N] are ten digits, the last five right, as 0 or 1.

    Args:
        batch: Prompts of two numbers with answers [B,N,T].
    """
    tokens, exact = first_letters(batch, 2 * (DIGITS + 1))
    return _are_right(batch, tokens[..., DIGITS + 1 :], exact)


SECOND_LOOK = dataclasses.replace(
    ARITHMETIC,
    title="add or subtract numbers of up to four digits, by a draft and an answer",
    max_tokens=2 * (DIGITS + 1) + 2,
    demonstrate=fn(looked_over),
    solve=fn(calculated_twice),
    gold=fn(verified_gold, function=fn(right_at_last)),
    annotator=fn(verified_gold, function=fn(right_at_last)),
    measures=(Measure("exact", "right", fn(right_at_last), 1.0, 0.1111 / 4),),
)
