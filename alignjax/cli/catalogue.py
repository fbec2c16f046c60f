"""The catalog behind `alignjax list`: every public method of the package, found by looking.

Nothing is registered. A public function of `losses`, `stages`, `sampling`, ... is listed because it is there. Its kind
follows from its package, its parameters and what it returns; its summary and its paper come from its docstring.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import typing
from types import ModuleType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from alignjax import outside
from alignjax.cli import papers
from alignjax.cli.flags import List
from alignjax.config import check_known

PAPER = "paper"  # not found by looking but written down, in papers.toml
KINDS = ("algorithm", "loss", "part", "sampler", "judge", "stage", "rule", "metric", "game", "merge")
# Where to look, and which kinds stand there. A function of another kind is a helper and is not listed.
ROOMS: dict[str, tuple[str, ...]] = {
    "alignjax.algorithms": ("algorithm",),
    "alignjax.losses": ("loss", "rule", "part"),  # the rule of a state that one loss reads stands beside that loss
    "alignjax.sampling": ("stage", "sampler"),  # a search is a stage
    "alignjax.stages": ("stage", "judge", "rule"),  # of a state that one stage reads, beside that stage
    "alignjax.roles": ("rule",),
    "alignjax.types": ("rule",),  # `frozen`, the default of every role
    "alignjax.evaluate.best_of_n": ("metric",),
    "alignjax.evaluate.text_metrics": ("metric",),
    "alignjax.evaluate.win_rate": ("metric",),
    "alignjax.evaluate.diagnostics": ("metric",),
    "alignjax.games": ("game", "stage", "judge"),
    "alignjax.exact_tasks": ("judge", "stage"),
    "alignjax.weights": ("merge",),
}
# What `losses.surrogate` is made of, by what it takes: ratio, bound, filter, reduction, KL.
PARTS = (
    ["tokens"],
    ["tokens", "log_ratio"],
    ["tokens", "context", "batch"],
    ["values", "mask", "weight"],
    ["difference", "log_ratio"],
)
_ARXIV = re.compile(r"arXiv:\s?(\d{4}\.\d{4,5})")


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry is one line of the catalog. paper: "arXiv:2310.12036", or None where the docstring names none."""

    name: str
    kind: str
    summary: str
    paper: str | None


def kind_of(function: Any, kinds: tuple[str, ...]) -> str | None:
    """Tell the kind of a function among those of its package.

    Args:
        function: A public function.
        kinds: The kinds that its package holds, one value of `ROOMS`.

    Returns:
        The kind, or None for a helper, which is not listed.
    """
    # The parameters that the framework fills: all but the keyword-only hyper-parameters.
    parameters = inspect.signature(function).parameters.values()
    takes = [parameter.name for parameter in parameters if parameter.kind < inspect.Parameter.VAR_POSITIONAL]
    returns = str(getattr(inspect.unwrap(function), "__annotations__", {}).get("return", ""))
    is_kind = {
        "algorithm": "Algorithm" in returns,
        "game": returns == "TabularGame",
        "rule": takes == ["state", "context", "batch", "key"],
        "stage": takes[:3] == ["context", "batch", "key"] and "Batch" in returns,
        "judge": takes[:3] == ["context", "batch", "key"] and "Array" in returns,
        "loss": takes[:2] == ["context", "batch"],
        "part": takes in PARTS,
        # A metric is a number about texts or players, or a table of them; what cuts texts into words returns lists.
        "metric": re.search(r"\b(float|bool|Interval|ndarray)\b", returns) is not None,
        "merge": takes == ["models", "base", "key"],
        "sampler": True,
    }
    return next((kind for kind in kinds if is_kind[kind]), None)


def public(module: ModuleType) -> dict[str, Any]:
    """Collect the public functions of a package or a module, and the objects that decorators made of functions.

    Args:
        module: A package, whose `__init__.py` imports what is public, or a single module, which defines it.

    Returns:
        Function by name, without types, modules and names that begin with an underscore.
    """
    is_package = hasattr(module, "__path__")
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and not isinstance(value, type)
        if typing.get_origin(value) is None
        if is_package or getattr(value, "__module__", None) == module.__name__
    }


def summary(function: Any) -> str:
    """Return the first sentence of a docstring, "" where there is none."""
    text = inspect.getdoc(function) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    # A full stop ends the sentence, unless it stands in an abbreviation or a number.
    end = re.search(r"(?<!\be\.g)(?<!\bi\.e)(?<!\beq)(?<!\bsec)(?<!\bvs)(?<!\bal)\.(?=\s+[A-Z(]|$)", paragraph)
    return paragraph[: end.end()] if end else paragraph


def paper(function: Any) -> str | None:
    """Return the first arXiv id that a docstring names, as "arXiv:2310.12036"."""
    match = _ARXIV.search(inspect.getdoc(function) or "")
    return f"arXiv:{match[1]}" if match else None


def entries() -> list[Entry]:
    """List everything public, by kind and then by name. The modules that it looks into are imported."""
    by_name: dict[tuple[str, str], Entry] = {}
    for room, kinds in ROOMS.items():
        for name, function in public(importlib.import_module(room)).items():
            kind = kind_of(function, kinds)
            if kind is not None:
                by_name.setdefault((kind, name), Entry(name, kind, summary(function), paper(function)))
    return sorted(by_name.values(), key=lambda entry: (KINDS.index(entry.kind), entry.name))


def listing(flags: List) -> int:
    """Print the catalog, or one kind of it; of the kind "paper", what of which paper is here.

    Args:
        flags: The flags of `alignjax list`.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: For a kind that does not exist, naming the nearest.
    """
    # Only the first row of a kind names it, so that the kinds read as groups; programs get every field in every entry.
    kind = flags.kind
    if kind is not None:
        check_known(kind, (*KINDS, PAPER), f"there is no kind {kind!r}")
    if kind == PAPER:
        return papers.listing(flags.format)
    chosen = [entry for entry in entries() if kind in (None, entry.kind)]
    if flags.format == "json":
        print(json.dumps([dataclasses.asdict(entry) for entry in chosen], indent=2))
        return 0
    table = Table("kind", "name", "what it is", "paper", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in (0, 1, 3):
        table.columns[column].no_wrap = True
    previous = None
    for entry in chosen:
        if previous not in (None, entry.kind):
            table.add_section()
        kind_cell = "" if entry.kind == previous else entry.kind
        # Text, because "[B,N]" in a summary is not markup.
        table.add_row(*map(Text, (kind_cell, entry.name, entry.summary, entry.paper or "")))
        previous = entry.kind
    outside.console().print(table)
    return 0
