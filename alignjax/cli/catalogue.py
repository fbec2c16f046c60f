"""What the framework has, found by looking: `alignjax list`.

Nothing is registered. A public function of `losses/`, `stages/`, `sampling/`, ... is listed because it is there; its
kind follows from where it lives and from its parameters, its line and its paper from its docstring.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

KINDS = ("algorithm", "loss", "sampler", "judge", "stage", "rule", "metric", "game")
_ARXIV = re.compile(r"arXiv:\s?(\d{4}\.\d{4,5})")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the catalogue. paper: "arXiv:2310.12036", or None where the docstring names none."""

    name: str
    kind: str
    summary: str
    paper: str | None


def _positional(function: Any) -> tuple[str, ...]:
    """Names of the parameters that a caller in the framework fills: all but the keyword-only hyper-parameters."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    wanted = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in wanted)


def _returns(function: Any) -> str:
    return str(getattr(inspect.unwrap(function), "__annotations__", {}).get("return", ""))


def _loss(function: Any) -> str | None:
    return "loss" if _positional(function)[:2] == ("context", "batch") else None


def _stage_or_judge(function: Any) -> str | None:
    if _positional(function)[:3] != ("context", "batch", "key"):
        return None
    return {"Batch": "stage", "Array": "judge"}.get(_returns(function).rpartition(".")[2])


def _sampler(function: Any) -> str:
    return "stage" if _stage_or_judge(function) == "stage" else "sampler"  # a search is a stage


def _rule(function: Any) -> str | None:
    return "rule" if _positional(function) == ("own", "context", "batch", "key") else None


def _loss_or_rule(function: Any) -> str | None:
    return _loss(function) or _rule(function)  # the rule of a state that one loss reads stands beside it


def _algorithm(function: Any) -> str | None:
    return "algorithm" if "Algorithm" in _returns(function) else None


def _metric(function: Any) -> str | None:
    """A number about texts or players, or a table of them; what cuts texts into words on the way returns lists."""
    return "metric" if re.search(r"\b(float|bool|Interval|ndarray)\b", _returns(function)) else None


def _game(function: Any) -> str | None:
    return "game" if _returns(function) == "TabularGame" else _stage_or_judge(function)


# Where to look and what a public function there is; None from the second means: a helper, not listed.
ROOMS: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
    ("alignjax.algorithms", _algorithm),
    ("alignjax.losses", _loss_or_rule),
    ("alignjax.sampling", _sampler),
    ("alignjax.stages", _stage_or_judge),
    ("alignjax.roles", _rule),
    ("alignjax.evaluate.text_metrics", _metric),
    ("alignjax.evaluate.win_rate", _metric),
    ("alignjax.evaluate.diagnostics", _metric),
    ("alignjax.evaluate.controllability", _metric),
    ("alignjax.games", _game),
)


def _modules(name: str) -> Iterator[ModuleType]:
    """The module that says what is public: a package with `__all__` speaks for the modules in it, one without leaves it
    to them."""
    module = importlib.import_module(name)
    yield module
    if hasattr(module, "__all__"):
        return
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not info.name.startswith("_"):
            yield from _modules(f"{name}.{info.name}")


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions, and objects made from functions by a decorator, in a module's `__all__` or defined in it."""
    listed = getattr(module, "__all__", None)
    for name in listed if listed is not None else [name for name in vars(module) if not name.startswith("_")]:
        value = getattr(module, name)
        own = listed is not None or getattr(value, "__module__", None) == module.__name__
        if own and callable(value) and not isinstance(value, type) and not _is_typing(value):
            yield name, value


def _is_typing(value: Any) -> bool:
    return typing.get_origin(value) is not None or type(value).__module__ == "typing"


def summary(function: Any) -> str:
    """The first sentence of a docstring."""
    text = inspect.getdoc(function) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    # A full stop ends the sentence, unless it stands in an abbreviation or a number.
    end = re.search(r"(?<!\be\.g)(?<!\bi\.e)(?<!\beq)(?<!\bsec)(?<!\bvs)(?<!\bal)\.(?=\s+[A-Z(]|$)", paragraph)
    return paragraph[: end.end()] if end else paragraph


def paper(function: Any) -> str | None:
    """The first arXiv id that a docstring names."""
    found = _ARXIV.search(inspect.getdoc(function) or "")
    return f"arXiv:{found[1]}" if found else None


def entries() -> list[Entry]:
    """Everything public, by kind and then by name. Imports the modules it looks into."""
    found: dict[tuple[str, str], Entry] = {}
    for room, kind_of in ROOMS:
        for module in _modules(room):
            for name, function in _public(module):
                kind = kind_of(function)
                if kind is not None:
                    found.setdefault((kind, name), Entry(name, kind, summary(function), paper(function)))
    return sorted(found.values(), key=lambda entry: (KINDS.index(entry.kind), entry.name))
