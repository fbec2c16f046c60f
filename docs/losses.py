"""Writes docs/losses.md, the table of all losses, from their docstrings:

python docs/losses.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

from alignjax import losses
from alignjax.cli import catalogue
from alignjax.config import Fn, hyperparameters
from alignjax.losses.decorators.declared import is_loss

TARGET = Path(__file__).resolve().parent / "losses.md"
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
# What nearly every loss has, told once in the introduction. Another default than this is shown in the table.
SHARED = {"role": "policy", "reference": "reference", "pairs": ((0, 1),), "normalize": "none"}
INTRODUCTION = """\
# Losses

Written by `python docs/losses.py` from the docstrings, which say more: shapes and units, where a loss is minimized,
what differs from the paper or from released code. `alignjax.losses.NAME` is the function, `fn(losses.NAME, ...)` its
place in an algorithm, `alignjax list` the short form of this page.

Notation: S is the logistic function; y_w, y_l (w, l) are the preferred and the other completion, p is the probability
that the first of a pair is preferred; lp(y), lr(y) are the log-probabilities of a completion in nats under the policy
and under the reference, summed over its tokens unless a formula says otherwise; rho = lp - lr; h = margin = rho_w -
rho_l; len is the number of tokens that count; z is the probability that a completion is good, r its reward; sg stops
the gradient. A formula with w and l is mixed with the label: p loss(i, j) + (1-p) loss(j, i). Every loss is one
weighted mean over the whole batch, on all devices.

Hyper-parameters stand with their defaults; one without must be given. Not repeated where a loss has them with these
defaults: `role="policy"`, what is trained; `reference="reference"`, what log-ratios are against; `pairs=((0, 1),)`,
which completions are compared; `normalize="none"`, sums over tokens, or `"length"`, means.
"""


class Entry(NamedTuple):
    """One row of the table. title and formula: the first paragraph of the docstring, cut at its first colon; papers:
    arXiv ids that it names; derived: whether the docstring says that a part is our derivation."""

    name: str
    module: str
    title: str
    formula: str
    papers: tuple[str, ...]
    derived: bool
    hyper: str


def shown(value: Any) -> str:
    """A default as it would be written in a config."""
    if isinstance(value, Fn):
        inner = [f"{key}={shown(v)}" for key, v in value.kwargs.items() if key not in SHARED]
        return f"fn({', '.join([value.name, *inner])})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def hyper_of(function: Any) -> str:
    parts = []
    for name, parameter in hyperparameters(function).items():
        if parameter.default is inspect.Parameter.empty:
            parts.append(f"`{name}`")
        elif name not in SHARED or parameter.default != SHARED[name]:
            parts.append(f"`{name}={shown(parameter.default)}`")
    return ", ".join(parts)


def entry(name: str) -> Entry:
    function = getattr(losses, name)
    text = inspect.getdoc(function) or ""
    paragraph = " ".join(text.split("\n\n")[0].split()).removesuffix(".")
    papers = tuple(dict.fromkeys(ARXIV.findall(paragraph)))
    # The brackets that name papers are a column of their own.
    bare = re.sub(r"\s*\([^()]*arXiv:[^()]*\)", "", paragraph)
    title, _, formula = bare.partition(": ")
    return Entry(name, function.__module__, title, formula, papers, "our derivation" in " ".join(text.split()),
                 hyper_of(function))  # fmt: skip


def entries() -> list[Entry]:
    """Every public loss, by module in alphabetical order and then by name."""
    rows = [entry(name) for name, function in catalogue.public(losses).items() if is_loss(function)]
    return sorted(rows, key=lambda entry: (entry.module, entry.name))


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def row(loss: Entry) -> str:
    papers = [f"[{paper}](https://arxiv.org/abs/{paper})" for paper in loss.papers]
    source = ", ".join([*papers, *(["our derivation, see its docstring"] if loss.derived else [])]) or "textbook"
    formula = f"`{loss.formula.replace('`', '')}`"
    name = f"[`{loss.name}`](../{loss.module.replace('.', '/')}.py)"
    return f"| {name} | {cell(loss.title)} | {cell(formula)} | {source} | {cell(loss.hyper)} |"


def document() -> str:
    lines, module = [INTRODUCTION], ""
    for loss in entries():
        if loss.module != module:
            module = loss.module
            words = " ".join((importlib.import_module(module).__doc__ or "").split("\n\n")[0].split())
            words = words.replace("[", "\\[")  # a shape is no link
            heading = module.rpartition(".")[2].replace("_", " ").capitalize()
            lines += [f"\n## {heading}\n", f"{words}\n", "| name | what it is | formula | paper | hyper-parameters |"]
            lines += ["| --- | --- | --- | --- | --- |"]
        lines.append(row(loss))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document())
    print(f"{TARGET}: {len(entries())} losses")
