"""A small tree of packages to read docstrings from, a cache of the tests' own, and the real data if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alignjax.data import Docstrings

VERBS = ("open", "read", "write", "close", "move", "copy", "sort", "merge", "split", "parse", "build", "check", "count")
THINGS = ("file", "socket", "table", "buffer", "record", "window", "header", "packet", "folder", "cursor")


def write_packages(root: Path, packages: int = 24, functions: int = 6) -> None:
    """Packages whose every function has a docstring with a summary and a body of its own."""
    for number in range(packages):
        folder = root / f"package{number}"
        folder.mkdir(parents=True)
        lines = []
        for each in range(functions):
            verb, thing = VERBS[(number + each) % len(VERBS)], THINGS[(number * 3 + each) % len(THINGS)]
            lines += [
                f"def {verb}_{thing}_{number}(path, mode='r'):",
                f'    """{verb.capitalize()} the {thing} of package number {number}, part {each}.',
                "",
                f"    Takes the path of a {thing} and gives back all that it found at place {number} of {each}.",
                '    """',
            ]
        (folder / "__init__.py").write_text("\n".join(lines))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    write_packages(root)
    return root


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """One cache for all tests of this folder, so that equal datasets are prepared once; never the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ALIGNJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def docstrings(site: Path) -> Docstrings:
    return Docstrings(roots=(str(site),), vocab_size=400, max_share=1.0, test_fraction=0.3, workers=2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: $ALIGNJAX_SHARED, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("ALIGNJAX_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ALIGNJAX_SHARED to the folder that holds it")
    return folder
