"""Writes the table of docs/traps.md, what released code does otherwise, from the docstrings of public functions:

python docs/traps.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from alignjax.cli import catalogue

TARGET = Path(__file__).resolve().parent / "traps.md"
MARK = "<!-- Below this line: written by `python docs/traps.py` from the docstrings. -->\n"
SAYS = re.compile(r"\b[Rr]eleased code|\bTRL\b|\b(?:[Ii]ts|[Tt]hat|the paper's) code\b")
SENTENCE = re.compile(r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\beq\.)(?<!\bsec\.)(?<!\bvs\.)(?<=\.)\s+(?=[A-Z`(])")
SECTION = re.compile(r"^(Args|Returns|Raises|Attributes):$")


def sentences(function: Any) -> list[str]:
    """The sentences of a docstring that speak of other people's code; of an argument's, with its name in front."""
    paragraphs: list[list[str]] = [[]]
    for line in (inspect.getdoc(function) or "").splitlines():
        begins = not line.strip() or SECTION.match(line) or re.match(r"^    \*{0,2}\w+: ", line)
        if begins:
            paragraphs.append([])
        if line.strip() and not SECTION.match(line):
            paragraphs[-1].append(line.strip())
    found = []
    for paragraph in paragraphs:
        text = " ".join(paragraph)
        name = re.match(r"^(\w+): ", text) if paragraph and paragraph is not paragraphs[0] else None
        for sentence in SENTENCE.split(text):
            if SAYS.search(sentence):
                lead = f"{name[1]}: " if name and not sentence.startswith(f"{name[1]}: ") else ""
                found.append(f"{lead}{sentence}")
    return found


def rows() -> list[tuple[str, str, str]]:
    """(kind, name, sentences) of every public function whose docstring speaks of other people's code."""
    made = []
    for entry in catalogue.entries():
        for room in catalogue.ROOMS:
            function = catalogue.public(importlib.import_module(room)).get(entry.name)
            if function is not None and catalogue.kind_of(function, catalogue.ROOMS[room]) == entry.kind:
                if said := sentences(function):
                    made.append((entry.kind, entry.name, " ".join(said)))
                break
    return made


def table() -> str:
    lines = ["| | name | what its docstring says |", "| --- | --- | --- |"]
    for kind, name, said in rows():
        escaped = said.replace("|", "\\|").replace("[", "\\[").replace("*", "\\*").replace("<", "&lt;")
        lines.append(f"| {kind} | `{name}` | {escaped} |")
    return "\n".join(lines) + "\n"


def document() -> str:
    """The page: what was written by hand above the mark, and the table."""
    return TARGET.read_text().partition(MARK)[0] + MARK + "\n" + table()


if __name__ == "__main__":
    TARGET.write_text(document())
    print(f"{TARGET}: {len(rows())} functions")
