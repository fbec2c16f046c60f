"""The house rules that a machine can check: who may import whom, how large a file may be, what it may be called and how
it speaks. Each test collects all offenders."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import alignjax
from tests.support.commands import ROOT

PACKAGE = Path(alignjax.__file__).resolve().parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "__pycache__" not in path.parts)

# What each part may import of the others, nearest first. A part may always import itself.
FOUNDATION = {
    "content_hashes",
    "config",
    "gguf_files",
    "ranges",
    "json_shapes",
    "types",
    "numerics",
    "tree_names",
    "workspace",
    "outside",
}
ALGORITHMS = FOUNDATION | {"pair_layout", "user_scores", "roles", "models", "losses", "sampling", "stages"}
TRAIN = ALGORITHMS | {"parallel", "scoring", "train", "algorithms", "data", "asking"}
ALLOWED: dict[str, set[str]] = {
    "ranges": set(),
    "config": {"ranges", "outside"},
    "content_hashes": {"outside", "workspace"},
    "gguf_files": {"config", "outside"},
    "json_shapes": {"config", "ranges"},
    "outside": set(),
    "workspace": {"config", "json_shapes", "outside"},
    "numerics": set(),
    "tree_names": set(),
    "types": {"config", "ranges"},
    "pair_layout": FOUNDATION,
    "user_scores": FOUNDATION,
    "roles": FOUNDATION,
    "weights": FOUNDATION | {"models"},
    "steering": FOUNDATION | {"models"},
    "parallel": FOUNDATION,
    "losses": FOUNDATION | {"pair_layout", "user_scores"},
    "models": FOUNDATION | {"parallel"},
    "scoring": FOUNDATION | {"parallel", "models"},
    "sampling": FOUNDATION | {"parallel", "models"},
    "stages": FOUNDATION | {"parallel", "pair_layout", "user_scores", "models", "sampling"},
    "algorithms": ALGORITHMS,
    "data": FOUNDATION,
    "asking": FOUNDATION | {"stages", "data"},
    "verifiers": FOUNDATION | {"asking"},
    "language_judges": FOUNDATION | {"asking"},
    "train": TRAIN,  # data, because an algorithm without losses writes its batches as a source
    "games": TRAIN,  # a game is played by the same stages, losses and updates as anything else
    "evaluate": TRAIN | {"games", "exact_tasks"},
    "exact_tasks": FOUNDATION | {"pair_layout", "stages", "data"},
    "pipelines": TRAIN | {"games", "evaluate", "exact_tasks"},
    "serving": FOUNDATION | {"parallel", "models", "scoring", "sampling", "data"},
}
# The command line stands on everything, and nothing stands on it.
OUTSIDE = {"cli"}
FORBIDDEN_FILES = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py", "base.py", "registry.py"}
FORBIDDEN_CLASSES = ("Trainer", "Learner", "Manager", "Runner")
NNX_TRAINING = ("jit", "grad", "value_and_grad", "scan", "Optimizer")
# What a config imports beside itself is found as `python FILE` finds it.
CHANGES_THE_PATH = {"config_file.py"}
BRITISH = re.compile(
    r"\w*(?:behaviour|colour|favour|honour|neighbour|cent(?:re|red)\b|maths\b|licence|grey\b|artefact|programme(?!d|r)"
    r"|(?:normal|optim|regular|quant|summar|organ|minim|maxim|initial|general|special|recogn|token|vector|serial"
    r"|random|penal|factor|real|emphas|parametr|standard|stabil|character|desensit|symmetr|final|util|local)is"
    r"(?:e|es|ed|er|ers|ing|ation|ations)\b|analys(?:e|ed|es)\b|whilst|amongst|learnt|spelt)\w*",
    re.IGNORECASE,
)
# Names of configs, parameters, roles and losses that users type; they stay as they are.
NAMES = {"behaviour", "centre", "length_desensitised", "rank_stabilised", "summarisation"}
# A heading of reports, which stay as they are.
HEADINGS = {"learning_curves.py": "optimisation"}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import in a file, wherever it stands."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def parts_imported(path: Path) -> Iterator[str]:
    for module, name in imports(path):
        if module == "alignjax":
            yield name
        elif module.startswith("alignjax."):
            yield module.split(".")[1]


def path_changes(path: Path) -> list[str]:
    """Lines that change where modules are looked for."""
    change = re.compile(r"sys\.path\b(?:\[.*\])?(?:\.(?:insert|append|extend)\(| ?\+?= )")
    return [f"{path.name}: {line.strip()}" for line in path.read_text().splitlines() if change.search(line)]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def documented(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def length(node: ast.FunctionDef | ast.AsyncFunctionDef, docstring: bool = True) -> int:
    lines = (node.end_lineno or 0) - node.lineno + 1
    first = node.body[0]
    return lines if docstring or not documented(node) else lines - ((first.end_lineno or 0) - first.lineno + 1)


def said(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment and every string of a file."""
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def named(path: Path, offence: object) -> str:
    return f"{path.relative_to(ROOT)}: {offence}"


