"""What asks the text functions of a run: rows of a batch become texts, functions are called, and what they say stands
in the run folder, from where a resumed run takes it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.asking import (
    Calls,
    Question,
    RewardError,
    RowTexts,
    TrainerState,
    answered,
    calls,
    check_named,
    check_parameters,
)
from alignjax.config import ConfigError, Experiment, Fn, functions_within
from alignjax.data.datasets.from_files import ALL
from alignjax.data.prepared import Dataset
from alignjax.pair_layout import all_pairs
from alignjax.stages.text_functions import check_one, functions_of, names_of, text_function, text_judge
from alignjax.train import checkpoint
from alignjax.train.ask_host import AskTexts
from alignjax.train.token_ids import datasets_of
from alignjax.types import Batch
from alignjax.workspace import Workspace

_log = logging.getLogger("alignjax.asking")
ANSWERS = "answers"  # the folder of what a step's functions said


@dataclasses.dataclass(frozen=True)
class TextHost:
    """What is needed to ask the text functions of a run.

    Args:
        texts: Makes texts of rows.
        calls: Calls functions.
        folder: Where answers are kept; None for nowhere.
        steps: The length of the run.
    """

    texts: RowTexts
    calls: Calls
    folder: Path | None = None
    steps: int = 0

    def __call__(self, name: str, asked: Fn, step: int, batch: Batch) -> np.ndarray:
        """Asks a text function, or replays what it said to the same question of this step.

        Args:
            name: The stage.
            asked: A text_reward or a text_judge.
            step: Finished steps.
            batch: The question, as NumPy arrays.

        Returns:
            Rewards [B,N,functions], or P(first is better) [B,pairs]; NaN where there is no opinion.

        Raises:
            RewardError: A function failed.
        """
        path = self.folder / f"{name}-{step + 1:08d}.jsonl" if self.folder else None
        return self.said(asked, batch, TrainerState(step, self.steps), path)

    def said(self, asked: Fn, batch: Batch, state: TrainerState | None, path: Path | None) -> np.ndarray:
        """Asks a text function, or replays what the file of its answers holds.

        Args:
            asked: A text_reward or a text_judge.
            batch: The question, as NumPy arrays.
            state: The step; None where none is taken.
            path: The file of the answers; None: nowhere.

        Returns:
            As of a call.
        """
        rows, judges = self.texts.texts(batch), asked.function is text_judge
        n = len(rows[0].completions)
        entries: list[tuple[int, ...]] = list(all_pairs(n)) if judges else [(k,) for k in range(n)]
        places = [
            (row, k)
            for row in range(len(rows))
            for k, pair in enumerate(entries)
            if not judges or _asks(batch, row, pair)
        ]
        questions = [Question(rows[row], entries[k]) for row, k in places]
        numbers = answered(self.calls, asked, questions, state, path)
        if numbers and np.isnan(numbers).all():
            names = " and ".join(names_of(asked.kwargs["function"]))
            _log.warning("%s had no opinion about anything of a step, from which nothing is learned", names)
        count = len(names_of(asked.kwargs["function"]))
        whole = np.full((len(rows), len(entries), count), np.nan, np.float32)
        for place, line in zip(places, numbers, strict=True):
            whole[place] = line
        return whole[..., 0] if judges else whole


def _asks(batch: Batch, row: int, pair: tuple[int, ...]) -> bool:
    """Whether a pair is to be judged: every one, or those that have a weight."""
    if batch.pair_weight is None:
        return True
    weight = np.asarray(batch.pair_weight[row])
    return max(weight[pair], weight[pair[::-1]]) > 0


def check_text_functions(experiment: Experiment) -> None:
    """Checks what an experiment says of its text functions, before anything is read.

    Raises:
        ConfigError: A function cannot be named, or the source has no data whose tokenizer could decode.
    """
    for name, stage in experiment.algorithm.experience.items():
        if (asked := text_function(stage)) is None:
            continue
        _check_names(asked, f"stage {name!r}")
        if not datasets_of([experiment.source, experiment.sample]):
            raise ConfigError(
                f"stage {name!r} asks {asked.name} about texts, and the source {experiment.source.name} names no data "
                "set whose tokenizer could decode them"
            )


def _check_names(asked: Fn, where: str) -> None:
    """Raises ConfigError for functions that config.json cannot name, or two of one name."""
    names = names_of(asked.kwargs["function"])
    if asked.function is text_judge:
        check_one(names)
    for function in functions_of(asked.kwargs["function"]):
        check_named(function, f"{where}: {asked.name}(function=..)")


@contextlib.contextmanager
def text_host(experiment: Experiment, workspace: Workspace | None, folder: Path | None) -> Iterator[AskTexts | None]:
    """Yields what asks the text functions of a run; None where it has none.

    Args:
        experiment: The experiment.
        workspace: The run that asks.
        folder: Where answers are kept; None: nowhere.

    Raises:
        ConfigError: A function asks for a column that the data does not have.
    """
    stages = experiment.algorithm.experience.values()
    asked = [each for stage in stages if (each := text_function(stage)) is not None]
    if not asked:
        yield None
        return
    with _opened(asked, [experiment.source], [experiment.sample], workspace, folder, experiment.steps) as opened:
        yield opened


@contextlib.contextmanager
def judges_host(judges: Mapping[str, Any], sources: Sequence[Fn], workspace: Workspace) -> Iterator[TextHost | None]:
    """Yields what asks the text judges among judges that compare players; None where there is none.

    Args:
        judges: Judges by name; those that are no `fn` of a text_judge, or around one, are left alone.
        sources: Where the prompts are from.
        workspace: The step, in whose folder `answers` keeps what they say.

    Raises:
        ConfigError: A function has no name, or asks for a column that the data does not have.
    """
    within = {name: text_function(judge) for name, judge in judges.items() if isinstance(judge, Fn)}
    asked = {name: each for name, each in within.items() if each is not None}
    for name, each in asked.items():
        _check_names(each, f"judge {name!r}")
    if not asked:
        yield None
        return
    with _opened(list(asked.values()), sources, [], workspace, workspace.folder / ANSWERS, 0) as opened:
        yield opened


@contextlib.contextmanager
def _opened(
    asked: Sequence[Fn], sources: Sequence[Fn], others: Sequence[Any], workspace: Workspace | None,
    folder: Path | None, steps: int,
) -> Iterator[TextHost]:  # fmt: skip
    """What asks text functions about rows of the sources, once it was checked that these have what they ask for."""
    dataset, split = _rows_of(sources, others)
    texts = RowTexts.of(dataset, split, workspace)
    whose, every = dataset.name if split else "a source of several data sets", ALL in getattr(dataset, "keep", (ALL,))
    for each in asked:
        for function in functions_of(each.kwargs["function"]):
            check_parameters(function, texts.columns, whose, every=every)
    with calls() as caller:
        yield TextHost(texts, caller, folder, steps)


def _rows_of(sources: Sequence[Fn], others: Sequence[Any]) -> tuple[Dataset, str | None]:
    """The data set whose tokenizer is the run's, and the split whose rows its batches have; None where sources read
    several."""
    within = [each.kwargs for source in sources for each in functions_within(source)]
    splits = {(each["dataset"], each.get("split")) for each in within if isinstance(each.get("dataset"), Dataset)}
    if len(splits) == 1 and len(datasets_of(sources)) == 1:
        return next(iter(splits))
    return datasets_of([*sources, *others])[0], None


@contextlib.contextmanager
def naming_the_checkpoint(folder: Path) -> Iterator[None]:
    """Adds to the error of a text function which checkpoint the run goes on from."""
    try:
        yield
    except RewardError as error:
        steps = checkpoint.steps(folder)
        kept = f"The checkpoint of step {steps[-1]} is kept" if steps else "There is no checkpoint yet"
        again = (
            "--resume takes what was answered already from the run folder, and asks the same function for the rest; a "
            "changed one begins a run of its own, --run-dir, which roles.restored can start from this one"
        )
        raise RewardError(f"{error}. {kept}; {again}.") from error.__cause__
