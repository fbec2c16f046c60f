"""An evaluation of language models by gold, a function of the text: a start model, its controls and trained policies
answer the same held-out prompts, and the learned judge's word stands beside gold's.

`measure` and `write` are the last two jobs of a pipeline (`pipelines/language_model.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import outside
from alignjax.config import ConfigError, Fn
from alignjax.data import Dataset, tokenizer_of
from alignjax.evaluate import verdicts
from alignjax.evaluate.gold_report import markdown
from alignjax.evaluate.gold_statistics import Answers, statistics
from alignjax.evaluate.players import finished, sampled
from alignjax.evaluate.write_results import changed_settings, weight_origins
from alignjax.models import lora
from alignjax.numerics import fold_name
from alignjax.ranges import Count, Natural, NonNegative, Seed
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.train.state import restored_params
from alignjax.types import Algorithm, Batch, Key, Model, Params
from alignjax.workspace import Workspace, read_record, write_json

FILE = "gold.json"
START, AGAIN = "start", "again"  # the start model's answers, and a second draw of them that everybody meets


@dataclasses.dataclass(frozen=True)
class Writer:
    """A trained policy: the role "policy" of a step.

    Attributes:
        stage: The step.
        label: Its name in print.
        algorithm: Makes the algorithm that trained it, which says how weights are built (adapters over a base).
    """

    stage: str
    label: str
    algorithm: Callable[[], Algorithm]


def measure(
    workspace: Workspace, *, model: Model, judge_model: Model, judge: str, start: str, writers: tuple[Writer, ...],
    score: Callable[[str], float], source: Fn, dataset: Dataset, batches: Count, max_tokens: Count, n: Count = 2,
    temperatures: tuple[NonNegative, ...] = (0.0, 0.5, 0.75), best_of: tuple[Count, ...] = (2, 4, 8), seed: Seed = 0,
) -> dict[str, Any]:  # fmt: skip
    """Job that has everybody answer the same prompts n times and writes gold.json: scores, win rates, KL, fluency.

    Everybody meets a second draw of the start model. The best of k are picked by the learned judge among draws that it
    alone compares; intervals are over prompts.

    Args:
        workspace: The run folder of this step.
        model: The network of the start model and the policies.
        judge_model: That of the learned judge.
        judge: The step whose role "preference" is the learned judge.
        start: The step whose role "policy" is the start model.
        writers: The policies.
        score: Gold, a function of a text.
        source: Prompts.
        dataset: The dataset whose tokenizer decodes the texts.
        batches: How many batches of prompts.
        max_tokens: The length of a completion in tokens at most.
        n: Completions per prompt.
        temperatures: Those at which the start model is a control; 0 is greedy.
        best_of: How many samples of the start model are picked from, in further controls.
        seed: Of source and samples.

    Returns:
        The mean gold score of each player.

    Raises:
        ConfigError: The largest of best_of is no multiple of n and of the others.
    """
    # Weights are read one policy at a time, with adapters added: all draws are then one compiled program. Everybody's
    # answers to a prompt are put side by side, so that the learned judge reads each text once.
    most = max(best_of, default=n)
    if most % n or any(most % k for k in best_of):
        raise ConfigError(f"best_of={best_of} with n={n}: the largest must be a multiple of n and of the others")
    prompts = [source(workspace, seed)[step] for step in range(batches)]
    tokenizer = tokenizer_of(dataset, workspace)
    reference = restore_role(workspace.find(start), "policy")
    options = {"key": jax.random.key(seed), "max_tokens": max_tokens, "n": n, "stop": tokenizer.ends}
    draw = functools.partial(_drawn, model, reference, prompts, **options)
    answers = {START: draw(START, reference, most // n), AGAIN: draw(AGAIN, reference, 1)}
    answers |= {f"T={each:g}": draw(f"T={each:g}", reference, 1, each) for each in temperatures}
    for writer in writers:
        params = jax.jit(lora.merged)(restored_params(workspace.find(writer.stage), writer.algorithm(), "policy"))
        answers[writer.stage] = draw(writer.stage, params, 1)
    learned = _judged(workspace, judge_model, judge, answers)
    described = {name: _answers(verdicts.rows(parts), tokenizer, score) for name, parts in answers.items()}
    labels = {writer.stage: writer.label for writer in writers}
    outcome = statistics(described, learned, START, AGAIN, best_of, labels)
    outcome["shown"] = _shown(_texts(verdicts.rows(prompts), tokenizer), described, learned, [START, *labels])
    write_json(workspace.folder / FILE, outcome)
    return {name: row["gold"]["mean"] for name, row in outcome["players"].items()}


def _drawn(
    model: Model, reference: Params, prompts: Sequence[Batch], name: str, params: Params, times: int,
    temperature: float = 1.0, *, key: Key, max_tokens: int, n: int, stop: tuple[int, ...],
) -> list[Batch]:  # fmt: skip
    """Draws n answers to each prompt `times` times, with keys of the player's name, and puts them side by side."""
    keys = [jax.random.fold_in(fold_name(key, name), number) for number in range(times)]
    warmth = jnp.float32(temperature)
    return [
        _beside(
            [
                jax.device_get(
                    sampled(model, params, reference, batch, each, max_tokens, n, temperature=warmth, stop=stop)
                )
                for each in keys
            ]
        )
        for batch in prompts
    ]


