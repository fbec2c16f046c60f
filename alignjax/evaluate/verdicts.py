"""What judges say of a tournament's answers, what each judge is worth, and what it shares with the one that the players
were trained against."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import scoring, stages
from alignjax.config import ConfigError, Fn
from alignjax.evaluate.intervals import Interval, interval
from alignjax.pair_layout import HEADS, all_pairs
from alignjax.stages.text_functions import text_function
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.train.pipeline import Done
from alignjax.train.run_record import config_json
from alignjax.train.text_host import TextHost, judges_host
from alignjax.types import Array, Batch, Context, Model, Params, with_metrics
from alignjax.workspace import Workspace, read_record

Judged = Callable[[Batch], Array]  # preference [B,N,N] of all completions of a batch
Judgements = Mapping[tuple[str, str], np.ndarray]  # P(a beats b) on every prompt
LABELS = {"held_out": "held-out judge", "training": "training judge"}
TIE = 1e-6  # how near to 1/2 a judgment is a tie


@functools.partial(jax.jit, static_argnames="model")
def _by_model(model: Model, params: Params, batch: Batch) -> Array:
    """The preference matrix by a preference model, read as its heads allow."""
    context = scoring.context({"preference": model}, {"preference": params})
    reading = next((reading for reading, head in HEADS.items() if head in model.heads), "joint")
    return stages.preference_model(context, batch, jax.random.key(0), reading=reading)


@jax.jit
def _by_function(judge: Fn, batch: Batch) -> Array:
    """The preference matrix by a judge function that reads no role."""
    return with_metrics(judge(Context(), batch, jax.random.key(0)))[0]


@dataclasses.dataclass(frozen=True)
class _ByTexts:
    """A judge that is a person's function of texts, or one around it: asked on the host, before the judge runs.

    Attributes:
        name: The judge's.
        judge: The judge.
        host: What asks.
        answers: Numbers the files of its answers; of a job that runs again, each table meets its own.
    """

    name: str
    judge: Fn
    host: TextHost
    answers: Iterator[int]

    def __call__(self, batch: Batch) -> Array:
        """The preference matrix; NaN where there is no opinion."""
        asked = text_function(self.judge)
        assert asked is not None
        path = self.host.folder and self.host.folder / f"{self.name}-{next(self.answers):08d}.jsonl"
        answer = self.host.said(asked, jax.device_get(batch), None, path)
        context = Context(ask=lambda batch, shape: jnp.asarray(answer))
        return with_metrics(self.judge(context, batch, jax.random.key(0)))[0]


def judges_of(
    workspace: Workspace, model: Model | None, judges: Mapping[str, str | Fn], host: TextHost | None = None
) -> dict[str, Judged]:
    """Makes the judges of a tournament.

    Args:
        workspace: The run.
        model: The network of the trained ones.
        judges: By name the step that trained a role "preference", or a judge function that reads no role.
        host: What asks those that are functions of texts, as of `text_host.judges_host`; None where there are none.

    Raises:
        ConfigError: Without a judge named "held_out", or without a network for a trained one.
    """
    if "held_out" not in judges:
        raise ConfigError("a tournament needs a judge named 'held_out' that no player was trained against")
    made: dict[str, Judged] = {}
    for name, judge in judges.items():
        if isinstance(judge, Fn) and text_function(judge) is not None:
            if host is None:
                raise ConfigError(f"judge {name!r} is a function of texts, and nothing here can ask it")
            made[name] = _ByTexts(name, judge, host, itertools.count(1))
        elif isinstance(judge, Fn):
            made[name] = functools.partial(_by_function, judge)
        elif model is None:
            raise ConfigError(f"the judge {name!r} is the step {judge!r}: give the tournament its judge_model")
        else:
            made[name] = functools.partial(_by_model, model, restore_role(workspace.find(judge), "preference"))
    return made


@contextlib.contextmanager
def open_judges(
    workspace: Workspace, model: Model | None, judges: Mapping[str, str | Fn], sources: Sequence[Fn]
) -> Iterator[dict[str, Judged]]:
    """Yields the judges of a tournament, functions of texts among them: as of `judges_of`.

    Args:
        workspace: The run.
        model: The network of the trained ones.
        judges: As of `judges_of`.
        sources: Where the prompts are from, whose rows have the columns that functions ask for.
    """
    with judges_host(judges, sources, workspace) as host:
        yield judges_of(workspace, model, judges, host)


def all_verdicts(
    asked: Mapping[str, Judged], answers: Mapping[str, Sequence[Batch]], checks: Sequence[Batch]
) -> tuple[dict[str, Judgements], dict[str, dict[str, Any]]]:
    """Asks all judges about all players.

    Args:
        asked: The judges by name.
        answers: Batches of answers, N = 1, by player.
        checks: Held-out rows of `candidates` on which judges are measured.

    Returns:
        (what each judge says, with ties for no opinion; what is told of it: `accuracy` and `note`).
    """
    tables = [side_by_side(parts) for parts in zip(*answers.values(), strict=True)]
    said: dict[str, Judgements] = {}
    told: dict[str, dict[str, Any]] = {}
    for name, judge in asked.items():
        said[name], share = without_opinion(verdicts(judge, tables, list(answers)))
        told[name] = accuracy_on_candidates(judge, checks) if checks else {}
        if share:
            silence = f"no opinion on {share:.1%} of the pairs, which count as ties"
            told[name]["note"] = f"{told[name]['note']}; {silence}" if "note" in told[name] else silence
    return said, told


def side_by_side(parts: Sequence[Batch]) -> Batch:
    """Puts completions of several batches of the same prompts side by side, all padded to the longest."""
    most = max(part.tokens.shape[2] for part in parts if part.tokens is not None)

    def joined(name: str) -> np.ndarray:
        leaves = [np.asarray(getattr(part, name)) for part in parts]
        return np.concatenate([np.pad(leaf, [(0, 0), (0, 0), (0, most - leaf.shape[2])]) for leaf in leaves], axis=1)

    fields: dict[str, Any] = {name: joined(name) for name in ("tokens", "valid")}
    first = parts[0]
    return Batch(prompt=first.prompt, prompt_valid=first.prompt_valid, example_id=first.example_id, **fields)


def rows(chunks: Sequence[Any]) -> Any:
    """Puts batches, or arrays, one under the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


