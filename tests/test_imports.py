"""The house rules that a machine can check: who may import whom, how large a room may be, and what it may be called."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import alignjax

ROOT = Path(alignjax.__file__).resolve().parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)

# What each part may import of the others, nearest first. A part may always import itself.
FOUNDATION = {"config", "types", "numerics", "workspace"}
ALGORITHMS = FOUNDATION | {"pair_layout", "roles", "gradients", "models", "losses", "sampling", "stages"}
TRAIN = ALGORITHMS | {"parallel", "scoring", "train", "algorithms", "data"}
ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "workspace": set(),
    "numerics": set(),
    "types": {"config"},
    "pair_layout": FOUNDATION,
    "roles": FOUNDATION,
    "gradients": FOUNDATION,
    "parallel": FOUNDATION,
    "losses": FOUNDATION | {"pair_layout"},
    "models": FOUNDATION | {"parallel"},
    "scoring": FOUNDATION | {"parallel", "models"},
    "sampling": FOUNDATION | {"parallel", "models"},
    "stages": FOUNDATION | {"parallel", "pair_layout", "models", "sampling"},
    "algorithms": ALGORITHMS,
    "data": FOUNDATION,
    "train": TRAIN,  # data, because an algorithm without losses writes its batches as a source
    "games": TRAIN,  # a game is played by the same stages, losses and updates as anything else
    "evaluate": TRAIN | {"games"},
}
# The command line stands on everything, and nothing stands on it.
OUTSIDE = {"cli"}
FORBIDDEN_FILES = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py", "base.py", "registry.py"}
FORBIDDEN_CLASSES = ("Trainer", "Learner", "Manager", "Runner")


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_parts(path: Path) -> Iterator[str]:
    for module, name in imported(path):
        if module == "alignjax":
            yield name
        elif module.startswith("alignjax."):
            yield module.split(".")[1]


files = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


@files
def test_import_order(path: Path) -> None:
    here = part(path)
    if here in OUTSIDE or here == "__init__":
        return
    assert here in ALLOWED, f"{here} has no place in the import order: say in this file what it may import"
    beyond = set(own_parts(path)) - ALLOWED[here] - {here}
    assert not beyond, f"{path.relative_to(ROOT)} imports {sorted(beyond)}; {here} stands below them"


@files
def test_only_models_import_flax(path: Path) -> None:
    flax = {module for module, _ in imported(path) if module.split(".")[0] == "flax"}
    assert not flax or part(path) == "models"


@files
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "no file is above 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 60, f"{node.name} has more than 60 lines"
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(FORBIDDEN_CLASSES), f"class {node.name}"


@files
def test_rooms_have_a_purpose(path: Path) -> None:
    assert path.name not in FORBIDDEN_FILES
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "the first line of a file says what it is for"


def test_no_training_of_nnx() -> None:
    """nnx makes params; jit, grad, scan and optimizers are jax's and optax's."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nnx":
                assert node.attr not in ("jit", "grad", "value_and_grad", "scan", "Optimizer"), path


def test_parts_that_the_order_names_exist() -> None:
    there = {part(path) for path in FILES}
    assert set(ALLOWED) <= there


def test_no_two_files_of_one_name() -> None:
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert len(set(names)) == len(names), sorted(name for name in set(names) if names.count(name) > 1)
