"""Experience made one iteration ahead: against the same iterations taken by hand, killed and resumed, and beside an
update where a host stage waits."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from alignjax import losses, stages
from alignjax.cli.device_memory import abstract_mesh, device_bytes, device_memory
from alignjax.config import ConfigError, Experiment, MeshConfig, fn
from alignjax.numerics import strong
from alignjax.parallel.mesh import state_shardings, with_shardings
from alignjax.train.loop import train
from alignjax.train.resolve import resolve
from alignjax.train.state import TrainState, abstract_state, create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Batch
from alignjax.workspace import Workspace
from tests.support import toy_online, toy_run
from tests.support.tiny import standin

QUIET = Console(quiet=True)


class Prompts(toy_online.Prompts):
    @property
    def spec(self) -> Batch:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self[0])


def prompts(workspace: Workspace, seed: int) -> Prompts:
    return Prompts(seed)


def online(**changes: Any) -> Experiment:
    changes = {"checkpoint_every": 4, "source": fn(prompts), **changes}
    return dataclasses.replace(toy_online.experiment(), overlap=True, **changes)


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def by_hand(experiment: Experiment) -> tuple[TrainState, list[Batch]]:
    """Iteration k learns from what state k - 2 sampled (the first: state 0), by the keys of iteration k."""
    algorithm = experiment.algorithm
    experience, update = make_experience(algorithm), make_update(algorithm)
    source = experiment.source(None, experiment.seed)
    states = [create_state(algorithm, experiment.seed, Workspace(Path()))]
    batches = []
    for step in range(experiment.steps):
        older = dataclasses.replace(states[max(step - 1, 0)], step=states[step].step)
        batch, _ = experience(older, jax.tree.map(jnp.asarray, source[step]))
        state, _ = update(strong(states[step]), batch)
        states.append(state)
        batches.append(batch)
    return states[-1], batches


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("straight")
    state = train(online(), Workspace(folder), console=QUIET)
    return folder, toy_run.state_bytes(state)


@pytest.mark.slow
def test_each_iteration_learns_from_a_policy_one_step_older(straight: tuple[Path, dict[str, str]]) -> None:
    folder, final = straight
    state, batches = by_hand(online())
    assert toy_run.state_bytes(state) == final
    sampled = [row["samples"][0]["tokens"] for row in lines(folder, "samples.jsonl")]
    assert sampled == [str(np.asarray(batch.tokens).tolist()) for batch in batches]
    prompt = dataclasses.replace(online(), overlap=False)
    other = train(prompt, Workspace(folder / "prompt"), console=QUIET)
    assert toy_run.state_bytes(other) != final
    first, *_ = lines(folder / "prompt", "samples.jsonl")
    assert first["samples"][0]["tokens"] == sampled[0]


@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.slow
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    straight: tuple[Path, dict[str, str]], tmp_path: Path, at: int
) -> None:
    folder, final = straight
    stop = lambda step, state, values: os.kill(os.getpid(), signal.SIGTERM) if step == at else None  # noqa: E731
    with pytest.raises(SystemExit):
        train(online(), Workspace(tmp_path), console=QUIET, on_step=stop)
    state = train(online(), Workspace(tmp_path), resume=True, console=QUIET)
    assert toy_run.state_bytes(state) == final
    assert lines(tmp_path) == lines(folder)
    assert lines(tmp_path, "samples.jsonl") == lines(folder, "samples.jsonl")
    again = train(online(), Workspace(tmp_path), resume=True, console=QUIET)
    assert toy_run.state_bytes(again) == final


@pytest.mark.slow
def test_a_run_that_is_made_longer_is_the_long_run(straight: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    train(online(steps=3), Workspace(tmp_path), console=QUIET)
    state = train(online(), Workspace(tmp_path), resume=True, console=QUIET)
    assert toy_run.state_bytes(state) == straight[1]


def test_a_host_stage_waits_beside_the_update(tmp_path: Path) -> None:
    """The stage of iteration k + 1 ends only when iteration k has learned, so one after the other they would never
    end; and what it gives is what it gives by hand."""
    learned = {step: threading.Event() for step in range(9)}
    learned[0].set()
    late: list[int] = []

    def waits(context: Any, batch: Batch, key: Any, *, wait: bool) -> Batch:
        step = int(context.step)
        if wait and not learned[step].wait(20):
            late.append(step)
        mean = float(np.asarray(context.state["policy"]["x"]).mean())
        return batch.replace(prompts={**batch.prompts, "target": batch.prompts["target"] * 0.9 + 0.1 * mean})

    def same(batch: Batch) -> Batch:
        return batch

    def of(wait: bool) -> Experiment:
        plain = toy_run.experiment(4, sample=None)
        asked = fn(stages.host, stage=fn(waits, wait=wait), like=same)
        both = Algorithm({"asked": asked, **plain.algorithm.experience}, plain.algorithm.losses, plain.algorithm.roles)
        return dataclasses.replace(plain, algorithm=both, overlap=True)

    def note(step: int, state: Any, values: Any) -> None:
        learned[step].set()

    state = train(of(wait=True), Workspace(tmp_path), console=QUIET, on_step=note)
    assert not late
    expected, _ = by_hand(of(wait=False))
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("cap", [None, 0.5])
def test_importance_weights_make_an_older_policys_samples_right(cap: float | None) -> None:
    """Eight completions that hold every token as often as the older policy draws it, so that their mean is its
    expectation: the gradient is that of the present policy's regularised reward, by automatic differentiation."""
    tokens = jnp.array([0, 1, 2, 2, 3, 3, 3, 3])[None, :, None]
    older = jnp.log(jnp.array([1, 1, 2, 4]) / 8)
    theta, reference = jnp.array([0.3, -0.5, 0.9, 0.1]), jax.nn.log_softmax(jnp.array([0.1, 0.2, -0.4, 0.3]))
    reward = jnp.array([0.2, 1.0, 0.4, -0.3])
    there = jnp.ones(tokens.shape)
    batch = Batch(
        tokens=tokens,
        valid=there > 0,
        mask=there,
        reward=reward[tokens[..., 0]],
        logps={"sampler": older[tokens], "reference": reference[tokens]},
    )
    settings = {"tau": 0.2, "baseline": 0.3} | ({} if cap is None else {"cap": cap})

    def surrogate(theta: Any, behaviour: str | None) -> Any:
        policy = standin(policy=jax.nn.log_softmax(theta)[tokens])
        return losses.reinforce(policy, batch, behaviour=behaviour, **settings)[0].value()

    def objective(theta: Any) -> Any:
        logp = jax.nn.log_softmax(theta)
        return -jnp.sum(jnp.exp(logp) * (reward - 0.2 * (logp - reference)))

    exact = jax.grad(objective)(theta)
    same = np.allclose(jax.grad(surrogate)(theta, "sampler"), exact, atol=1e-6)
    assert same == (cap is None)  # a cap that binds is a bias
    assert not np.allclose(jax.grad(surrogate)(theta, None), exact, atol=1e-2)
    with pytest.raises(ConfigError, match=r"behaviour='samplr'.*Did you mean 'sampler'"):
        surrogate(theta, "samplr")


