"""What the site has beside docs/*.md: a page of the API for every room, and the files of the repository that pages link
to, so that no link leads out of the site. A hook of mkdocs (mkdocs.yml); only sources are read, nothing is imported.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
EXPERIMENTS = ROOT / "experiments"
# Rooms whose names are public, in the order of the import order. A package's names are those of its __init__.py, a
# module's those that it defines.
ROOMS = (
    *("algorithms", "losses", "stages", "sampling", "roles", "scoring", "models", "models/huggingface", "games"),
    *(
        "exact_tasks",
        "data",
        "verifiers",
        "language_judges",
        "weights",
        "steering",
        "asking",
        "serving",
        "types",
        "config",
    ),
    *("evaluate/best_of_n", "evaluate/diagnostics", "evaluate/intervals", "evaluate/text_metrics"),
    *("evaluate/tournament", "evaluate/win_rate", "train/loop", "train/pipeline", "train/optimizers", "workspace"),
    *("pipelines/exact_study", "pipelines/loss_families"),
)
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)")
LANGUAGE = {".py": "python", ".sh": "bash", ".toml": "toml", ".json": "json"}


def room_file(room: str) -> Path:
    path = ROOT / "alignjax" / room
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public_names(room: str) -> dict[str, list[str]]:
    """{module: public names}, as a room's source says: what a package imports, or what a module defines."""
    file = room_file(room)
    names: dict[str, list[str]] = {}
    for node in ast.parse(file.read_text()).body:
        if file.name == "__init__.py" and isinstance(node, ast.ImportFrom) and node.module:
            kept = [one.name for one in node.names if one.asname == one.name]
            names.setdefault(node.module, []).extend(kept)
        elif file.name != "__init__.py" and isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.setdefault(f"alignjax.{room.replace('/', '.')}", []).append(node.name)
    shown = {module: [name for name in kept if not name.startswith("_")] for module, kept in names.items()}
    return {module: kept for module, kept in shown.items() if kept}


def dotted(room: str) -> str:
    return f"alignjax.{room.replace('/', '.')}"


def api_uri(room: str) -> str:
    return f"api/{room.replace('/', '.')}.md"


def module_words(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].replace("[", "\\[")


def api_page(room: str) -> str:
    """The page of a room: its first sentence, and every public name under the module that defines it."""
    lines = [f"# {dotted(room)}", module_words(dotted(room))]
    for module, names in public_names(room).items():
        if module != dotted(room):
            lines += [f"## {module.rpartition('.')[2].replace('_', ' ').capitalize()}", module_words(module)]
        lines += [f"::: {dotted(room)}.{name}" for name in names if not name.isupper()]
        if constants := [f"`{name}`" for name in names if name.isupper()]:  # which have no docstring to show
            lines.append(f"Constants: {', '.join(constants)}.")
    return "\n\n".join(lines) + "\n"


def api_index() -> str:
    """The rooms, each with its first sentence."""
    first = {room: module_words(dotted(room)).partition(". ")[0].rstrip(".") for room in ROOMS}
    rows = [f"- [{dotted(room)}]({room.replace('/', '.')}.md): {words}." for room, words in first.items()]
    words = "Every public name, a page a room. The first line of a docstring says what a function computes."
    return "\n".join(["# API reference", "", words, "", *rows, ""])


def page_of(path: Path) -> str | None:
    """Where a file or folder of the repository stands in the site; None: nowhere."""
    path = path / "README.md" if path.is_dir() else path
    if not path.is_file() or not path.is_relative_to(ROOT):
        return None
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return f"{name}.md" if path.suffix in LANGUAGE else name


def targets(source: Path, text: str) -> set[Path]:
    """The files outside docs/ that a page links to."""
    linked = {(source.parent / match[2]).resolve() for match in LINK.finditer(text)}
    linked = {path / "README.md" if path.is_dir() else path for path in linked}
    return {path for path in linked if page_of(path) and not path.is_relative_to(DOCS)}


def on_config(config: Any) -> Any:
    """Puts the API and the experiments into the navigation."""
    studies = sorted(path.relative_to(ROOT).as_posix() for path in EXPERIMENTS.glob("*/README.md"))
    config["nav"] += [{"Experiments": studies}, {"API": ["api/index.md", *(api_uri(room) for room in ROOMS)]}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the API, the experiments and everything that pages link to, and what those link to."""
    files.append(File.generated(config, "api/index.md", content=api_index()))
    for room in ROOMS:
        files.append(File.generated(config, api_uri(room), content=api_page(room)))
    waiting = [*DOCS.rglob("*.md"), EXPERIMENTS]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        linked = [*source.glob("*/README.md")] if source.is_dir() else targets(source, source.read_text())
        for path in sorted({*linked} - seen):
            seen.add(path)
            if path.suffix == ".md":
                waiting.append(path)
            if path.suffix in LANGUAGE:
                text = f"# {path.relative_to(ROOT)}\n\n````{LANGUAGE[path.suffix]}\n{path.read_text()}\n````\n"
                files.append(File.generated(config, page_of(path), content=text))
            else:
                files.append(File.generated(config, page_of(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links between files of the repository into links between pages."""
    here = page.file.src_uri
    if here.startswith("api/") or here.endswith(".py.md"):
        return markdown
    source = DOCS / here if (DOCS / here).is_file() else ROOT / here

    def mended(match: re.Match[str]) -> str:
        path = (source.parent / match[2]).resolve()
        place = page_of(path)
        if place is None:
            return f"{match[1]}#" if path.exists() else match[0]  # a folder without a README
        return f"{match[1]}{os.path.relpath(place, os.path.dirname(here))}"

    return LINK.sub(mended, markdown)


def on_post_build(config: Any) -> None:
    """Refuses a site that would load something from elsewhere."""
    loads = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>|class=\"?mermaid"
    )
    for page in Path(config["site_dir"]).rglob("*.html"):
        if found := loads.search(page.read_text()):
            raise PluginError(f"{page.name} loads from elsewhere: {found.group()}")
