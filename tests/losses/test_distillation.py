"""Distillation by enumeration: on completions few enough to write down, the expected gradient of each form is that of
the divergence which it says, and not that of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.models import TransformerConfig, transformer
from alignjax.train.optimizers import sgd
from alignjax.types import Array, Batch, Role
from tests.losses.test_enumeration import EVERY, LETTERS, NETWORK, init, pairs, sequence_logps
from tests.support.tiny import context_of

BETA = 0.3
FORMS = {"forward": {}, "reverse": {}, "jensen_shannon": {"beta": BETA}}


@pytest.fixture
def models(float64: None) -> tuple[Any, Any]:
    """Params of a student and of a teacher."""
    return init(jax.random.key(0)), init(jax.random.key(1))


def batch() -> Batch:
    """Every completion once; the second of its row stays out."""
    made = pairs([(number, number) for number in range(len(EVERY))])
    return made.replace(mask=made.mask.at[:, 1].set(0))


def tables(params: Any) -> Array:
    """Log-probs of each next token after each prefix, [1 + letters, V]: the empty one and those of one letter."""
    made = pairs([(number, number) for number in range(len(EVERY))])

    def read(outputs: Any, token: Array) -> dict[str, Array]:
        (logits,) = outputs.values()
        return {str(letter): jax.nn.log_softmax(logits)[..., letter] for letter in range(LETTERS)}

    seen = context_of(NETWORK, policy=params).score("policy", made, read)
    table = jnp.stack([seen[str(letter)][:, 0] for letter in range(LETTERS)], axis=-1)
    firsts = [EVERY.index((letter, 0)) for letter in range(1, LETTERS)]
    return jnp.stack([table[0, 0], *[table[number, 1] for number in firsts]])


def expected(loss: Any, student: Any, teacher: Any, drawn_by: Any, tokens: bool, **values: Any) -> tuple[float, Any]:
    """The mean of a loss over completions that `drawn_by` draws, summed over tokens, and its gradient."""
    weight = jax.lax.stop_gradient(jnp.exp(sequence_logps(drawn_by)))

    def objective(params: Any) -> Array:
        here = batch()
        if tokens:  # a mean over tokens becomes a sum over them
            here = here.replace(mask=here.mask * weight[:, None, None])
        else:
            here = here.replace(completions={"weight": jnp.stack([weight, jnp.zeros_like(weight)], axis=1)})
        mean, _ = loss(context_of(NETWORK, policy=params, teacher=teacher), here, **values)
        return mean.total

    return jax.jit(jax.value_and_grad(objective))(student)


def assert_same(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), one, other)


def differ(one: Any, other: Any) -> float:
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def sequence_kl(p: Callable[[Any], Any], q: Callable[[Any], Any], student: Any) -> Any:
    def objective(params: Any) -> Array:
        first, second = sequence_logps(p(params)), sequence_logps(q(params))
        return jnp.sum(jnp.exp(first) * (first - second))

    return jax.value_and_grad(objective)(student)


def by_plain_sums(form: str, p: Array, q: Array) -> Array:
    """The divergence of two distributions, from its definition as a mean of log-ratios under a mixture."""
    middle = BETA * q + (1 - BETA) * p
    return {
        "forward": jnp.sum(q * jnp.log(q / p)), "reverse": jnp.sum(p * jnp.log(p / q)),
        # entropy of the mixture less the mean of the entropies
        "jensen_shannon": jnp.sum(BETA * q * jnp.log(q) + (1 - BETA) * p * jnp.log(p) - middle * jnp.log(middle)),
    }[form]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_gkd_on_own_samples_is_the_divergence_at_fixed_prefixes(form: str, models: tuple[Any, Any]) -> None:
    student, teacher = models
    value, gradient = expected(losses.gkd, student, teacher, student, True, divergence=form, **FORMS[form])
    probability = jnp.exp(tables(student)[0])
    reached = jax.lax.stop_gradient(jnp.concatenate([jnp.ones(1), probability[1:]]))
    taught = jnp.exp(tables(teacher))

    def meant(params: Any) -> Array:
        own = jnp.exp(tables(params))
        return sum(reached[k] * by_plain_sums(form, own[k], taught[k]) for k in range(LETTERS))

    exact_value, exact = jax.value_and_grad(meant)(student)
    assert value == pytest.approx(float(exact_value), rel=1e-10)
    assert_same(gradient, exact)


def test_forward_on_samples_of_the_teacher_is_the_sequence_kl(models: tuple[Any, Any]) -> None:
    student, teacher = models
    made = expected(losses.gkd, student, teacher, teacher, True, divergence="forward")
    value, gradient = sequence_kl(lambda _: teacher, lambda params: params, student)
    assert float(made[0]) == pytest.approx(float(value), rel=1e-10)
    assert_same(made[1], gradient)


def test_minillm_is_the_sequence_kl_and_gkd_is_not(models: tuple[Any, Any]) -> None:
    student, teacher = models
    _, gradient = sequence_kl(lambda params: params, lambda _: teacher, student)
    assert_same(expected(losses.minillm, student, teacher, student, False)[1], gradient)
    partial = expected(losses.gkd, student, teacher, student, True, divergence="reverse")[1]
    assert differ(partial, gradient) > 0.01


def test_jensen_shannon_tends_to_both(models: tuple[Any, Any]) -> None:
    student, teacher = models

    def value(form: str, **values: Any) -> float:
        return float(expected(losses.gkd, student, teacher, student, True, divergence=form, **values)[0])

    assert value("jensen_shannon", beta=1e-5) / 1e-5 == pytest.approx(value("forward"), rel=1e-3)
    assert value("jensen_shannon", beta=1 - 1e-5) / 1e-5 == pytest.approx(value("reverse"), rel=1e-3)


def test_a_copy_has_nothing_to_learn(models: tuple[Any, Any]) -> None:
    student, _ = models
    for loss, tokens in ((losses.gkd, True), (losses.minillm, False)):
        value, gradient = expected(loss, student, student, student, tokens)
        assert abs(float(value)) < 1e-12
        assert differ(gradient, jax.tree.map(jnp.zeros_like, gradient)) < 1e-12


def test_a_teacher_that_is_trained_is_refused() -> None:
    context = context_of(NETWORK, policy=init(jax.random.key(0)))
    roles = {"policy": context.roles["policy"], "teacher": Role(NETWORK, None, fn(sgd, learning_rate=1.0))}
    for loss in (losses.gkd, losses.minillm):
        with pytest.raises(ConfigError, match="'teacher' is trained"):
            loss(dataclasses.replace(context, roles=roles), batch())


def test_a_teacher_of_another_vocabulary_is_refused() -> None:
    small, large = (transformer(TransformerConfig(vocab=size, width=8, layers=1, heads=2)) for size in (11, 13))
    context = context_of(small, policy=small.init(jax.random.key(0)))
    roles = {"policy": context.roles["policy"], "teacher": Role(large, None)}
    for loss in (losses.gkd, losses.minillm):
        with pytest.raises(ConfigError, match="'policy' has 11 tokens and role 'teacher' has 13"):
            loss(dataclasses.replace(context, roles=roles), batch())
