"""Fixtures that several folders of tests use. What is not a fixture is in `tiny.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from alignjax.types import Batch
from tests.support.tiny import as_jax, ragged

# Files of minutes, the longest first: begun in this order, no worker is left alone with one at the end.
LONGEST = (
    "test_config_losses", "test_mesh", "test_readme", "test_multihost", "test_step", "test_played", "test_conformance",
    "test_configs", "test_experiments_online", "test_margin", "test_nash_games", "test_scoring", "test_mesh_losses",
    "test_resume", "test_huggingface", "test_exact", "test_cli_train",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONGEST and then as they are, for `--no-loadscope-reorder`."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Makes `pytest -m smoke` open only files with that mark: others import packages that the smoke tier lacks."""
    test_file = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    skips = config.option.markexpr == "smoke" and test_file and "mark.smoke" not in collection_path.read_text()
    return True if skips else None


@pytest.fixture
def float64() -> Iterator[None]:
    """The test runs in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def full_compile() -> Iterator[None]:
    """The program that a run would get: tests are of values, and compile in half the time to code that runs slower."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Drops a file's compiled programs after its last test. Each is mapped into memory in dozens of pieces, of which
    Linux allows a process 65,530: a worker that keeps the programs of the whole suite dies in the compiler."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Four prompts of ragged length with two ragged completions each."""
    return as_jax(ragged())


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of values computed by other people's code; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    root = Path(os.environ.get("ALIGNJAX_SHARED", beside))
    for folder in (root / "oracles", root.parent / "oracles"):  # the variable may name the data folder in it
        if folder.is_dir():
            return folder
    pytest.skip(f"no values of peers at {root / 'oracles'}; set ALIGNJAX_SHARED to the folder that holds oracles/")


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands of this session keep prepared data and compiled programs, those of all workers together."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """The folder of real data that is not part of the project, or None."""
    root = Path(os.environ.get("ALIGNJAX_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    found = [folder for folder in (root / "data", root) if folder.is_dir()]
    return found[0] if found else None
