"""docs/losses.md and the table of docs/traps.md are what the docstrings say, and the docstrings say enough."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from tests.support.commands import ROOT


def generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCS, TRAPS = generator("losses"), generator("traps")
ENTRIES = DOCS.entries()
# Losses that no paper is needed for.
TEXTBOOK = {"sft", "weighted", "davidson"}


def test_the_page_is_fresh() -> None:
    assert (ROOT / "docs" / "losses.md").read_text() == DOCS.document(), "run python docs/losses.py"


def test_the_table_of_traps_is_fresh() -> None:
    assert (ROOT / "docs" / "traps.md").read_text() == TRAPS.document(), "run python docs/traps.py"
    said = {name: words for _, name, words in TRAPS.rows()}
    assert "an indexing slip" in said["stable_alignment"]
    assert said["ulma"].startswith("lam: Weight of the imitation"), "of an argument, with its name"


def test_there_are_as_many_losses_as_the_field_has() -> None:
    assert len(ENTRIES) >= 50
    assert {"dpo", "kto", "lipo", "tdpo", "lcpo"} <= {one.name for one in ENTRIES}


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: one.name)
def test_a_docstring_begins_with_a_formula_and_a_paper(one: ModuleType) -> None:
    assert one.title
    assert len(one.title) < 120, "the first paragraph is 'name in words: formula (arXiv:...)'"
    assert one.formula, "the first paragraph needs a formula after its first colon"
    assert re.search(r"[-+*/^=(]|mean|sum|times", one.formula)
    assert "arXiv" not in one.formula, "papers stand in brackets"
    assert one.papers or one.derived or one.name in TEXTBOOK


def test_derivations_and_papers_are_told_apart() -> None:
    """A loss that cites nothing says whose it is."""
    assert {one.name for one in ENTRIES if not one.papers and not one.derived} == TEXTBOOK
