"""`alignjax configs`: the configs that come with alignjax, and copies of them to edit."""

from __future__ import annotations

import functools
import json
import shutil
import textwrap

from alignjax.cli.catalogue import summary
from alignjax.cli.config_file import imported, modes_of
from alignjax.cli.config_flags import Configs, ConfigsCopy
from alignjax.cli.packaged_configs import packaged
from alignjax.config import ConfigError, check_known
from alignjax.outside import user_path, writing

TINY = "-tiny"


def listing(flags: Configs) -> int:
    """Prints every config that comes with alignjax: its name, its first sentence and its modes.

    Args:
        flags: The flags of `alignjax configs`.

    Returns:
        The exit status, 0.
    """
    rows = []
    for name, path in packaged().items():
        module = imported(path)
        modes = modes_of(module.get_config, getattr(module, "MODES", None))
        rows.append({"name": name, "summary": summary(module), "modes": modes})
    if flags.format == "json":
        print(json.dumps(rows, indent=2))
        return 0
    fill = functools.partial(textwrap.fill, width=shutil.get_terminal_size().columns, break_on_hyphens=False)
    for row in rows:
        print(fill(f"{row['name']}: {row['summary']}", subsequent_indent="  "))
        print(fill(_modes(row["modes"]), initial_indent="  ", subsequent_indent="    ") + "\n")
    print("alignjax train NAME:MODE runs one; alignjax configs copy NAME puts it into this folder to edit.")
    return 0


def _modes(modes: list[str]) -> str:
    """The modes as a sentence, in which a short form of each is said once."""
    named = [mode for mode in modes if not mode.endswith(TINY)]
    every = len(named) < len(modes) and set(modes) == {*named, *(mode + TINY for mode in named)}
    return f"modes: {', '.join(named if every else modes)}" + (f"; each also as MODE{TINY}, a few steps" * every)


def copy(flags: ConfigsCopy) -> int:
    """Copies a config that comes with alignjax, and prints where to and how it is run.

    Args:
        flags: The flags of `alignjax configs copy`.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: There is no config of that name, or the place is taken or no .py file.
    """
    ours = packaged()
    check_known(flags.name, ours, f"alignjax comes with no config {flags.name!r}")
    to = user_path(flags.to or f"{flags.name}.py")
    if to.suffix != ".py":
        raise ConfigError(f"--to {to}: a config is a Python file; name one that ends in .py")
    with writing(to, "name another place with --to FILE.py"):
        try:
            with to.open("xb") as file:
                file.write(ours[flags.name].read_bytes())
        except FileExistsError:
            raise ConfigError(f"{to} exists and stays as it is; name another place with --to FILE.py") from None
    print(f"{to}: edit it, then `alignjax train {to}`")
    return 0
