"""Tournaments of trained policies on held-out prompts: samples, judgments of every pair, and the statistics of both.

`play` and `write` are the last two jobs of a pipeline.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from alignjax import scoring, stages
from alignjax.config import ConfigError, Fn
from alignjax.data import Dataset, tokenizer_of
from alignjax.data.prepared import located, read_account
from alignjax.evaluate import diagnostics, text_metrics, win_rate
from alignjax.evaluate.intervals import interval
from alignjax.evaluate.report import write_report
from alignjax.evaluate.report.learning_curves import read_curves
from alignjax.numerics import fold_name
from alignjax.pair_layout import all_pairs
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.train.run_record import git_hash, versions
from alignjax.types import Batch, Model, Params
from alignjax.workspace import Workspace, read_json

FILE = "tournament.json"
LABELS = {"held_out": "held-out judge", "training": "training judge"}


@dataclasses.dataclass(frozen=True)
class Player:
    """A player is a policy to be judged: the role of a pipeline step's last checkpoint."""

    name: str
    stage: str
    role: str = "policy"
    label: str = ""
    note: str = ""


@functools.partial(jax.jit, static_argnames=("model", "max_tokens"))
def sampled(model: Model, policy: Params, reference: Params, batch: Batch, key: Any, max_tokens: int) -> Batch:
    """Sample one completion per prompt at temperature 1, with its log-probs under policy and reference.

    Args:
        model: The network of both.
        policy: Weights of the policy.
        reference: Weights of the reference.
        batch: Prompts; completions that it has are ignored.
        key: Random key.
        max_tokens: The length of a completion in tokens at most.

    Returns:
        The batch with tokens [B,1,T] and logps {"policy", "reference"} [B,1,T] in nats.
    """
    context = scoring.context({"policy": model, "reference": model}, {"policy": policy, "reference": reference})
    prompts = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, example_id=batch.example_id)
    answers, _ = stages.generate(context, prompts, key, n=1, max_tokens=max_tokens)
    return stages.logprobs(context, answers, key, role="reference")


@functools.partial(jax.jit, static_argnames="model")
def _judged(model: Model, params: Params, batch: Batch) -> jax.Array:
    """Compute the preference matrix [B,N,N] of all completions of a batch, read as the model's heads allow."""
    context = scoring.context({"preference": model}, {"preference": params})
    reading = "apart" if "embedding" in model.heads else "joint"
    return stages.preference_model(context, batch, jax.random.key(0), reading=reading)


def _side_by_side(parts: Sequence[Batch]) -> Batch:
    """Put completions of several batches of the same prompts side by side."""
    fields: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("tokens", "valid")
    }
    return Batch(prompt=parts[0].prompt, prompt_valid=parts[0].prompt_valid, **fields)


