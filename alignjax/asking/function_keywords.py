"""Arguments of a person's function: what of a question it takes, by the names of its parameters, as TRL calls its
reward functions."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.asking.declared_functions import declared_columns
from alignjax.asking.questions import Question
from alignjax.config import ConfigError, Fn
from alignjax.stages.text_functions import name_of

TEXTS = ("prompts", "completions", "completion_ids")
ALWAYS = (*TEXTS, "trainer_state", "log_extra", "log_metric")


class TrainerState(NamedTuple):
    """The state of the run that a function may ask for as `trainer_state`: finished steps, and those of the run."""

    global_step: int
    max_steps: int


class LogExtra:
    """TRL's log_extra(column, values): values stand beside the answers of the call, None where there are too few."""

    def __init__(self, size: int) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.size = size

    def __deepcopy__(self, memo: Any) -> LogExtra:
        return self  # the arguments of a call are copied, and this is what it writes to

    def __call__(self, column: str, values: Iterable[Any]) -> None:
        plain = [_plain(value) for value in list(values)[: self.size]]
        self.columns[str(column)] = plain + [None] * (self.size - len(plain))


def _plain(value: Any) -> Any:
    """A value as JSON holds it: as it is, else what it says as a text."""
    value = value.item() if isinstance(value, np.generic) else value
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return str(value)


def log_nothing(name: str, value: float) -> None:
    """Stands for TRL's log_metric: what a run measures is fixed when it begins."""


def accepted(function: Any, names: Iterable[str]) -> list[str]:
    """Returns those of the names that a function takes as keywords."""
    parameters, filled = _parameters(function), function.kwargs if isinstance(function, Fn) else {}
    names = [name for name in names if name not in filled]
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return names
    return [name for name in names if name in parameters]


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function that are still open; of an fn, those that it does not fill."""
    bare = function.function if isinstance(function, Fn) else function
    filled = function.kwargs if isinstance(function, Fn) else {}
    try:
        parameters = inspect.signature(bare).parameters
    except (TypeError, ValueError):  # a builtin that does not say
        return {"anything": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}
    return {name: each for name, each in parameters.items() if name not in filled}


def check_parameters(function: Any, columns: Sequence[str], whose: str, *, every: bool = True) -> None:
    """Checks that a function asks for what there is.

    Args:
        function: The function.
        columns: The columns of the data's rows.
        whose: The data, for the message.
        every: Whether these are all columns that the data has, or those that it was told to keep.

    Raises:
        ConfigError: It has a parameter that nothing fills, or declares that it reads a column that is not there.
    """
    name = name_of(function)
    for column in declared_columns(function):
        if column not in columns:
            advice = "" if every else f"; a data set in files keeps the columns that it is told to, keep=({column!r},)"
            raise ConfigError(
                f"{name} reads the column {column!r} of each row; {whose} has {', '.join(columns) or 'none'}{advice}"
            )
    for parameter in _parameters(function).values():
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue
        if parameter.default is not inspect.Parameter.empty:
            continue
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigError(f"{name} takes {parameter.name!r} by place alone, and functions are called with keywords")
        if parameter.name not in (*ALWAYS, *columns):
            advice = "call the parameter as the column that it means, or give it a default"
            if not every:
                advice = f"a data set in files keeps the columns that it is told to, keep=({parameter.name!r},)"
            raise ConfigError(
                f"{name} asks for {parameter.name!r}; there are {', '.join(TEXTS)} and of {whose} the columns "
                f"{', '.join(columns) or 'none'}; {advice}"
            )


def keywords(function: Any, questions: Sequence[Question]) -> dict[str, Any]:
    """Returns prompts, completions, completion_ids and columns, an entry a question, as far as a function takes them.

    A column that a row does not have is None there.
    """
    texts: dict[str, list[Any]] = {
        "prompts": [each.row.prompt for each in questions],
        "completions": [each.pick(each.row.completions) for each in questions],
        "completion_ids": [each.pick(each.row.completion_ids) for each in questions],
    }
    names = dict.fromkeys(name for each in questions for name in each.row.columns if name not in ALWAYS)
    columns = {name: [each.row.columns.get(name) for each in questions] for name in accepted(function, names)}
    return columns | {name: texts[name] for name in accepted(function, texts)}
