"""Writes docs/papers.md, what of which paper is here, from alignjax/cli/papers.toml:

python docs/papers.py
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from alignjax.cli.papers import Paper, papers

TARGET = Path(__file__).resolve().parent / "papers.md"
INTRODUCTION = """\
# Papers

Written by `python docs/papers.py` from [papers.toml](../alignjax/cli/papers.toml), as `alignjax list --kind paper`
prints it: {count} papers; of {here} something is here. "Here" is what a test or an experiment names, and no
more of a paper than the sentence says. Of {tested} an experiment, which is linked, says something, mostly about a part
of what the paper claims. Of all others the claim is not tested: parts are held to what they are, commands train, and
nobody has looked at what the paper says of them.

Modes of [papers](../configs/papers.py) and [decoding](../configs/decoding.py) go from nothing to a tournament by gold
in which SFT's controls play (greedy, T = 0.5, best of four) and, where the paper claims something about a part, the
policy without that part. Where a command trains a mode, `MODE-tiny` runs a few steps of it. Methods for images, sound,
video or robots are not listed, since models here read text; benchmarks, surveys and findings where something of them is
here.
"""


def paper_cell(paper: Paper) -> str:
    """Name, link and title."""
    link = f" [{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    return f"**{paper.name}**{link}" + (f"<br>{paper.title}" if paper.title else "")


def row(paper: Paper) -> str:
    parts = ", ".join(f"`{part}`" for part in paper.parts)
    run = f"<br>`{paper.command}`" if paper.command else ""
    study = ""
    if paper.experiment:
        study = f"[{paper.experiment.rpartition('/')[2]}](../{paper.experiment}/README.md): "
    cells = (paper_cell(paper), paper.here or "", parts + run, study + paper.known)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def section(family: str, members: list[Paper]) -> list[str]:
    """A family: the table of what is here, then the rest with the reasons."""
    lines = [f"\n## {family[0].upper()}{family[1:]}\n"]
    lines += ["| paper | what of it is here | parts, command | what came out |", "| --- | --- | --- | --- |"]
    lines += [row(paper) for paper in members if paper.here]
    if rest := [paper for paper in members if not paper.here]:
        lines += ["", "Not here:", "", *(f"- {paper_cell(paper)}<br>{paper.not_here}" for paper in rest)]
    return lines


def document() -> str:
    every = papers()
    here = [paper for paper in every if paper.here]
    tested = sum(paper.experiment is not None for paper in here)
    lines = [INTRODUCTION.format(count=len(every), here=len(here), tested=tested)]
    for family, members in groupby(every, key=lambda paper: paper.family):
        lines += section(family, list(members))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document())
    print(f"{TARGET}: {len(papers())} papers")
