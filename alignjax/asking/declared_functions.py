"""Functions of texts that say before they are asked what they cannot do without: columns of the rows, and whatever else
can be looked at before a run begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from alignjax.config import Fn, fn

Function = TypeVar("Function", bound=Callable[..., Any])


def declares(
    *, check: Callable[..., None] | None = None, columns: Sequence[str] = ()
) -> Callable[[Function], Function]:
    """Declares what a function of texts needs.

    Args:
        check: Called with the function's hyper-parameters before anything is read; raises ConfigError.
        columns: The hyper-parameters that name a column of the data's rows; one that is "" names none.

    Returns:
        A decorator that returns the function.
    """

    def declare(function: Function) -> Function:
        vars(function).update(check=check, column_parameters=tuple(columns))
        return function

    return declare


def check_declared(function: Any) -> None:
    """Lets a function, or an `fn` of one, look at its hyper-parameters. Raises ConfigError if it cannot be asked so."""
    check = getattr(_bare(function), "check", None)
    if inspect.isfunction(check):
        check(**_settings(function))


def declared_columns(function: Any) -> list[str]:
    """Returns the columns that a function, or an `fn` of one, says that it reads, and those of functions within."""
    parameters = getattr(_bare(function), "column_parameters", None)
    settings = {} if parameters is None else _settings(function)
    inner = [each for value in settings.values() for each in (value if isinstance(value, tuple) else (value,))]
    within = [column for each in inner if callable(each) for column in declared_columns(each)]
    return [settings[name] for name in parameters or () if settings[name]] + within


def _bare(function: Any) -> Any:
    return function.function if isinstance(function, Fn) else function


def _settings(function: Any) -> dict[str, Any]:
    return (function if isinstance(function, Fn) else fn(function)).kwargs
