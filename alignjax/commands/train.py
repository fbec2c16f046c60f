"""`alignjax train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alignjax import overrides
from alignjax.commands.load import load, remember
from alignjax.config import ConfigError, Pipeline
from alignjax.workspace import Workspace

FLAGS = ("run-dir", "resume", "dry-run", "traceback", "help")


def train(where: str, arguments: Sequence[str], *, run_dir: Path | None, resume: bool, dry_run: bool) -> int:
    """Resolve CONFIG[:MODE] with its overrides, then train it, or with `dry_run` only say what it would be.

    Raises ConfigError for a config that cannot be meant and for a folder that holds another run.
    """
    loaded = load(where, arguments, flags=FLAGS)
    folder = run_dir or loaded.default_run_dir
    if dry_run:
        from alignjax.commands.dry_run import dry_run as describe_run  # noqa: PLC0415

        describe_run(loaded.config, Workspace(folder), Console(highlight=False, soft_wrap=True))
        return 0
    if not resume and _holds_a_run(folder):
        raise ConfigError(f"{folder} already holds a run: --resume continues it, --run-dir DIR puts this one elsewhere")
    from alignjax.train import loop, pipeline  # noqa: PLC0415

    remember(loaded, folder)
    run = pipeline.run_pipeline if isinstance(loaded.config, Pipeline) else loop.train
    run(loaded.config, Workspace(folder), resume=resume)
    return 0


def _holds_a_run(folder: Path) -> bool:
    """Whether anything was trained there; a folder that another program made is not touched either way."""
    return any((folder / name).exists() for name in ("config.json", "checkpoints", "metrics.jsonl"))


def describe(where: str) -> int:
    """`alignjax train CONFIG --help`: the values of the config that the command line can change."""
    loaded = load(where)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"alignjax train {where} [--run-dir DIR] [--resume] [--dry-run] [overrides]\n", markup=False)
    table = Table("override", "type", "now", title="values that the command line can change", title_justify="left")
    for slot in overrides.slots(loaded.config):
        table.add_row(f"--{slot.path}", slot.type_name, _shown(slot.value))
    console.print(table)
    if isinstance(loaded.config, Pipeline):
        console.print(f"--{overrides.EVERY_STEP}.PATH VALUE changes PATH in every step that has it.", markup=False)
    console.print(f"Run folder, unless given: {loaded.default_run_dir}", markup=False)
    return 0


def _shown(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