def verdicts(judge: Judged, tables: Sequence[Batch], names: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    """Asks a judge about every pair of players on every prompt.

    Args:
        judge: The judge.
        tables: Batches whose completion k is player k's answer.
        names: The players.

    Returns:
        P(a beats b) on every prompt, NaN where the judge has no opinion; see `without_opinion`.
    """
    matrix = rows([jax.device_get(judge(table)) for table in tables]).astype(np.float64)
    return {(names[i], names[j]): matrix[:, i, j] for i, j in all_pairs(len(names))}


def without_opinion(judgements: Judgements) -> tuple[dict[tuple[str, str], np.ndarray], float]:
    """Returns judgments in which "no opinion" is a tie, 1/2, so that every pair of players is compared on the same
    prompts, and the share of those."""
    unknown = {pair: np.isnan(said) for pair, said in judgements.items()}
    share = float(np.mean(list(unknown.values()))) if unknown else 0.0
    return {pair: np.where(unknown[pair], 0.5, said) for pair, said in judgements.items()}, share


def accuracy_on_candidates(judge: Judged, batches: Sequence[Batch]) -> dict[str, Any]:
    """Measures how often a judge prefers the human text, by kind of alternative, on held-out rows of `candidates`."""
    matrix = rows([jax.device_get(judge(side_by_side([batch]))) for batch in batches])
    matrix = np.where(np.isnan(matrix), 0.5, matrix)
    right = (matrix[:, 0, 1:] > 0.5) + 0.5 * (matrix[:, 0, 1:] == 0.5)
    other, corrupted = right[:, 0].mean(), right[:, 1:].mean()
    note = f"human preferred to another text in {other:.0%}, to a corrupted copy in {corrupted:.0%} of held-out cases"
    return {"accuracy": interval(right.mean(1)), "note": note}


def agreement_on(first: Judgements, second: Judgements, pairs: Sequence[tuple[str, str]]) -> Interval | None:
    """Measures how often two judges prefer the same side, over the pairs that the second one decides.

    Args:
        first: One judge's verdicts.
        second: Another's; where it sees a tie nobody can be right.
        pairs: The pairs of players that count.

    Returns:
        The share with its interval over prompts; None if there is nothing decided.
    """
    same = np.array([np.sign(first[pair] - 0.5) * np.sign(second[pair] - 0.5) for pair in pairs])
    decided = np.array([np.abs(second[pair] - 0.5) > TIE for pair in pairs])
    if not decided.any():
        return None
    # One row a prompt: its pairs are not independent, and prompts have unequally many decided ones.
    columns = np.stack([(((1 + same) / 2) * decided).sum(0), decided.sum(0)], 1)
    return interval(columns, lambda means: means[..., 0] / np.maximum(means[..., 1], 1e-12))


def shared(workspace: Workspace, judges: Mapping[str, str | Fn], name: str) -> dict[str, str]:
    """Says in words what a judge has in common with the training judge, from the configs of the steps that made them.

    Args:
        workspace: The run.
        judges: As of `judges_of`.
        name: The judge.

    Returns:
        {"backbone", "data", "labels": a phrase each}; {} for the training judge itself or without one.
    """
    judge, training = judges[name], judges.get("training")
    if name == "training" or training is None or isinstance(training, Fn):
        return {}
    against = _config(workspace, training)
    if isinstance(judge, Fn):
        drawn = _names(_labels(workspace, against), _function_of(judge))
        what = "the training judge learned from labels that were drawn from it" if drawn else "none"
        kind = "formula" if text_function(judge) is None else "function of texts"
        return {"backbone": f"none: it is a {kind}", "data": "none", "labels": what}
    config = _config(workspace, judge)
    roles, others = (part.get("algorithm", {}).get("roles", {}) for part in (config, against))
    mine, its = roles.get("preference", {}), others.get("preference", {})
    same_start = mine.get("start") == its.get("start") and "stage" in (mine.get("start") or {})
    same_network = mine.get("model") == its.get("model")
    backbone = "the weights that both started from" if same_start else "the architecture" if same_network else "none"
    same_data, order = config.get("source") == against.get("source"), config.get("seed") != against.get("seed")
    data = ("the same split, in another order" if order else "the same rows") if same_data else "another source"
    same_labels = _labels(workspace, config) == _labels(workspace, against)
    return {"backbone": backbone, "data": data, "labels": "made in the same way" if same_labels else "made otherwise"}


def _function_of(judge: Fn) -> str:
    """How a config names what a judge asks: the person's function, else the judge's own."""
    asked = text_function(judge)
    return config_json(judge)["function"] if asked is None else config_json(asked)["asks"][0]["function"]


def _config(workspace: Workspace, stage: str) -> dict[str, Any]:
    """The config of a finished step."""
    return (read_record(Path(workspace.find(stage)) / "done.json", Done) or {}).get("config") or {}


def _labels(workspace: Workspace, config: Mapping[str, Any]) -> Any:
    """What labels a judge learned from: its own stages and sampler, or the step whose batches it read."""
    source, algorithm = config.get("source") or {}, config.get("algorithm") or {}
    if isinstance(source.get("stage"), str):
        return (_config(workspace, source["stage"]).get("algorithm") or {}).get("experience")
    return [algorithm.get("experience"), (algorithm.get("roles") or {}).get("policy")]


def _names(value: Any, function: str) -> bool:
    """Whether a function is named anywhere in a config."""
    if isinstance(value, Mapping):
        return value.get("function") == function or any(_names(inner, function) for inner in value.values())
    return isinstance(value, list) and any(_names(inner, function) for inner in value)
