"""Over-optimization: how a learned judge and the deciding one rate policies that went further and further from the
baseline (the curves of arXiv:2210.10760, for pairwise judges)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from alignjax.config import Fn
from alignjax.evaluate import diagnostics, verdicts, win_rate
from alignjax.evaluate.intervals import Interval, interval
from alignjax.evaluate.players import Player, drawn
from alignjax.exact_tasks.task import Measure
from alignjax.ranges import Count, Seed
from alignjax.train.token_ids import ends_of
from alignjax.types import Model
from alignjax.workspace import Workspace

FILE = "over_optimization.json"


@dataclasses.dataclass(frozen=True)
class Point:
    """A policy on a curve.

    Attributes:
        curve: The curve that it belongs to.
        setting: What sets it apart from the others of its curve.
        player: The policy.
    """

    curve: str
    setting: str
    player: Player


def measure(
    workspace: Workspace,
    *,
    model: Model,
    judge_model: Model | None = None,
    baseline: Player,
    points: tuple[Point, ...],
    judges: tuple[tuple[str, str | Fn], ...],
    source: Fn,
    batches: Count,
    max_tokens: Count,
    measures: tuple[Measure, ...] = (),
    seed: Seed = 0,
) -> dict[str, Any]:
    """Job that measures, for policies of several strengths of regularization, the KL to the baseline and the win rate
    against it by every judge: over_optimization.json.

    Args:
        workspace: The run folder of this step.
        model: The network of the players.
        judge_model: The network of the judges that were trained.
        baseline: The reference, whose samples everybody meets.
        points: The policies.
        judges: As of `tournament.play`; "held_out" is the one that the others are compared with.
        source: Prompts.
        batches: How many batches of them.
        max_tokens: The length of a completion in tokens at most.
        measures: Exact numbers about answers.
        seed: Of source and samples.

    Raises:
        ConfigError: If the source names no dataset, whose tokenizer says which tokens end a completion.

    Returns:
        How many policies were measured. The file holds {curve: [{"setting", "stage", "kl": interval, "win_rates":
        {judge: interval}, "measures": {name: interval}}]}, in the order of the points.
    """
    # Everybody answers the same prompts; each policy meets the baseline alone, and every judge compares the two.
    players = (baseline, *(point.player for point in points))
    key, stop = jax.random.key(seed), ends_of(source, workspace)
    curves: dict[str, list[dict[str, Any]]] = {}
    with verdicts.open_judges(workspace, judge_model, dict(judges), [source]) as asked:
        prompts = [source(workspace, seed)[step] for step in range(batches)]
        answers = drawn(workspace, model, players, prompts, asked, key=key, max_tokens=max_tokens, stop=stop)
        for point in points:
            name = point.player.name
            said, _ = verdicts.all_verdicts(asked, {each: answers[each] for each in (name, baseline.name)}, [])
            rates = {judge: win_rate.win_rate_matrix(each)[name][baseline.name] for judge, each in said.items()}
            batch: Any = verdicts.rows(answers[name])
            kl = diagnostics.sequence_kl(batch.logps["sampler"], batch.logps["reference"], batch.valid)["kl"]
            curves.setdefault(point.curve, []).append(
                {"setting": point.setting, "stage": point.player.stage, "kl": kl, "win_rates": rates}
                | {"measures": measured(batch, measures)}
            )
    (workspace.folder / FILE).write_text(json.dumps(curves, indent=1))
    return {"points": len(points)}


def measured(batch: Any, measures: Sequence[Measure]) -> dict[str, Interval]:
    """Computes exact numbers about answers, with their intervals over prompts.

    Args:
        batch: The answers of one player, N = 1.
        measures: The numbers.
    """
    numbers = {measure.name: jax.jit(measure.function)(batch) for measure in measures}
    return {name: interval(np.asarray(values)[:, 0]) for name, values in numbers.items()}
