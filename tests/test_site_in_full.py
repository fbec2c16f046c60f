"""Every command of the path from 101 to 112 and of the README as it stands there, in full, as a shell would run it: in
its order, in one folder a page, compiled as a run is and not as tests are. Run before a release: `pytest -m long`."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests import SETTINGS
from tests.support.commands import environment
from tests.test_readme import AS_THEY_STAND, EXAMPLES
from tests.test_site import PATH, as_they_stand, followed

pytestmark = pytest.mark.long
LIMIT = 3600  # seconds of a command, on a busy machine; alone the longest takes some minutes
PAGES = {page.stem: as_they_stand(page) for page in PATH} | {"README": AS_THEY_STAND}
COMMANDS = [
    pytest.param(page, command, id=f"{page}-{number}")
    for page, commands in PAGES.items()
    for number, command in enumerate(commands, 1)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each page, with the files that pages show."""
    folders = {page: followed(tmp_path_factory.mktemp(page)) for page in PAGES}
    for name, text in EXAMPLES.items():
        (folders["README"] / name).write_text(text)
    return folders


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_runs_in_full(page: str, command: str, folders: dict[str, Path], session_cache: Path) -> None:
    if command.startswith("pip "):
        pytest.skip("it needs a network, and has brought us here")
    compilation = {*SETTINGS, "XLA_FLAGS"}
    environ = {name: value for name, value in environment(session_cache).items() if name not in compilation}
    words = ["env", *shlex.split(command, comments=True)]  # which takes the variables in front of a command
    done = subprocess.run(
        words, cwd=folders[page], env=environ, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.strip(), command
