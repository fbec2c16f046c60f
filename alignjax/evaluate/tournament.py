"""Tournaments of trained policies and their controls on held-out prompts: samples, judgments of every pair, and the
statistics of both.

`play` and `write` are the last two jobs of a pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from alignjax.config import Fn
from alignjax.data import Dataset, Source, tokenizer_of
from alignjax.evaluate import diagnostics, text_metrics, verdicts, win_rate
from alignjax.evaluate.controls import against_best_control, default_controls, warnings
from alignjax.evaluate.intervals import interval
from alignjax.evaluate.over_optimization import measured
from alignjax.evaluate.players import (
    Player as Player,
    drawn,
    finished,
    sampled as sampled,
)
from alignjax.evaluate.write_results import FILE as FILE, write as write
from alignjax.exact_tasks.task import Measure
from alignjax.ranges import Count, Natural, Seed
from alignjax.stages.text_functions import name_of, text_function
from alignjax.types import Batch, Model
from alignjax.workspace import Workspace

DESCRIBED = ("label", "maximum", "chance", "share")  # what a report says of a measure
AGAIN = "again"  # a second draw of the baseline, on which judges without held-out rows of their own are measured


def play(
    workspace: Workspace, *, model: Model, judge_model: Model | None = None, players: tuple[Player, ...],
    judges: tuple[tuple[str, str | Fn], ...], source: Fn, judge_source: Fn | None = None, dataset: Dataset,
    batches: Count, max_tokens: Count, controls: tuple[Player, ...] | None = None, measures: tuple[Measure, ...] = (),
    labels: tuple[tuple[str, str], ...] = (), seed: Seed = 0, samples: Natural = 10,
) -> dict[str, Any]:  # fmt: skip
    """Plays all pairs of players, their controls and the human texts of `source` on the same held-out prompts:
    tournament.json.

    One sample per prompt and player, drawn independently, so that the KL estimate is unbiased: of what was sampled
    from, at its temperature and with its behavior.

    Args:
        workspace: The run folder of this step.
        model: The network of the players.
        judge_model: The network of the judges that were trained.
        players: The policies; the first is the baseline, whose weights are the reference of every KL.
        judges: (name, the step that trained a preference model, or a judge function that reads no role, such as
            `stages.text_judge`, whose answers are kept in the step's folder), of which "held_out" decides. A pair that
            one has no opinion about is a tie.
        source: Prompts with their human completion (N = 1).
        judge_source: Rows of `candidates` on which trained judges are measured; None: pairs of two draws of the
            baseline, by how often the deciding judge agrees.
        dataset: The dataset whose tokenizer decodes the texts.
        batches: How many batches of each source at most: where a prompt comes again, what was played before is all.
        max_tokens: The length of a completion in tokens at most.
        controls: Players that needed no training; None: the baseline at temperature 0.5, greedy, and the best of four
            of its samples by the judge "training".
        measures: Exact numbers about answers, shown beside the win rates, in the place of statistics of texts.
        labels: (judge or "human", its name in print), for other names than the usual ones.
        seed: Of sources and samples.
        samples: How many prompts are shown with all answers.

    Returns:
        The win rates against the baseline, by player.

    Raises:
        ConfigError: Without a judge named "held_out".
    """
    # Everybody answers the same prompts, the human last; each judge compares all answers; the rest is statistics.
    controls = default_controls(players[0], list(dict(judges))) if controls is None else controls
    again = () if judge_source else (Player(AGAIN, players[0].stage, players[0].role),)
    tokenizer = tokenizer_of(dataset, workspace)
    sources = [each for each in (source, judge_source) if each is not None]
    people, *checks = (_once(each(workspace, seed), batches) for each in sources)
    every = (*players, *controls, *again)
    draw = {"key": jax.random.key(seed), "max_tokens": max_tokens, "stop": tokenizer.ends}
    with verdicts.open_judges(workspace, judge_model, dict(judges), sources) as asked:
        answers = {**drawn(workspace, model, every, people, asked, **draw), "human": people}
        said, told = verdicts.all_verdicts(asked, answers, *(checks or [[]]))
    judged = _judges(workspace, dict(judges), said, dict(labels), players[0].name)
    table = {name: verdicts.rows(parts) for name, parts in answers.items() if name != AGAIN}
    outcome = _outcome(said, table, players, controls, measures, dict(labels), tokenizer, samples)
    outcome["judges"] = {name: row | told[name] for name, row in judged.items()}
    (workspace.folder / FILE).write_text(json.dumps(outcome, indent=1))
    return {name: row[players[0].name] for name, row in outcome["win_rates"].items() if name != players[0].name}


def _once(source: Source, batches: int) -> list[Batch]:
    """Batches up to the first in which a prompt comes again, one at least: intervals over prompts take each row for a
    prompt of its own."""
    several: list[Batch] = []
    seen: set[int] = set()
    for batch in (source[step] for step in range(batches)):
        names = set() if batch.example_id is None else set(np.asarray(batch.example_id).tolist())
        if names & seen:
            break
        several.append(batch)
        seen |= names
    return several


def _outcome(
    said: Mapping[str, verdicts.Judgements], table: Mapping[str, Batch], players: Sequence[Player],
    untrained: Sequence[Player], measures: Sequence[Measure], names: Mapping[str, str], tokenizer: Any, samples: int,
) -> dict[str, Any]:  # fmt: skip
    """All statistics of a tournament, from what the judges said and from everybody's answers."""
    baseline = players[0].name
    said = {judge: {pair: p for pair, p in pairs.items() if AGAIN not in pair} for judge, pairs in said.items()}
    texts, labels = _texts(table, tokenizer), _labels((*players, *untrained), names)
    return {
        "baseline": baseline,
        **_statistics(said),
        **_honesty(said["held_out"], table, baseline, tokenizer.ends),
        **_against_controls(said["held_out"], baseline, players, untrained, labels),
        "players": {
            name: labels[name] | _player_statistics(name, table, texts, measures, tokenizer.ends) for name in table
        },
        "measures": {measure.name: {key: getattr(measure, key) for key in DESCRIBED} for measure in measures},
        "samples": _shown(texts, list(table), samples, said, baseline),
    }


def _labels(players: Sequence[Player], names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """How a report calls the players, and the human."""
    labels: dict[str, dict[str, Any]] = {
        player.name: {"label": player.label or player.name, "note": player.note}
        | ({"control": True} if player.control else {})
        for player in players
    }
    human = {"label": names.get("human", "human"), "note": "" if "human" in names else "the author's own summary line"}
    return labels | {"human": human}


def _shown(
    texts: Mapping[str, Sequence[str]], names: Sequence[str], count: int,
    said: Mapping[str, verdicts.Judgements], baseline: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """The first prompts with everybody's answer, and with what probability each judge prefers it to the baseline's."""
    others = [name for name in names if name != baseline]
    against = {judge: {name: _against(verdict, name, baseline) for name in others} for judge, verdict in said.items()}
    return [
        {
            "post": texts["prompt"][i],
            "outputs": {name: texts[name][i] for name in names},
            "verdicts": {judge: {name: float(p[i]) for name, p in row.items()} for judge, row in against.items()},
        }
        for i in range(min(count, len(texts["prompt"])))
    ]


def _judges(
    workspace: Workspace, judges: Mapping[str, str | Fn], said: Mapping[str, verdicts.Judgements],
    labels: Mapping[str, str], baseline: str,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Each judge's name in print, what it shares with the training judge, and how often it agrees with the deciding
    one on two draws of the baseline, where there are two."""
    described: dict[str, dict[str, Any]] = {}
    for name, judge in judges.items():
        asked = text_function(judge) if isinstance(judge, Fn) else None
        usual = "gold judge" if isinstance(judge, Fn) else verdicts.LABELS.get(name, name.replace("_", " "))
        usual = usual if asked is None else name_of(asked.kwargs["function"])
        described[name] = {"label": labels.get(name, usual)}
        if shares := verdicts.shared(workspace, judges, name):
            described[name]["shares"] = shares
        if name != "held_out" and (baseline, AGAIN) in said[name]:
            agrees = verdicts.agreement_on(said[name], said["held_out"], [(baseline, AGAIN)])
            note = "accuracy: how often it agrees with the judge that decides, on two samples of the baseline"
            described[name] |= {"accuracy": agrees, "note": note} if agrees else {}
    return described


def _statistics(said: Mapping[str, verdicts.Judgements]) -> dict[str, Any]:
    """Compute win rates by the held-out judge and, beside them, what the other judges make of the same pairs."""
    held_out = said["held_out"]
    rates = win_rate.win_rate_matrix(held_out)
    statistics: dict[str, Any] = {
        "win_rates": rates,
        "win_rates_hard": win_rate.win_rate_matrix(held_out, score="hard"),
        "ties": win_rate.ties(held_out),
        "exploitability": win_rate.exploitability(_of_policies(rates)),
    }
    sampled_pairs = [pair for pair in held_out if "human" not in pair]
    for name, verdict in said.items():
        if name != "held_out":
            same = [diagnostics.agreement_of(verdict[pair], held_out[pair]) for pair in held_out]
            # One number a prompt: its pairs are not independent.
            statistics["agreement"] = interval(np.mean(same, axis=0))
            statistics["agreement_sampled"] = verdicts.agreement_on(verdict, held_out, sampled_pairs)
            statistics.setdefault("win_rates_by_judge", {})[name] = win_rate.win_rate_matrix(verdict)
    return statistics


def _of_policies(rates: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave the human texts out of win rates: they are no policy that could be played."""
    return {a: {b: rate for b, rate in row.items() if b != "human"} for a, row in rates.items() if a != "human"}


def _honesty(
    held_out: verdicts.Judgements, table: Mapping[str, Batch], baseline: str, stop: tuple[int, ...]
) -> dict[str, Any]:
    """What a win rate may owe to length or to the end of a text: rates at equal length and where both sides ended, and
    the correlation of the judge's margin over the baseline with how much longer a text is."""
    lengths = {name: np.asarray(table[name].valid)[:, 0].sum(-1) for name in table}
    ends = {name: finished(table[name], stop)[:, 0] for name in table}
    bias = {}
    for name in table:
        if name != baseline:
            probability = np.clip(_against(held_out, name, baseline), 1e-6, 1 - 1e-6)
            margin = np.log(probability) - np.log1p(-probability)
            bias[name] = diagnostics.length_bias(margin, lengths[name] - lengths[baseline])
    return {
        "length_bias": bias,
        "win_rates_length_controlled": win_rate.length_controlled(held_out, lengths),
        "win_rates_both_ended": win_rate.where_both(held_out, ends, baseline),
    }


def _against(verdict: verdicts.Judgements, player: str, baseline: str) -> np.ndarray:
    """P(player beats baseline) on every prompt."""
    return verdict[player, baseline] if (player, baseline) in verdict else 1 - verdict[baseline, player]


def _against_controls(
    held_out: verdicts.Judgements, baseline: str, players: Sequence[Player], untrained: Sequence[Player],
    labels: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """How much better each trained player is than its best control, and in words where that may be nothing."""
    trained = [player.name for player in players[1:] if not player.control]
    names = [player.name for player in (*players[1:], *untrained) if player.name not in trained]
    rates = {name: _against(held_out, name, baseline) for name in (*trained, *names)}
    compared = against_best_control(rates, trained, names)
    said = warnings(compared, {name: row["label"] for name, row in labels.items()})
    return {"against_best_control": compared, "warnings": said}


def _texts(table: Mapping[str, Batch], tokenizer: Any) -> dict[str, list[str]]:
    """The prompts and everybody's answers as text."""
    any_batch: Any = table["human"]
    prompts = zip(any_batch.prompt, any_batch.prompt_valid, strict=True)
    texts = {"prompt": [tokenizer.decode(ids[on]) for ids, on in prompts]}
    for name in table:
        batch: Any = table[name]
        rows = zip(batch.tokens[:, 0], batch.valid[:, 0], strict=True)
        texts[name] = [tokenizer.decode(ids[on]).strip() for ids, on in rows]
    return texts


def _player_statistics(
    name: str,
    table: Mapping[str, Batch],
    texts: Mapping[str, list[str]],
    measures: Sequence[Measure],
    stop: tuple[int, ...],
) -> dict[str, Any]:
    """Compute one player's KL to the baseline (none for the human), the share that ended, and what its answers are
    like: the measures, or statistics of texts where there are none."""
    batch: Any = table[name]
    statistics: dict[str, Any] = {"finished": interval(finished(batch, stop)[:, 0].astype(np.float64))}
    if measures:
        statistics["measures"] = measured(batch, measures)
        statistics["length"] = interval([float(len(text)) for text in texts[name]])
    else:
        statistics |= text_metrics.text_summary(texts[name], texts["human"], texts["prompt"])
        statistics |= {"rouge_l": None} if name == "human" else {}  # of the human text with itself
    if "sampler" in batch.logps:
        statistics |= diagnostics.sequence_kl(batch.logps["sampler"], batch.logps["reference"], batch.valid)
    return statistics
