"""`alignjax list --kind paper`: what of which paper is here and what came out, from papers.toml beside this file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from alignjax import outside

FILE = Path(__file__).with_suffix(".toml")
UNTESTED = "Claim not tested."


@dataclasses.dataclass(frozen=True)
class Paper:
    """What of a paper is here, and how one knows.

    Attributes:
        name: What people call it.
        family: The section that it stands in.
        title: Its title, where the name does not say it.
        arxiv: Its id, where known.
        here: What of it is here; None where nothing is.
        not_here: Why nothing is.
        parts: Public names below `alignjax`.
        command: What runs it.
        tests: Files of tests that name a part, or go over all modes of the command's config.
        experiment: The folder that tests its claim, or says something about it.
        outcome: What came out there, or what else is known.
    """

    name: str
    family: str
    title: str | None = None
    arxiv: str | None = None
    here: str | None = None
    not_here: str | None = None
    parts: Sequence[str] = ()
    command: str | None = None
    tests: Sequence[str] = ()
    experiment: str | None = None
    outcome: str | None = None

    @property
    def known(self) -> str:
        """What came out, which without an experiment begins with that the claim is not tested; "" where it is not
        here."""
        if self.here is None:
            return ""
        return " ".join(([] if self.experiment else [UNTESTED]) + ([self.outcome] if self.outcome else []))


def papers() -> list[Paper]:
    """Reads the list.

    Returns:
        Every paper, section by section.
    """
    return [Paper(**row) for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["paper"]]


def listing(form: str) -> int:
    """Prints the papers.

    Args:
        form: "table" or "json", which has all that is known of each.

    Returns:
        The exit status, 0.
    """
    if form == "json":
        print(json.dumps([dataclasses.asdict(paper) for paper in papers()], indent=2, ensure_ascii=False))
        return 0
    table = Table("paper", "arXiv", "what of it is here", "what came out", header_style="bold", box=SIMPLE_HEAD)
    table.columns[1].no_wrap = True
    family = None
    for paper in papers():
        if family not in (None, paper.family):
            table.add_section()
        family = paper.family
        what = paper.here or f"Not here: {paper.not_here}"
        run = f"\n{paper.command}" if paper.command else ""
        table.add_row(*map(Text, (paper.name, paper.arxiv or "", what + run, paper.known)))
    outside.console().print(table)
    return 0