@pytest.mark.parametrize("hosted", [False, True])
def test_a_dry_run_counts_what_is_held_beside_the_update(hosted: bool) -> None:
    """The next batch, and with a host stage the roles that its thread reads."""

    def same(context: Any, batch: Batch, key: Any) -> Batch:
        return batch

    mesh = abstract_mesh(MeshConfig(fsdp=1), 1)
    plain = toy_run.experiment(4, sample=None)
    stage = {"asked": fn(stages.host, stage=fn(same), like=lambda batch: batch)} if hosted else {}
    both = Algorithm({**stage, **plain.algorithm.experience}, plain.algorithm.losses, plain.algorithm.roles)
    one = dataclasses.replace(plain, algorithm=both)
    two = dataclasses.replace(one, overlap=True)
    apart, beside = (device_memory(resolve(each, Workspace(Path()), mesh)) for each in (one, two))
    shapes = abstract_state(both)
    copied = device_bytes(with_shardings(shapes, state_shardings(both, shapes, mesh)).roles) if hosted else 0
    assert beside.total - apart.total == apart.batch + copied > copied


def test_mistakes_are_named(tmp_path: Path) -> None:
    plain = toy_run.experiment()
    nothing = Algorithm({}, plain.algorithm.losses, plain.algorithm.roles)
    with pytest.raises(ConfigError, match="has no stages"):
        train(dataclasses.replace(plain, algorithm=nothing, overlap=True), Workspace(tmp_path / "a"), console=QUIET)