def none(offences: Iterable[str]) -> None:
    if every := list(offences):
        pytest.fail("\n".join(every), pytrace=False)


def test_parts_import_only_what_stands_below_them() -> None:
    assert set(ALLOWED) <= {part(path) for path in FILES}
    unknown = {part(path) for path in FILES} - {*ALLOWED, *OUTSIDE, "__init__"}
    assert not unknown, f"{unknown} have no place in the import order: say in this file what they may import"
    none(
        named(path, f"imports {sorted(beyond)}; {part(path)} stands below them")
        for path in FILES
        if part(path) in ALLOWED and (beyond := {*parts_imported(path)} - ALLOWED[part(path)] - {part(path)})
    )


def test_imports_say_where_from() -> None:
    """No relative ones, which hide who imports whom; none of tests; and nothing makes a way round by sys.path."""
    none(
        named(path, f"imports {module or name}")
        for path in FILES
        for module, name in imports(path)
        if module.startswith(".") or module.split(".")[0] in ("tests", "configs", "experiments", "benchmarks")
    )
    none(change for path in FILES if path.name not in CHANGES_THE_PATH for change in path_changes(path))


def test_only_models_import_flax_and_nnx_trains_nothing() -> None:
    """nnx makes params; jit, grad, scan and optimizers are jax's and optax's."""
    flax = {path for path in FILES for module, _ in imports(path) if module.split(".")[0] == "flax"}
    none(named(path, "imports flax") for path in flax if part(path) != "models")
    none(
        named(path, f"nnx.{node.attr}")
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nnx"
        if node.attr in NNX_TRAINING
    )


def test_files_are_small_and_named_for_what_they_hold() -> None:
    none(named(path, "more than 400 lines") for path in FILES if len(path.read_text().splitlines()) > 400)
    none(named(path, "a name that says nothing") for path in FILES if path.name in FORBIDDEN_FILES)
    none(
        named(path, "the first line of a file says what it is for")
        for path in FILES
        if tree(path).body and not ast.get_docstring(tree(path))
    )
    names = [path.name for path in FILES if path.name != "__init__.py"]
    none(named(path, "another file has this name") for path in FILES if names.count(path.name) > 1)
    none(
        named(path, f"class {node.name}")
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and node.name.endswith(FORBIDDEN_CLASSES)
    )


def test_long_functions_say_how_they_work() -> None:
    """Above 30 lines, the docstring not counted, a comment stands at the head, beside the docstring."""

    def commented(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Between the signature and the first statement that is no docstring."""
        parameters = [arg.end_lineno or 0 for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
        first = node.body[min(documented(node), len(node.body) - 1)]
        head = path.read_text().splitlines()[max([node.lineno, *parameters]) : first.lineno - 1]
        return any(line.strip().startswith("#") for line in head)

    none(
        named(path, f"{node.name}:{node.lineno} has no comment at its head")
        for path in FILES
        for node in functions(path)
        if length(node, docstring=False) > 30 and not commented(path, node)
    )


def test_functions_are_short() -> None:
    none(
        named(path, f"{node.name} has more than 60 lines")
        for path in FILES
        for node in functions(path)
        if length(node) > 60
    )


def test_spelling_is_american() -> None:
    none(
        named(path, f"line {line}: {word.group()}")
        for path in FILES
        for line, text in said(path)
        for word in BRITISH.finditer(text)
        if word.group() not in NAMES and word.group() != HEADINGS.get(path.name)
    )


def test_tests_import_by_full_names() -> None:
    """What tests import is a package that is installed, or stands at the root of the repository."""
    beside = {path.stem for folder in ("tests", "configs", "experiments") for path in (ROOT / folder).rglob("*.py")}
    beside -= {"tests", "alignjax", "benchmarks", "__init__", "conftest"}
    none(
        named(path, f"imports {module}")
        for path in TESTS
        for module, _ in imports(path)
        if module.startswith(".") or module.split(".")[0] in beside
    )
    # What runs mutants puts a copy of the checkout in the place of the checkout.
    none(change for path in TESTS if "mutants" not in path.parts for change in path_changes(path))
