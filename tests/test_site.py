"""Every command of the site's pages runs as it stands there, on the files that the pages show. A mode that is not tiny,
which takes minutes, is a dry run; test_site_in_full.py has it as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run

DOCS = ROOT / "docs"
PATH = sorted((DOCS / "path").glob("*.md"))
SECTIONS = ["Command", "What you see", "What to inspect", "What to try", "Cost"]
TITLED = re.compile(r'```\w+ title="([^"]+)"\n(.*?)```', re.S)
CONSOLE = re.compile(r"```console\n(.*?)```", re.S)
# A command within a sentence. One with a placeholder, FOLDER or .., is a form and no command.
WITHIN = re.compile(r"`(alignjax (?:explain|list|train|report) [^`]+)`")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|\.\.")
FILES = {name: text for page in PATH for name, text in TITLED.findall(page.read_text())}
PICTURE = "online_ipo.svg"  # which a command writes and the page shows


def as_they_stand(page: Path) -> list[str]:
    """The commands of a page in their order, those within sentences last."""
    text = page.read_text()
    lines = [line for block in CONSOLE.findall(text) for line in block.splitlines()]
    within = [command for command in WITHIN.findall(text) if not PLACEHOLDER.search(command)]
    return [*lines, *within]


def commands(page: Path) -> list[str]:
    """The commands of a page, each as it is run here; to install is what has brought us here."""
    return [shortened(line) for line in as_they_stand(page) if not line.startswith("pip ")]


def shortened(command: str) -> str:
    """The command; a dry run of it if it would train a mode that is not tiny."""
    words = shlex.split(command)
    if words[:2] != ["alignjax", "train"] or {"--dry-run", "--help"} & {*words} or words[2].endswith("tiny"):
        return command
    whole = words[2] in FILES and "def get_config(mode" not in FILES[words[2]]  # small as it stands
    return command if whole else f"{command} --dry-run"


def followed(folder: Path) -> Path:
    """The folder as somebody has it who follows the path, with the files of its pages."""
    for name in ("configs", "examples", "tpu"):
        shutil.copytree(ROOT / name, folder / name)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return followed(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Commands that have run: a run that several pages look at is made once."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("page", [DOCS / "index.md", *PATH], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, folder: Path, session_cache: Path, done: set[str]) -> None:
    for command in commands(page):
        if command not in done:
            assert run(command, folder, session_cache).strip(), command
            done.add(command)
    if PICTURE in page.read_text():
        shown = (DOCS / "path" / PICTURE).read_text()
        assert (folder / PICTURE).read_text() == shown, f"copy the {PICTURE} that the command writes to docs/path"


def test_the_path_goes_from_101_to_112() -> None:
    assert [int(page.name[:3]) for page in PATH] == [*range(101, 113)]


@pytest.mark.parametrize("page", PATH, ids=lambda page: page.stem)
def test_a_page_has_a_command_what_comes_of_it_and_its_cost(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert commands(page)
    assert "CPU" in text.split("## Cost")[1]


def test_titles_are_of_one_file_each() -> None:
    titles = [title for page in PATH for title, _ in TITLED.findall(page.read_text())]
    assert len(titles) == len({*titles})


def test_a_mode_of_minutes_is_a_dry_run() -> None:
    assert shortened("alignjax train quickstart") == "alignjax train quickstart --dry-run"
    assert shortened("alignjax train quickstart:tiny --run-dir a") == "alignjax train quickstart:tiny --run-dir a"
    assert shortened("alignjax train my_dpo.py") == "alignjax train my_dpo.py"
    assert shortened("alignjax train squared_hinge.py") == "alignjax train squared_hinge.py --dry-run"