def _beside(parts: Sequence[Batch]) -> Batch:
    """Several draws for the same prompts as one batch, with their log-probs."""
    together = verdicts.side_by_side(parts)
    logps = {name: np.concatenate([np.asarray(part.logps[name]) for part in parts], 1) for name in parts[0].logps}
    return together.replace(logps=logps)


def _judged(
    workspace: Workspace, model: Model, judge: str, answers: Mapping[str, Sequence[Batch]]
) -> dict[tuple[str, str], np.ndarray]:
    """The learned judge's probabilities by pair of names, [prompts, answers of the first, answers of the second]."""
    asked = verdicts.judges_of(workspace, model, {"held_out": judge})["held_out"]
    tables = [verdicts.side_by_side(parts) for parts in zip(*answers.values(), strict=True)]
    matrix = np.concatenate([np.asarray(asked(table), np.float64) for table in tables])
    widths = [parts[0].tokens.shape[1] for parts in answers.values() if parts[0].tokens is not None]
    stops = np.cumsum([0, *widths])
    places = {name: slice(stops[i], stops[i + 1]) for i, name in enumerate(answers)}
    return {(a, b): matrix[:, places[a], places[b]] for a in answers for b in answers}


def _answers(batch: Any, tokenizer: Any, score: Callable[[str], float]) -> Answers:
    """What is measured of a player's answers [prompts, answers]."""
    texts = [
        [tokenizer.decode(ids[there]).strip() for ids, there in zip(*row, strict=True)]
        for row in zip(batch.tokens, batch.valid, strict=True)
    ]
    nats = {
        name: np.where(batch.valid, batch.logps[name], 0).sum(-1).astype(np.float64)
        for name in ("sampler", "reference")
    }
    return Answers(
        texts,
        np.array([[score(text) for text in row] for row in texts]),
        nats["sampler"],
        nats["reference"],
        batch.valid.sum(-1),
        finished(batch, tokenizer.ends),
    )


def _texts(batch: Any, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(ids[on]) for ids, on in zip(batch.prompt, batch.prompt_valid, strict=True)]


def _shown(
    prompts: Sequence[str],
    answers: Mapping[str, Answers],
    learned: Mapping[tuple[str, str], np.ndarray],
    names: Sequence[str],
    rows: int = 6,
) -> list[dict[str, Any]]:
    """The first prompts with everybody's first answer, gold's score and the learned judge's mean word against the
    second draw of the start model."""
    return [
        {
            "prompt": prompts[row],
            "answers": {
                name: {
                    "text": answers[name].texts[row][0],
                    "gold": float(answers[name].gold[row, 0]),
                    "learned": float(learned[name, AGAIN][row, 0].mean()),
                }
                for name in names
            },
        }
        for row in range(min(rows, len(prompts)))
    ]


def write(workspace: Workspace, *, title: str, budgets: tuple[tuple[str, Natural], ...] = ()) -> dict[str, Any]:
    """Job that writes report.md into the run folder, from what `measure` has written, and prints it.

    Args:
        workspace: The run folder of this step.
        title: The title of the report.
        budgets: (what, how many) of labels and steps that the results cost.

    Returns:
        {"report": the path of report.md}.

    Raises:
        ConfigError: Before the evaluation step has run.
    """
    root = workspace.root
    file = next(iter(sorted(root.glob(f"*/{FILE}"))), None)
    if file is None:
        raise ConfigError(f"no {FILE} below {root}: run the evaluation step first")
    outcome = read_record(file, dict[str, Any], "run the evaluation step again (`alignjax evaluate`)")
    config = read_record(root / "config.json", dict[str, Any]) or {}
    origins = " ".join(weight_origins(config, root))
    text = markdown(outcome, title, origins, budgets) + "".join(f"\n{line}\n" for line in changed_settings(root))
    path = root / "report.md"
    path.write_text(text, encoding="utf-8")
    write_json(root / "results.json", {"title": title, "weights": origins, "budgets": dict(budgets), **outcome})
    outside.console().print(f"{text}\n{path}", markup=False, highlight=False, soft_wrap=True)
    return {"report": str(path)}
