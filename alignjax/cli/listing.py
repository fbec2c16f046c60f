"""`alignjax list`."""

from __future__ import annotations

import dataclasses
import json

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignjax.cli import catalogue
from alignjax.cli.flags import List
from alignjax.config import ConfigError, nearest


def listing(flags: List) -> int:
    """Print the catalog, or one kind of it.

    Args:
        flags: The flags of `alignjax list`.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: For a kind that does not exist, naming the nearest.
    """
    # Only the first row of a kind names it, so that the kinds read as groups; programs get every field in every entry.
    kind = flags.kind
    if kind is not None and kind not in catalogue.KINDS:
        raise ConfigError(f"there is no kind {kind!r}.{nearest(kind, catalogue.KINDS)}")
    chosen = [entry for entry in catalogue.entries() if kind in (None, entry.kind)]
    if flags.format == "json":
        print(json.dumps([dataclasses.asdict(entry) for entry in chosen], indent=2))
        return 0
    table = Table("kind", "name", "what it is", "paper", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in (0, 1, 3):
        table.columns[column].no_wrap = True
    previous = None
    for entry in chosen:
        if previous not in (None, entry.kind):
            table.add_section()
        kind_cell = "" if entry.kind == previous else entry.kind
        # Text, because "[B,N]" in a summary is not markup.
        table.add_row(*map(Text, (kind_cell, entry.name, entry.summary, entry.paper or "")))
        previous = entry.kind
    Console(highlight=False).print(table)
    return 0
