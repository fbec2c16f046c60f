"""Where the configs that come with alignjax are: in the package where it was installed, beside it in a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

from alignjax.outside import visible

PACKAGE = Path(__file__).resolve().parents[1]


def packaged() -> dict[str, Path]:
    """Returns the files of the configs that come with alignjax, by name."""
    installed = PACKAGE / "configs"
    folder = installed if installed.is_dir() else PACKAGE.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def by_name(name: Path) -> Path | None:
    """Finds the config that a name without folder and suffix means: NAME.py of the working folder, which is said where
    alignjax comes with one too, else the one that comes with it.

    Args:
        name: What a person wrote.

    Returns:
        The file; None where there is none, or the name is a path.
    """
    if name.suffix or len(name.parts) != 1:
        return None
    here, ours = name.with_suffix(".py"), packaged().get(name.name)
    if here.is_file():
        if ours is not None:
            shown = visible(str(here))
            print(
                f"{shown} of this folder is used, not the config of that name that comes with alignjax", file=sys.stderr
            )
        return here
    return ours