def _rows(chunks: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


def _judge_accuracy(model: Model, judge: Params, batches: Sequence[Batch]) -> dict[str, Any]:
    """Measure how often a judge prefers the human text, by kind of alternative, on held-out rows of `candidates`."""
    matrix = _rows([jax.device_get(_judged(model, judge, _side_by_side([batch]))) for batch in batches])
    right = (matrix[:, 0, 1:] > 0.5) + 0.5 * (matrix[:, 0, 1:] == 0.5)
    other, corrupted = right[:, 0].mean(), right[:, 1:].mean()
    note = f"human preferred to another text in {other:.0%}, to a corrupted copy in {corrupted:.0%} of held-out cases"
    return {"accuracy": interval(right.mean(1)), "note": note}


def play(
    workspace: Workspace,
    *,
    model: Model,
    judge_model: Model,
    players: tuple[Player, ...],
    judges: tuple[tuple[str, str], ...],
    source: Fn,
    judge_source: Fn,
    dataset: Dataset,
    batches: int,
    max_tokens: int,
    seed: int = 0,
    samples: int = 10,
) -> dict[str, Any]:
    """Plays all pairs of players, and the human texts of `source`, on the same held-out prompts: tournament.json.

    One sample per prompt and player at temperature 1, drawn independently, so that the KL estimate is unbiased.

    Args:
        workspace: The run folder of this step.
        model: The network of the players.
        judge_model: The network of the judges.
        players: The policies; the first is the baseline, whose weights are the reference of every KL.
        judges: (name, stage) of preference models, of which "held_out" decides.
        source: Prompts with their human completion (N = 1).
        judge_source: Rows of `candidates` on which the judges themselves are measured.
        dataset: The dataset whose tokenizer decodes the texts.
        batches: How many batches of each source.
        max_tokens: The length of a completion in tokens at most.
        seed: Of sources and samples.
        samples: How many prompts are shown with all answers.

    Returns:
        The win rates against the baseline, by player.

    Raises:
        ConfigError: Without a judge named "held_out".
    """
    # Everybody answers the same prompts, the human last; each judge compares all answers; the rest is statistics.
    if "held_out" not in dict(judges):
        raise ConfigError("a tournament needs a judge named 'held_out' that no player was trained against")
    humans = [source(workspace, seed)[step] for step in range(batches)]
    drawn = _draw(workspace, model, players, humans, jax.random.key(seed), max_tokens)
    names, baseline = [*drawn, "human"], players[0].name
    tables = [_side_by_side(answers) for answers in zip(*drawn.values(), humans, strict=True)]
    checks = [judge_source(workspace, seed)[step] for step in range(batches)]
    accuracies, verdicts = _judge_all(workspace, judge_model, judges, tables, names, checks)
    texts = _texts(tables, names, tokenizer_of(dataset, workspace))
    labels = _labels(players)
    outcome = {
        "baseline": baseline,
        "judges": accuracies,
        **_statistics(verdicts),
        "length_bias": _length_bias(verdicts["held_out"], tables, names),
        "players": {name: labels[name] | _player_statistics(name, drawn, texts) for name in names},
        "samples": _shown(texts, names, samples),
    }
    (workspace.folder / FILE).write_text(json.dumps(outcome, indent=1))
    return {name: outcome["win_rates"][name][baseline] for name in names if name != baseline}


def _labels(players: Sequence[Player]) -> dict[str, dict[str, str]]:
    """How a report calls the players, and the human."""
    labels = {player.name: {"label": player.label or player.name, "note": player.note} for player in players}
    return labels | {"human": {"label": "human", "note": "the author's own summary line"}}


def _shown(texts: Mapping[str, Sequence[str]], names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The first prompts with everybody's answer."""
    rows = range(min(count, len(texts["prompt"])))
    return [{"post": texts["prompt"][i], "outputs": {name: texts[name][i] for name in names}} for i in rows]


def _judge_all(
    workspace: Workspace, model: Model, judges: Sequence[tuple[str, str]], tables: Sequence[Batch], names: list[str],
    checks: Sequence[Batch],
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """What each judge is worth on rows whose answer is known, and its probability for every pair of players."""
    accuracies, verdicts = {}, {}
    for name, stage in judges:
        judge = restore_role(workspace.find(stage), "preference")
        matrix = _rows([jax.device_get(_judged(model, judge, table)) for table in tables]).astype(np.float64)
        verdicts[name] = {(names[i], names[j]): matrix[:, i, j] for i, j in all_pairs(len(names))}
        label = {"label": LABELS.get(name, name.replace("_", " "))}
        accuracies[name] = label | _judge_accuracy(model, judge, checks)
    return accuracies, verdicts


def _draw(
    workspace: Workspace, model: Model, players: Sequence[Player], prompts: Sequence[Batch], key: Any, max_tokens: int
) -> dict[str, list[Batch]]:
    """Sample {player: batches of its answers}, each player's drawn with a key of its own name."""
    weights = {player.name: restore_role(workspace.find(player.stage), player.role) for player in players}
    baseline = weights[players[0].name]
    return {
        name: [
            jax.device_get(sampled(model, policy, baseline, batch, fold_name(key, name), max_tokens))
            for batch in prompts
        ]
        for name, policy in weights.items()
    }


def _statistics(verdicts: Mapping[str, Mapping[tuple[str, str], np.ndarray]]) -> dict[str, Any]:
    """Compute win rates by the held-out judge and, beside them, what the other judges make of the same pairs."""
    held_out = verdicts["held_out"]
    rates = win_rate.win_rate_matrix(held_out)
    statistics = {
        "win_rates": rates,
        "win_rates_hard": win_rate.win_rate_matrix(held_out, score="hard"),
        "exploitability": win_rate.exploitability(_of_policies(rates)),
    }
    for name, verdict in verdicts.items():
        if name != "held_out":
            same = [(np.sign(verdict[pair] - 0.5) * np.sign(held_out[pair] - 0.5) + 1) / 2 for pair in held_out]
            # One number a prompt: its pairs are not independent.
            statistics["agreement"] = interval(np.mean(same, axis=0))
            statistics["win_rates_by_judge"] = {name: win_rate.win_rate_matrix(verdict)}
    return statistics


def _of_policies(rates: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave the human texts out of win rates: they are no policy that could be played."""
    return {a: {b: rate for b, rate in row.items() if b != "human"} for a, row in rates.items() if a != "human"}


def _length_bias(verdict: Mapping[tuple[str, str], np.ndarray], tables: Sequence[Batch], names: Sequence[str]) -> Any:
    """Correlate the judge's margin with how much longer a text is, human against the first player."""
    lengths = _rows(tables).valid.sum(-1)
    probability = np.clip(verdict[names[0], "human"], 1e-6, 1 - 1e-6)
    margin = np.log(probability) - np.log1p(-probability)
    return diagnostics.length_bias(margin, lengths[:, 0] - lengths[:, names.index("human")])


def _texts(tables: Sequence[Batch], names: Sequence[str], tokenizer: Any) -> dict[str, list[str]]:
    table = _rows(tables)
    texts = {"prompt": [tokenizer.decode(ids[on]) for ids, on in zip(table.prompt, table.prompt_valid, strict=True)]}
    for number, name in enumerate(names):
        rows = zip(table.tokens[:, number], table.valid[:, number], strict=True)
        texts[name] = [tokenizer.decode(ids[on]).strip() for ids, on in rows]
    return texts


def _player_statistics(
    name: str, drawn: Mapping[str, Sequence[Batch]], texts: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Compute one player's KL to the baseline (none for the human) and what its texts are like."""
    statistics: dict[str, Any] = text_metrics.text_summary(texts[name], texts["human"], texts["prompt"])
    if name not in drawn:
        return statistics | {"rouge_l": None}  # of the human text with itself
    batch = _rows(drawn[name])
    return statistics | diagnostics.sequence_kl(batch.logps["policy"], batch.logps["reference"], batch.valid)


def write(
    workspace: Workspace, *, title: str, dataset: Dataset, command: str = "", notes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Job that writes results.json, report.html and report.md into the run folder, from the tournament, the stages'
    curves and the config, and prints the table and where the report is.

    Args:
        workspace: The run folder of this step.
        title: The title of the report.
        dataset: The dataset whose account is shown.
        command: What was typed.
        notes: Sentences under the headline.

    Returns:
        {"report": the path of report.html}.

    Raises:
        ConfigError: Before the evaluation step has run.
    """
    # One mapping holds all that a report shows, so that `alignjax report` can make it again from results.json.
    root = workspace.root
    outcome = next(iter(sorted(root.glob(f"*/{FILE}"))), None)
    if outcome is None:
        raise ConfigError(f"no {FILE} below {root}: run the evaluation step first")
    account = read_account(located(dataset, workspace))
    done = {path.parent.name: read_json(path) for path in sorted(root.glob("*/done.json"), key=_age)}
    config = read_json(root / "config.json") or {}
    results = {
        **json.loads(outcome.read_text()),
        "title": title,
        "curves": {path.parent.name: read_curves(path) for path in sorted(root.glob("*/metrics.jsonl"), key=_age)},
        "data": _data(account),
        "seconds": {name: record["seconds"] for name, record in done.items()},
        "config": config.get("config", config),
        "versions": versions(),
        "seeds": _seeds(config.get("config", config)),
        "git": git_hash(),
        "command": command,
        "device": str(jax.devices()[0].device_kind),
        "notes": list(notes),
    }
    paths = write_report.write_report(results, root)
    console = Console()
    write_report.terminal_table(results, console)
    console.print(f"\n{paths['html']}", highlight=False, soft_wrap=True)
    return {"report": str(paths["html"])}


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _data(account: Mapping[str, Any]) -> dict[str, Any]:
    packages = account.get("packages", {})
    splits = {
        name: {"pairs": count, "packages": len(packages.get(name, ()))} for name, count in account["rows"].items()
    }
    total = {key: sum(split[key] for split in splits.values()) for key in ("pairs", "packages")}
    return {**total, "splits": splits}


def _seeds(config: Mapping[str, Any]) -> dict[str, int]:
    steps = config.get("steps", {})
    return {name: step["seed"] for name, step in steps.items() if isinstance(step, Mapping) and "seed" in step}
