"""fn: what it accepts, what it refuses and says, and how it goes through jax."""

from __future__ import annotations

from typing import Literal, Optional

import jax
import jax.numpy as jnp
import pytest

from alignjax.config import ConfigError, Experiment, Fn, Pipeline, fn, hyperparameters, nearest
from alignjax.types import Algorithm


def inner(*, rate: float = 0.5):
    return rate


def loss(
    context,
    batch,
    *,
    tau: float,
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
    reference: str | None = "reference",
    clip: float | None = None,
    count: int = 1,
    kind: Literal["hard", "soft"] = "soft",
    old: Optional[float] = None,  # noqa: UP045  # the other spelling of a union must be read too
    on: bool = False,
    schedule: float | Fn = 1.0,
    free=None,
):
    return tau


def test_defaults_are_written_out():
    made = fn(loss, tau=0.1)
    assert made.kwargs["reference"] == "reference"
    assert set(made.kwargs) == set(hyperparameters(loss))
    assert made(None, None) == 0.1


def test_misspelt_hyperparameter_names_the_nearest():
    with pytest.raises(ConfigError, match=r"loss has no hyper-parameter 'taau'.*'tau'"):
        fn(loss, taau=0.1)


def test_missing_hyperparameter_says_what_to_write():
    with pytest.raises(ConfigError, match=r"loss needs tau: write fn\(loss, tau=\.\.\.\)"):
        fn(loss)


def test_positional_parameters_are_not_hyperparameters():
    with pytest.raises(ConfigError, match="no hyper-parameter 'batch'"):
        fn(loss, tau=0.1, batch=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": "0.1"},
        {"tau": None},
        {"tau": True},
        {"tau": {"a": 1}},
        {"count": 1.5},
        {"count": True},
        {"reference": 3},
        {"clip": "none"},
        {"clip": {"a": 1}},
        {"kind": "sfot"},
        {"old": "x"},
        {"on": 1},
        {"on": "yes"},
    ],
    ids=str,
)
def test_wrong_type_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"loss\.{name} is "):
        fn(loss, **{"tau": 0.1, **wrong})


@pytest.mark.parametrize(
    "right",
    [{"clip": None}, {"clip": 0.2}, {"reference": None}, {"kind": "hard"}, {"old": 2.0}, {"on": True}, {"free": "any"}],
    ids=str,
)
def test_right_type_is_kept(right):
    ((name, value),) = right.items()
    assert fn(loss, **{"tau": 0.1, **right}).kwargs[name] == value


@pytest.mark.parametrize("name", ["tau", "clip", "old", "schedule"])
def test_an_int_is_taken_for_a_float(name):
    value = fn(loss, **{"tau": 0.1, name: 2}).kwargs[name]
    assert value == 2.0
    assert type(value) is float


def test_lists_become_tuples_and_unhashable_values_are_refused():
    assert fn(loss, tau=0.1, free=[1, 2]).kwargs["free"] == (1, 2)
    with pytest.raises(ConfigError, match="cannot be hashed"):
        fn(loss, tau=0.1, free={"a": 1})


def test_frozen_and_replaced_with_checks():
    made = fn(loss, tau=0.1)
    with pytest.raises(AttributeError, match="frozen"):
        made.tau = 0.2
    assert made.replace(tau=0.2) == fn(loss, tau=0.2)
    assert made.replace(tau=0.2) != made
    with pytest.raises(ConfigError):
        made.replace(tua=0.2)


def test_float_hyperparameters_are_leaves_and_the_rest_is_static():
    made = fn(loss, tau=0.1, schedule=fn(inner, rate=0.25))
    assert sorted(jax.tree.leaves(made)) == [0.1, 0.25]
    again = jax.tree.map(lambda leaf: leaf, made)
    assert again == made
    assert hash(again) == hash(made)


def test_a_sweep_over_floats_compiles_once():
    traces = []

    @jax.jit
    def run(algorithm):
        traces.append(1)
        return algorithm.losses["loss"](None, None) * 2

    def algorithm(tau: float, count: int = 1) -> Algorithm:
        return Algorithm(losses=[fn(loss, tau=tau, count=count)])

    assert [float(run(algorithm(tau))) for tau in (0.25, 0.5, 4)] == [0.5, 1.0, 8.0]
    assert len(traces) == 1
    run(algorithm(0.25, count=2))  # an int is static: another program
    assert len(traces) == 2


def test_vmap_over_a_hyperparameter():
    taus = jnp.array([0.1, 0.2])
    grid = jax.vmap(lambda tau: fn(loss, tau=tau)(None, None) + 1)(taus)
    assert jnp.allclose(grid, taus + 1)


def test_nearest_suggests_or_lists():
    assert nearest("tua", ["tau", "beta"]) == " Did you mean 'tau'?"
    assert nearest("zzzzz", ["tau", "beta"]) == " Known: beta, tau."
    assert nearest("x", []) == " Known: none."


@pytest.mark.parametrize("field", ["steps", "log_every", "checkpoint_every", "keep", "sample_every"])
def test_experiment_refuses_counts_below_one(field):
    with pytest.raises(ConfigError, match=rf"Experiment\.{field} is 0"):
        Experiment(**{"algorithm": None, "source": fn(inner), "steps": 1, field: 0})


def test_pipeline_needs_a_step():
    with pytest.raises(ConfigError, match="at least one step"):
        Pipeline({})
