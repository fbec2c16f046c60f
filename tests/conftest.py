"""Fixtures that several folders of tests use. What is not a fixture is in `tiny.py`."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jax._src.interpreters import mlir

from alignjax.types import Batch
from tests.support.tiny import as_jax, ragged

# Files of minutes, the longest first: begun in this order, no worker is left alone with one at the end.
LONGEST = (
    "test_mesh", "test_readme", "test_multihost", "test_configs", "test_conformance", "test_step",
    "test_experiments_online", "test_exact_study", "test_played", "test_lm_eval", "test_families", "test_mesh_losses",
    "test_smoke", "test_preparation", "test_transformer", "test_reader_fuzz", "test_generate", "test_algorithms",
    "test_margin", "test_resume", "test_config_smollm2", "test_routing", "test_config_losses", "test_run",
    "test_refill", "test_kernels", "test_scoring",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONGEST and then as they are, for `--no-loadscope-reorder`."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Makes `pytest -m smoke` and `-m long` open only files with that mark, since others import packages that the smoke
    tier lacks, and what takes seconds; so the default tier opens no file that is slow as a whole. One that is long is
    opened where it is asked for: not by `-m ""` either."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    text, whole = collection_path.read_text(), "\npytestmark = pytest.mark.{}\n"
    match config.option.markexpr:
        case "smoke" | "long" as mark:
            skips = f"mark.{mark}" not in text
        case "not slow" | "not slow and not long":
            skips = whole.format("slow") in text or whole.format("long") in text
        case _:
            skips = whole.format("long") in text
    return True if skips else None


def one_ir_context(uses: int = 50) -> None:
    """Makes jax write several programs in one context of MLIR, as jax does of itself from 0.11 on: to make one takes
    longer than to write the program of one operation."""
    if tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11):
        return
    anew, held = mlir.make_ir_context, threading.local()

    def make_ir_context() -> Any:
        held.uses = getattr(held, "uses", 0) + 1
        if held.uses % uses == 1:
            held.context = anew()
        return held.context

    mlir.make_ir_context = make_ir_context


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


def pytest_collection_finish() -> None:
    """Lets the collector pass over what the imports made (millions of objects that stay) and come seldom: traces make
    many objects and little garbage, and looking through them took a tenth of the time."""
    one_ir_context()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Drops compiled programs after the last test of a file when there are many. Each is mapped into memory in several
    pieces, of which Linux allows a process 65,530: a worker that keeps the programs of the whole suite dies in the
    compiler. Files leave some thousands, of operations that the next file needs too; to drop them takes seconds."""
    yield
    pieces = Path("/proc/self/maps")
    if not pieces.exists() or pieces.read_bytes().count(b"\n") > 40_000:
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
