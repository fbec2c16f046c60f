"""`alignjax train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from alignjax.cli import overrides
from alignjax.cli.config_file import COMMAND_FILE, Loaded, load, remember
from alignjax.cli.start_checks import check_starts
from alignjax.config import ConfigError, Pipeline
from alignjax.parallel.mesh import slice_count
from alignjax.parallel.processes import is_main_process, raise_on_all_processes
from alignjax.parallel.tpu_slices import topology
from alignjax.workspace import Workspace

PROCESS_FLAGS = ("distributed", "coordinator", "processes", "process")
FLAGS = ("run-dir", "resume", "dry-run", "topology", "compile", "slices", *PROCESS_FLAGS, "traceback", "help")


def train(
    where: str,
    arguments: Sequence[str],
    *,
    run_dir: Path | None,
    resume: bool,
    dry_run: bool,
    slices: int | None = None,
    dry_on: tuple[str | None, bool] = (None, False),
) -> int:
    """Resolves CONFIG[:MODE] with its overrides and trains it, or with `dry_run` prints what it would be.

    Args:
        where: CONFIG or CONFIG:MODE.
        arguments: overrides of the config, as words of a command line.
        run_dir: folder of the run; runs/<config>-<mode> if None.
        resume: continue the run that the folder holds.
        dry_run: train nothing.
        slices: with a dry run on a TPU slice, how many of them; of a run, how many it must have.
        dry_on: name of a TPU slice, and whether its compiler says what memory a run takes.

    Returns:
        The exit status.

    Raises:
        ConfigError: the config cannot be meant, the folder holds another run, or the run is on another number of
            slices.
    """
    # Everything that can be refused is refused inside the barrier, on all processes and before a folder is made.
    slice_name, ask = dry_on
    if (slice_name or ask) and not dry_run:
        raise ConfigError("--topology SLICE and --compile go with --dry-run")
    if slices is not None and dry_run and not slice_name:
        raise ConfigError("--slices says with --topology SLICE how many such slices there are")
    place = topology(slice_name, 1 if slices is None else slices) if slice_name else None
    with raise_on_all_processes():
        if slices is not None and not dry_run:
            _check_slices(slices)
        loaded = load(where, arguments, flags=FLAGS)
        folder = run_dir or loaded.default_run_dir
        check_starts(loaded.config, Workspace(folder))
        if not (resume or dry_run) and _holds_a_run(folder):
            raise ConfigError(
                f"{folder} already holds a run: --resume continues it, --run-dir DIR puts this one elsewhere"
            )
    if dry_run:
        from alignjax.cli.dry_run import dry_run as describe_run  # noqa: PLC0415

        describe_run(
            loaded.config, Workspace(folder), Console(highlight=False, soft_wrap=True), topology=place, compile_=ask
        )
        return 0
    _run_and_remember(loaded, Workspace(folder), resume=resume)
    return 0


def _run_and_remember(loaded: Loaded, workspace: Workspace, *, resume: bool) -> None:
    """Trains, and writes down how the config was made: of a run that goes on only afterwards, since the old record
    stays the true one if the config does not fit the run."""
    goes_on = (workspace.folder / COMMAND_FILE).exists()
    if not goes_on and is_main_process():
        remember(loaded, workspace.folder)
    _run(loaded, workspace, resume=resume)
    if goes_on and is_main_process():
        remember(loaded, workspace.folder)


def _check_slices(wanted: int) -> None:
    """Slices that do not know of each other would be several runs in one folder."""
    count = slice_count(jax.devices())
    if count != wanted:
        raise ConfigError(
            f"this run found {count} TPU slice{'s' * (count > 1)} and must have {wanted} (--slices): each would train "
            "by itself into the same folder. Processes find the other slices through MEGASCALE_COORDINATOR_ADDRESS, "
            "MEGASCALE_NUM_SLICES and MEGASCALE_SLICE_ID, of the environment or of the hosts' metadata (tpu-env)"
        )


def _run(loaded: Loaded, workspace: Workspace, *, resume: bool) -> None:
    if isinstance(loaded.config, Pipeline):
        from alignjax.train.pipeline import run_pipeline  # noqa: PLC0415

        run_pipeline(loaded.config, workspace, resume=resume)
    else:
        from alignjax.train.loop import train as train_one  # noqa: PLC0415

        train_one(loaded.config, workspace, resume=resume)


def _holds_a_run(folder: Path) -> bool:
    """Whether anything was trained there; a folder that another program made is not touched either way."""
    return any((folder / name).exists() for name in ("config.json", "checkpoints", "metrics.jsonl"))


def describe(where: str) -> int:
    """Prints the values of a config that the command line can change: `alignjax train CONFIG --help`."""
    loaded = load(where)
    rows = [(f"--{slot.path}", slot.type_name, _shown(slot.value)) for slot in overrides.slots(loaded.config)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    print(f"usage: alignjax train {where} [--run-dir DIR] [--resume] [--dry-run] [overrides]\n")
    print("Values that the command line can change, with their types and what they are now:\n")
    for path, kind, value in rows:
        print(f"  {path:<{widths[0]}}  {kind:<{widths[1]}}  {value}")
    if isinstance(loaded.config, Pipeline):
        print(f"\n--{overrides.EVERY_STEP}.PATH VALUE changes PATH in every step that has it.")
        print(f"--{overrides.SEED} N adds {overrides.SEEDS_APART} N to the seed of every step: another draw of it all.")
    print(f"\nRun folder, if none is given: {loaded.default_run_dir}")
    return 0


def _shown(value: object) -> str:
    text = " ".join(overrides.as_words(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
