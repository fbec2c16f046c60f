"""Checks that what stands in an algorithm's slots can be called as it will be, before it is traced."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from alignjax.asking.function_keywords import TEXTS
from alignjax.config import ConfigError, Fn, functions_within
from alignjax.types import Algorithm

CALLED = {"stage": ("context", "batch", "key"), "loss": ("context", "batch")}


def check_slots(algorithm: Algorithm) -> None:
    """Checks that stages, the judges and stages within them, and losses take what they are called with.

    Raises:
        ConfigError: One is no function, or takes something else; of a function of texts it says where that goes.
    """
    for slot, kind, function in _slots(algorithm):
        if not callable(function):
            raise ConfigError(f"{slot} is {function!r}; it must be a function of ({', '.join(CALLED[kind])})")
        if not _takes(function, len(CALLED[kind])):
            name, takes = getattr(function, "name", repr(function)), _parameters(function)
            texts = set(TEXTS) & set(takes)
            advice = f"; a function of texts goes into fn(stages.text_reward, function={name})" if texts else ""
            wanted = f"is called as ({', '.join(CALLED[kind])}) and takes ({', '.join(takes)})"
            raise ConfigError(f"{slot} is {name}, which {wanted}{advice}")


def _slots(algorithm: Algorithm) -> Iterator[tuple[str, str, Any]]:
    for name, stage in algorithm.experience.items():
        yield f"stage {name!r}", "stage", stage
        for within in functions_within(stage):
            for inner in ("judge", "stage"):
                if within.kwargs.get(inner) is not None:
                    yield f"stage {name!r}: {inner} of {within.name}", "stage", within.kwargs[inner]
    for name, loss in algorithm.losses.items():
        yield f"loss {name!r}", "loss", loss


def _takes(function: Any, count: int) -> bool:
    """Whether a function can be called with so many arguments by place, its hyper-parameters beside them."""
    bare, filled = (function.function, function.kwargs) if isinstance(function, Fn) else (function, {})
    try:
        inspect.signature(bare).bind(*range(count), **filled)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say
        return True
    return True


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function.function if isinstance(function, Fn) else function).parameters)
