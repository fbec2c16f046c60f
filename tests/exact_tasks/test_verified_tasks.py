"""Arithmetic and countdown: prompts, answers and verifiers against Python's own arithmetic."""

from __future__ import annotations

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import exact_tasks
from alignjax.config import ConfigError, fn
from alignjax.data import beside
from alignjax.exact_tasks import arithmetic
from alignjax.types import Context

TASKS = {"arithmetic": exact_tasks.ARITHMETIC, "countdown": exact_tasks.COUNTDOWN}


def drawn(task, rows=512):
    """Prompts with a right answer and a demonstration, as one batch."""
    dataset = exact_tasks.Letters(vocab_size=task.kinds + 4, alphabet=task.alphabet)
    source = exact_tasks.revised_letters(
        None, 0, dataset=dataset, batch_size=rows, length=task.length, max_tokens=task.max_tokens,
        demonstrate=task.demonstrate, solve=task.solve, ask=task.ask,
    )  # fmt: skip
    return source[1]


def written(task, tokens):
    """The text of tokens, up to the end; "!" is a token that is no letter."""
    text = "".join(task.alphabet[token - 4] if token >= 4 else "." if token == 2 else "!" for token in tokens)
    return text.partition(".")[0] if "." in text else "!"


def is_sum(prompt, answer):
    one, two = int(prompt[3::-1]), int(prompt[:4:-1])
    return answer.isdigit() and len(answer) == 5 and int(answer[::-1]) == (one + two if prompt[4] == "+" else one - two)


def is_expression(prompt, answer):
    if len(answer) != 5 or sorted(answer[::2]) != sorted(prompt[:3]) or not set(answer[1::2]) <= set("+-*"):
        return False
    return eval(f"({answer[:3]}){answer[3:]}") == int(prompt[3:])


@pytest.mark.parametrize(("name", "right"), [("arithmetic", is_sum), ("countdown", is_expression)])
def test_verifiers_are_python_s_arithmetic(name, right):
    """On right answers, demonstrations, and both with a token changed, or cut off before their end."""
    task = TASKS[name]
    batch = drawn(task)
    draw = np.random.default_rng(0)
    changed = batch.tokens.copy()
    place = draw.integers(0, 5, changed.shape[:2])[..., None]
    np.put_along_axis(changed, place, draw.integers(1, 4 + task.kinds, place.shape), -1)
    tokens = np.concatenate([batch.tokens, changed, batch.tokens], 1)
    valid = np.concatenate([batch.valid] * 3, 1)
    valid[:, 4:] &= np.arange(task.max_tokens) < 5
    found = exact_tasks.exact_reward(
        Context(), batch.replace(tokens=jnp.asarray(tokens), valid=jnp.asarray(valid),
                                 completions={"weight": jnp.zeros(valid.shape[:2])}),
        jax.random.key(0), function=task.measures[0].function,
    )[0]  # fmt: skip
    assert "weight" not in found.completions, "that of another reward, which knew nothing"
    found = found.reward
    prompts = [written(task, [*row[1:], 2]) for row in batch.prompt]
    expected = [
        [right(prompt, written(task, text[mask])) for text, mask in zip(row, some, strict=True)]
        for prompt, row, some in zip(prompts, tokens, valid, strict=True)
    ]
    np.testing.assert_array_equal(np.asarray(found) == 1, expected)
    share = np.asarray(found).mean(0)
    assert share[0] == 1
    assert 0.1 < share[1] < 0.5, "people are right now and then"
    assert 0 < share[2] < 0.3
    assert share[4:].max() == 0


def test_grades_come_equally_often_and_are_read_from_the_prompt():
    batch = drawn(exact_tasks.ARITHMETIC, 4096)
    found = np.asarray(arithmetic.grade(batch))
    prompts = [written(exact_tasks.ARITHMETIC, [*row[1:], 2]) for row in batch.prompt]
    assert found.tolist() == [len(str(max(int(text[3::-1]), int(text[:4:-1])))) for text in prompts]
    shares = np.bincount(found, minlength=5)[1:] / len(found)
    assert abs(shares - 0.25).max() < 0.03
    assert all(text[4] == "+" or int(text[3::-1]) >= int(text[:4:-1]) for text in prompts)


def test_people_carry_as_seldom_as_they_are_said_to():
    """9999 + 1 needs four carries; each is remembered one time in five if the one before it was."""
    prompt = jnp.array([9, 9, 9, 9, 10, 1, 0, 0, 0]) + 4
    keys = jax.random.split(jax.random.key(0), 4000)
    texts = np.asarray(jax.jit(jax.vmap(arithmetic.forgetful, (None, 0)))(prompt, keys)[0]) - 4
    share = np.mean((texts == [0, 9, 9, 9, 0]).all(1))
    assert abs(share - 0.8 * (1 - arithmetic.SLIP * 0.9)) < 0.03


def test_nobody_who_does_not_read_the_prompt_is_right_more_often_than_at_chance():
    """By enumeration: of sums the answer 1 at every grade; of expressions the best text over all prompts."""
    sums = Counter()
    for digits in (1, 2):
        every = itertools.product(range(10**digits), repeat=2)
        odds = Counter(value for a, b in every for value in (a + b, abs(a - b)))
        sums.update({value: count / (2 * 100**digits) / 4 for value, count in odds.items()})
    # Of grades of 3 and 4 digits 1 is the most likely too, with 10^-digits, as of 1 and 2.
    assert max(sums, key=sums.__getitem__) == 1
    assert sums[1] + (1e-3 + 1e-4) / 4 == pytest.approx(exact_tasks.ARITHMETIC.measures[0].chance)
    hits: Counter[str] = Counter()
    for numbers in itertools.product(range(1, 10), repeat=3):
        texts = [
            f"{a}{s}{b}{t}{c}"
            for a, b, c in itertools.permutations(numbers)
            for s, t in itertools.product("+-*", repeat=2)
        ]
        values = [eval(f"({text[:3]}){text[3:]}") for text in texts]
        odds = Counter(value for value in values if 0 <= value < 100)
        for text, value in dict(zip(texts, values, strict=True)).items():
            hits[text] += odds[value] / odds.total() / 729
    assert max(hits.values()) == pytest.approx(exact_tasks.COUNTDOWN.measures[0].chance, abs=5e-5)


def test_demonstrations_stand_beside_prompts():
    task = exact_tasks.COUNTDOWN
    dataset = exact_tasks.Letters(vocab_size=task.kinds + 4, alphabet=task.alphabet)
    source = fn(exact_tasks.letters, dataset=dataset, batch_size=3, length=task.length, ask=task.ask)
    texts = source.replace(batch_size=5, max_tokens=7, demonstrate=task.demonstrate, split="texts")
    both = beside(None, 4, source=source, stream=texts, view="more")
    for step in (0, 3):
        alone, other = source(None, 4)[step], texts(None, 4)[step]
        np.testing.assert_array_equal(both[step].prompt, alone.prompt)
        np.testing.assert_array_equal(both[step].views["more"].tokens, other.tokens)
    assert jax.tree.map(jnp.shape, both.spec) == jax.tree.map(jnp.shape, both[1])


def test_an_alphabet_has_every_letter_once():
    with pytest.raises(ConfigError, match="once"):
        exact_tasks.Letters(vocab_size=6, alphabet="aab")
    with pytest.raises(ConfigError, match="from 5 to 7"):
        exact_tasks.Letters(vocab_size=8, alphabet="abc")
    task = exact_tasks.ARITHMETIC
    assert fn(exact_tasks.exact_reward, function=task.measures[0].function).name == "exact_reward"
