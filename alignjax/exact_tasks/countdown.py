"""Countdown: three numbers from 1 to 9 are to be put into an expression with a given value, by a policy that learned
from people who mostly guess. Whether an answer is right can be verified, and finding one is a search.

An answer is number, sign, number, sign, number, each number of the prompt once, read from left to right without
precedence: 2+3*4 is 20. The prompt is the three numbers and the value with two digits, 23420.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import fn
from alignjax.exact_tasks.task import FIRST, ExactTask, Measure, first_letters, prompt_letters, verified_gold
from alignjax.types import Array, Batch, Key

ALPHABET = "0123456789+-*"
SIGNS = FIRST + 10  # the id of the first of three signs
LENGTH, ANSWER = 5, 5
GUESSED = 0.7  # share of the demonstrations that are an expression of the numbers with any value
ORDERS = np.array(list(itertools.permutations(range(3))))  # [6,3]
# Every way to write an expression, [54,5]: order of the numbers, two signs.
WAYS = np.array([(*order, *signs) for order in ORDERS for signs in itertools.product(range(3), repeat=2)])


def _values(numbers: Array) -> Array:
    """The values [54] of all expressions of three numbers [3]."""
    one, two, three = numbers[WAYS[:, :3]].T
    first, second = WAYS[:, 3:].T
    return _apply(_apply(one, first, two), second, three)


def _apply(left: Array, sign: Array, right: Array) -> Array:
    """Sums, differences or products [..] of numbers by sign, 0, 1 or 2."""
    return jnp.where(sign == 0, left + right, jnp.where(sign == 1, left - right, left * right))


def _way(numbers: Array, number: Array) -> Array:
    """The letters [5] of the expression of a number among the 54."""
    way = jnp.asarray(WAYS)[number]
    one, two, three = FIRST + numbers[way[:3]]
    return jnp.stack([one, SIGNS + way[3], two, SIGNS + way[4], three])


def a_countdown(key: Key) -> Array:
    """Draws a prompt [5]: three numbers, and the value of one of their expressions, drawn evenly from those from 0 to
    99.

    Args:
        key: Random key.
    """
    numbers, which = jax.random.split(key)
    three = jax.random.randint(numbers, (3,), 1, 10)
    values = _values(three)
    log_odds = jnp.where((values >= 0) & (values < 100), 0.0, -jnp.inf)  # the sum always is
    value = values[jax.random.categorical(which, log_odds)]
    return FIRST + jnp.concatenate([three, jnp.stack([value // 10, value % 10])])


def _read(prompt: Array) -> tuple[Array, Array]:
    """The numbers [..,3] and the value [..] of prompts [..,5]."""
    digits = prompt - FIRST
    return digits[..., :3], 10 * digits[..., 3] + digits[..., 4]


def found(prompt: Array, key: Key) -> tuple[Array, Array]:
    """A right answer [5], any of them, and its length.

    Args:
        prompt: Three numbers and the value [5].
        key: Random key.
    """
    numbers, value = _read(prompt)
    right = jnp.where(_values(numbers) == value, 0.0, -jnp.inf)
    return _way(numbers, jax.random.categorical(key, right)), jnp.array(ANSWER)


def guessed(prompt: Array, key: Key) -> tuple[Array, Array]:
    """A person finds an expression with the value, or more often writes any expression of the numbers.

    Args:
        prompt: Three numbers and the value [5].
        key: Random key.

    Returns:
        The answer [5], and its length.
    """
    guesses, way, other = jax.random.split(key, 3)
    guess = _way(_read(prompt)[0], jax.random.randint(way, (), 0, len(WAYS)))
    return jnp.where(jax.random.bernoulli(guesses, GUESSED), guess, found(prompt, other)[0]), jnp.array(ANSWER)


def right_expression(batch: Batch) -> Array:
    """Verifier of countdown: says which answers [B,N] are an expression of the three numbers that has the value, as 0
    or 1.

    A policy that does not read the prompt is right with probability 0.0022 at best.

    Args:
        batch: Prompts of three numbers and a value with answers [B,N,T].
    """
    numbers, value = _read(prompt_letters(batch, LENGTH))
    tokens, exact = first_letters(batch, ANSWER)
    written, signs = tokens[..., ::2] - FIRST, tokens[..., 1::2] - SIGNS
    same = jnp.all(jnp.sort(written, axis=-1) == jnp.sort(numbers, axis=-1)[:, None], axis=-1)
    signed = jnp.all((signs >= 0) & (signs < 3), axis=-1)
    partial = _apply(written[..., 0], signs[..., 0], written[..., 1])
    result = _apply(partial, signs[..., 1], written[..., 2])
    return (exact & same & signed & (result == value[:, None])).astype(jnp.float32)


COUNTDOWN = ExactTask(
    title="write an expression of three numbers that has a given value",
    kinds=len(ALPHABET),
    length=LENGTH,
    max_tokens=ANSWER + 2,
    demonstrate=fn(guessed),
    solve=fn(found),
    gold=fn(verified_gold, function=fn(right_expression)),
    annotator=fn(verified_gold, function=fn(right_expression)),
    measures=(Measure("exact", "right", fn(right_expression), 1.0, 0.0022),),
    alphabet=ALPHABET,
    ask=fn(a_countdown),
)
