"""Runs that ask a function in plain Python: against the same reward of a compiled stage, killed by the function and
resumed, and with another function."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from rich.console import Console

from alignjax import data, roles, stages
from alignjax.asking import RewardError
from alignjax.config import ConfigError, Experiment, Fn, fn
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.types import Algorithm, Batch, Context, Mean, Metrics, Role
from alignjax.workspace import Workspace
from tests.support import toy_run

QUIET = Console(quiet=True)
MOST = 5
CALLS: list[int] = []  # how often a function was asked, by step
FAILS: list[int] = []  # the calls that fail


def brief(completion_ids: Any, trainer_state: Any) -> list[float]:
    CALLS.append(trainer_state.global_step + 1)
    if trainer_state.global_step + 1 in FAILS:
        raise OSError("the judge is gone")
    return [float(len(ids) <= MOST) for ids in completion_ids]


async def briefly(completion_ids: Any) -> list[float]:
    return [float(len(ids) <= MOST) for ids in completion_ids]


def named(completions: Any, color: Any) -> list[float | None]:
    return [None if each is None else float(each in text) for text, each in zip(completions, color, strict=True)]


def colored(completions: Any, colour: Any) -> list[float]:
    return [float(each in text) for text, each in zip(completions, colour, strict=True)]


def pull(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    gap = context.state["policy"]["x"].sum() - batch.need("reward", of="pull")
    return Mean.of(gap**2, batch.completions.get("weight")), {"reward": Mean.of(batch.reward)}  # type: ignore[arg-type]


def start(key: Any) -> Any:
    return {"x": jnp.zeros(3)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[data.Rankings]:
    folder, patch = tmp_path_factory.mktemp("rows"), pytest.MonkeyPatch()
    patch.setenv("ALIGNJAX_CACHE", str(folder / "cache"))
    texts = ["red", "red and blue", "blue, green and red, all of them", "no color"]
    rows = [
        {"prompt": f"row {k}", "completions": [texts[k % 4], texts[k // 2 % 4] + "!", "red."], "scores": [1, 2, 3]}
        | ({"color": "red"} if k % 3 else {})
        for k in range(16)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield data.Rankings(path=str(folder / "rows.jsonl"), vocab_size=300, test_fraction=0.0, keep=("color",))
    patch.undo()


def experiment(dataset: data.Rankings, stage: Fn, **changes: Any) -> Experiment:
    lengths = {"prompt_length": 16, "completion_length": 24}
    source = fn(data.rankings, dataset=dataset, batch_size=4, completions=3, **lengths)
    policy = Role(None, roles.value(start), optimizer=fn(adamw, learning_rate=0.1))
    algorithm = Algorithm({"reward": stage}, {"pull": fn(pull)}, {"policy": policy})
    return Experiment(algorithm, source, **{"steps": 6, "log_every": 1, "checkpoint_every": 2, **changes})


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["pull/reward"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def compiled(dataset: data.Rankings, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[float]]:
    """The run whose reward is a compiled stage: the bits that it ends in, and its rewards."""
    folder = tmp_path_factory.mktemp("compiled")
    stage = fn(stages.constraint_rate, constraints=(fn(stages.length_within, most=MOST),))
    state = train(experiment(dataset, stage), Workspace(folder), console=QUIET)
    return toy_run.state_bytes(state), losses_of(folder)


def test_a_run_ends_in_the_bits_of_the_same_reward_in_a_compiled_stage(
    dataset: data.Rankings, compiled: tuple[dict[str, str], list[float]], tmp_path: Path
) -> None:
    """Asked as a coroutine, one prompt a call, ahead of the update or not; the rewards are neither all 0 nor all 1."""
    assert 0.1 < sum(compiled[1]) / 6 < 0.9
    for overlap in (False, True):
        stage = fn(stages.text_reward, function=briefly, prompts_per_call=1)
        folder = tmp_path / str(overlap)
        state = train(experiment(dataset, stage, overlap=overlap), Workspace(folder), console=QUIET)
        assert toy_run.state_bytes(state) == compiled[0]
        assert losses_of(folder) == compiled[1]


def test_a_function_that_fails_keeps_the_checkpoint_and_is_not_asked_twice(
    dataset: data.Rankings, compiled: tuple[dict[str, str], list[float]], tmp_path: Path
) -> None:
    asking = experiment(dataset, fn(stages.text_reward, function=brief, retries=0))
    CALLS.clear()
    FAILS[:] = [4]
    words = (
        r"brief at step 4, asked about 12 rows, the first with prompt 'row \d+': it raised OSError: the judge is gone "
        r".*The checkpoint of step 2 is kept; --resume takes what was answered already"
    )
    with pytest.raises(RewardError, match=words):
        train(asking, Workspace(tmp_path), console=QUIET)
    FAILS.clear()
    patient = fn(stages.text_reward, function=brief, retries=1, timeout=900.0, concurrency=2)  # which changes no number
    asking = dataclasses.replace(asking, algorithm=experiment(dataset, patient).algorithm)
    state = train(asking, Workspace(tmp_path), resume=True, console=QUIET)
    assert CALLS == [1, 2, 3, 4, 4, 5, 6]  # step 3 was taken again, and its answers were there
    assert toy_run.state_bytes(state) == compiled[0]
    assert losses_of(tmp_path) == compiled[1]
    lines = [json.loads(line) for line in (tmp_path / "answers" / "reward-00000003.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert {line["prompt"][:4] for line in lines} == {"row "}
    other = dataclasses.replace(asking, algorithm=experiment(dataset, fn(stages.text_reward, function=named)).algorithm)
    with pytest.raises(ConfigError, match=r"algorithm.experience.reward.asks\[0\].function: .*brief.* -> .*named"):
        train(other, Workspace(tmp_path), resume=True, console=QUIET)


def test_a_function_asks_for_columns_that_are_kept(dataset: data.Rankings, tmp_path: Path) -> None:
    asking = experiment(dataset, fn(stages.text_reward, function=named), steps=4)
    train(asking, Workspace(tmp_path / "kept"), console=QUIET)
    files = (tmp_path / "kept" / "answers").glob("reward-*.jsonl")
    said = {json.loads(line)["scores"]["named"] for file in files for line in file.read_text().splitlines()}
    assert said == {0.0, 1.0, None}
    bare = dataclasses.replace(dataset, keep=())
    with pytest.raises(
        ConfigError, match=r"named asks for 'color'; .* of rankings the columns none.*keep=\('color',\)"
    ):
        train(experiment(bare, asking.algorithm.experience["reward"]), Workspace(tmp_path / "bare"), console=QUIET)
    whole = experiment(dataclasses.replace(dataset, keep=("*",)), fn(stages.text_reward, function=colored))
    with pytest.raises(ConfigError, match=r"colored asks for 'colour'; .*color.*; call the parameter as the column"):
        train(whole, Workspace(tmp_path / "whole"), console=QUIET)
    games = dataclasses.replace(asking, source=fn(toy_run.rows))
    with pytest.raises(ConfigError, match="the source rows names no data set whose tokenizer could decode"):
        train(games, Workspace(tmp_path / "rows"), console=QUIET)
