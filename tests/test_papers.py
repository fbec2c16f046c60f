"""The list of papers is true as far as files can say: every part, test, experiment and mode that it names is there."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

from alignjax.cli import main, parsed
from alignjax.cli.behavior_flags import behavior_of
from alignjax.cli.config_file import imported, modes_of
from alignjax.cli.papers import Paper, papers
from tests.support.commands import ROOT

PAPERS = papers()
HERE = [paper for paper in PAPERS if paper.here]
COMMANDS = sorted({paper.command for paper in HERE if paper.command})
# The tests that bring every mode of a config to its shapes, which is all that a dry run does, or train it.
OVER_ALL_MODES = {name: f"tests/test_config_{name}.py" for name in ("losses", "online", "papers", "decoding", "lora")}
OVER_ALL_MODES |= {"quickstart": "tests/test_readme.py", "dpo": "tests/test_configs.py"}

each = pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
each_here = pytest.mark.parametrize("paper", HERE, ids=lambda paper: paper.name)


@functools.cache
def text_below(folder: str) -> str:
    """The Python and Markdown of a folder, or a file."""
    files = [ROOT / folder] if (ROOT / folder).is_file() else sorted((ROOT / folder).rglob("*.[pm][yd]"))
    return "\n".join(file.read_text() for file in files)


def test_nobody_is_listed_twice() -> None:
    for names in ([paper.name for paper in PAPERS], [paper.arxiv for paper in PAPERS if paper.arxiv]):
        assert len(names) == len(set(names))
    assert len(PAPERS) >= 133


@each
def test_an_entry_says_what_is_here_or_why_nothing_is(paper: Paper) -> None:
    assert (paper.here is None) != (paper.not_here is None)
    assert paper.arxiv is None or re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
    for sentence in (paper.here, paper.not_here, paper.outcome):
        assert sentence is None or re.fullmatch(r"[A-Z0-9].*\.", sentence)
    evidence = (paper.parts, paper.command, paper.tests, paper.experiment, paper.outcome)
    if paper.here is None:
        assert not any(evidence)
    else:
        assert paper.parts
        assert paper.tests or paper.experiment
        assert paper.outcome or not paper.experiment, "what came out"


@each_here
def test_its_parts_are_public_and_its_id_is_in_the_sources(paper: Paper) -> None:
    for part in paper.parts:
        module, _, name = f"alignjax.{part}".rpartition(".")
        assert not name.startswith("_")
        value = getattr(importlib.import_module(module), name)
        assert callable(value), f"{part} is a module"
        assert inspect.getdoc(value)
    sources = ("alignjax", "configs", "experiments")
    assert paper.arxiv is None or any(paper.arxiv in text_below(folder) for folder in sources)


@each_here
def test_its_tests_and_its_experiment_name_it(paper: Paper) -> None:
    """By a part, unless the test is the one that goes over all modes of the config."""
    names = "|".join(part.rpartition(".")[2] for part in paper.parts)
    command = paper.command or ""
    config = command.split()[2].partition(":")[0] if command.startswith("alignjax train") else ""
    for place in (*paper.tests, *([paper.experiment] if paper.experiment else [])):
        assert (ROOT / place).exists(), place
        assert place == OVER_ALL_MODES.get(config) or re.search(rf"\b({names})\b", text_below(place)), place
    if paper.experiment:
        assert (ROOT / paper.experiment / "README.md").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_its_command_parses_and_names_a_mode_that_runs_elsewhere(command: str) -> None:
    """Train commands name modes that the slow tier brings to their shapes or trains (OVER_ALL_MODES), so that none is
    run here a second time."""
    program, name, *words = shlex.split(command)
    assert program == "alignjax"
    flags, more = parsed(name, words)
    if name == "generate":
        behavior_of(flags.behavior, more, list(vars(flags)))
    else:
        assert not more
    if name == "train":
        config, _, mode = flags.config.partition(":")
        module = imported(ROOT / "configs" / f"{config}.py")
        assert (ROOT / OVER_ALL_MODES[config]).is_file()
        assert not mode or mode in modes_of(module.get_config, getattr(module, "MODES", None))


def test_every_mode_of_the_papers_config_is_in_the_list() -> None:
    modes = set(imported(ROOT / "configs" / "papers.py").PAPERS)
    assert {f"alignjax train papers:{mode}" for mode in modes} <= set(COMMANDS)


def test_the_page_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("paper_docs", ROOT / "docs" / "papers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert Path(module.TARGET).read_text() == module.document(), "run python docs/papers.py"


def test_papers_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "--kind", "paper"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for paper in PAPERS for word in re.findall(r"\w+", paper.name)[:1])
    assert "alignjax train papers:recap" in shown
    assert main(["list", "--kind", "paper", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == [paper.name for paper in PAPERS]
    assert {*listed[0]} >= {"name", "arxiv", "here", "not_here", "parts", "command", "tests", "experiment", "outcome"}
