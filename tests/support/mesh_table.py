"""Writes the table of mesh_program.py: a line a recipe and mesh, of differences and of what was gathered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBERS = ("batch", "losses", "gradient", "roles")
WEIGHTS = ("a layer", "ends", "all layers")


def row(name: str, label: str, cell: Mapping[str, Any]) -> str:
    numbers = "".join(f"{cell[key]:9.1e}" for key in NUMBERS)
    kept = "kept" if cell["shardings_kept"] else "MOVED"
    made, learned = (_listed(cell[which]) for which in ("experience", "update"))
    return f"{name:20} {label:6}{numbers} {kept:6}{cell['seconds']:6.1f}  {made:24} | {learned}"


def _listed(kinds: Mapping[str, list[str]]) -> str:
    said = {kind: "" if kind in WEIGHTS else " " + " ".join(shapes) for kind, shapes in kinds.items()}
    return ", ".join(f"{kind}{shapes}" for kind, shapes in said.items())


def head() -> str:
    names = "".join(f"{name:>9}" for name in NUMBERS)
    return f"{'recipe':20} {'mesh':6}{names} state  seconds {'gathered by experience':24} | by update"


def summary(table: Mapping[str, Mapping[str, Any]]) -> str:
    cells = [cell for cells in table.values() for label, cell in cells.items() if label != "1"]
    worst = ", ".join(f"{name} {max(cell[name] for cell in cells):.1e}" for name in NUMBERS)
    odd = sum(not cell["shardings_kept"] or "unexpected" in {**cell["experience"], **cell["update"]} for cell in cells)
    return f"{len(table)} recipes, {len(cells)} cells; worst: {worst}; {odd} with another layout or unexpected gathers"
