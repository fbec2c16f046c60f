"""Stages made of stages, and stages in plain Python on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import roles, stages
from alignjax.config import ConfigError, fn
from alignjax.train.state import create_state
from alignjax.train.step import abstract_experience, make_experience
from alignjax.types import Algorithm, Batch, Context, Key, Mean, Metrics, Role
from alignjax.workspace import Workspace


def noise(context: Context, batch: Batch, key: Key, *, name: str = "noise") -> Batch:
    assert batch.prompt is not None
    return batch.replace(prompts={**batch.prompts, name: jax.random.uniform(key, batch.prompt.shape[:1])})


def doubled(context: Context, batch: Batch, key: Key) -> Batch:
    return batch.replace(prompts={**batch.prompts, "double": 2 * batch.prompts["noise"]})


BATCH = Batch(prompt=jnp.zeros((4, 2), jnp.int32))
KEY = jax.random.key(0)


def test_chain_runs_in_order_with_a_key_each() -> None:
    first, second = fn(noise), fn(noise, name="other")
    out, _ = stages.chain(Context(), BATCH, KEY, stages=(first, fn(doubled), second))
    np.testing.assert_array_equal(out.prompts["double"], 2 * out.prompts["noise"])
    assert np.all(out.prompts["noise"] != out.prompts["other"])
    # A stage put in front of others leaves their keys alone.
    shorter, _ = stages.chain(Context(), BATCH, KEY, stages=(first, second))
    np.testing.assert_array_equal(shorter.prompts["other"], out.prompts["other"])


def counted(context: Context, batch: Batch, key: Key, *, count: float) -> tuple[Batch, Metrics]:
    return batch, {"count": Mean.of(jnp.full(4, count))}


def test_what_wraps_stages_passes_their_metrics_on() -> None:
    """Under their names where several could have the same; a host stage's are declared, recorded and replayed."""
    inner = fn(stages.chain, stages=(fn(counted, count=2.0), fn(noise), fn(counted, count=3.0)))
    _, metrics = stages.in_view("explore", inner)(Context(), BATCH.replace(views={"explore": BATCH}), KEY)
    assert {name: float(mean.value()) for name, mean in metrics.items()} == {"counted/count": 2, "counted_2/count": 3}


def test_a_host_stage_has_metrics_if_it_declares_them(tmp_path: Path) -> None:
    calls = []

    def judged(context: Context, batch: Batch, key: Key) -> tuple[Batch, Metrics]:
        calls.append(key)
        return like(batch), {"seconds": Mean(np.float32(3), np.float32(2))}

    def declared(batch: Batch) -> tuple[Batch, Metrics]:
        return like(batch), {"seconds": Mean(jnp.zeros(()), jnp.zeros(()))}

    asked = fn(stages.host, stage=judged, like=declared)
    made = Algorithm({"noise": fn(noise), "ask": asked, "half": fn(halved)}, roles=algorithm(judged).roles)
    state = create_state(made, 0, Workspace(tmp_path))
    for _ in range(2):
        batch, metrics = make_experience(made, tmp_path / "answers")(state, BATCH)
        np.testing.assert_array_equal(batch.prompts["half"], batch.prompts["noise"] / 2)
        assert {name: float(value) for name, value in metrics.items()} == {"ask/seconds": 1.5}
    assert len(calls) == 1
    shapes = abstract_experience(made, state, BATCH)[1]
    assert {name: leaf.shape for name, leaf in shapes.items()} == {"ask/seconds": ()}


def test_in_view_works_on_the_view_alone() -> None:
    viewed = BATCH.replace(views={"explore": Batch(prompt=jnp.zeros((3, 2), jnp.int32))})
    out, _ = stages.in_view("explore", noise)(Context(), viewed, KEY)
    assert out.prompts == {}
    assert out.views["explore"].prompts["noise"].shape == (3,)
    with pytest.raises(ConfigError, match=r"no view 'exlpore'\. Did you mean 'explore'"):
        stages.in_view("exlpore", noise)(Context(), viewed, KEY)


class Counted:
    """A host judge that counts how often it is asked and answers with NumPy."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, context: Context, batch: Batch, key: Key) -> Batch:
        assert isinstance(batch.prompts["noise"], np.ndarray)
        self.asked += 1
        return batch.replace(prompts={**batch.prompts, "answer": batch.prompts["noise"] + self.asked})


def like(batch: Batch) -> Batch:
    return batch.replace(prompts={**batch.prompts, "answer": batch.prompts["noise"]})


def halved(context: Context, batch: Batch, key: Key) -> Batch:
    return batch.replace(prompts={**batch.prompts, "half": batch.prompts["answer"] / 2})


def algorithm(judge: Any) -> Algorithm:
    experience = {"noise": fn(noise), "ask": fn(stages.host, stage=judge, like=like), "half": fn(halved)}
    return Algorithm(experience, roles={"policy": Role(None, roles.value(lambda key: jnp.zeros(2)))})


def test_host_answers_are_recorded_and_replayed(tmp_path: Path) -> None:
    judge = Counted()
    state = create_state(algorithm(judge), 0, Workspace(tmp_path))
    experience = make_experience(algorithm(judge), tmp_path / "answers")
    first, _ = experience(state, BATCH)
    assert judge.asked == 1
    np.testing.assert_array_equal(first.prompts["half"], (np.asarray(first.prompts["noise"]) + 1) / 2)
    again, _ = make_experience(algorithm(judge), tmp_path / "answers")(state, BATCH)
    assert judge.asked == 1  # not asked twice
    np.testing.assert_array_equal(again.prompts["half"], first.prompts["half"])
    # Another question, or another folder, is asked anew.
    experience(state, BATCH.replace(prompt=BATCH.prompt + 1))
    assert judge.asked == 2
    make_experience(algorithm(judge))(state, BATCH)
    assert judge.asked == 3


def test_host_answers_of_another_shape_are_refused(tmp_path: Path) -> None:
    def careless(context: Context, batch: Batch, key: Key) -> Batch:
        return batch.replace(prompts={**batch.prompts, "answer": np.zeros((4, 2))})

    state = create_state(algorithm(careless), 0, Workspace(tmp_path))
    with pytest.raises(ValueError, match=r"answer.*\(4, 2\), 'float64'\), declared \(\(4,\), 'float32'\)"):
        make_experience(algorithm(careless))(state, BATCH)
