"""`alignjax train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from alignjax import outside
from alignjax.cli import overrides
from alignjax.cli.config_file import COMMAND_FILE, Loaded, load, remember
from alignjax.cli.dry_run import dry_run
from alignjax.cli.flags import Train
from alignjax.cli.start_checks import check_starts
from alignjax.config import ConfigError, Pipeline, type_name
from alignjax.content_hashes import forget_hashes
from alignjax.parallel.mesh import slice_count
from alignjax.parallel.processes import connect, is_main_process, raise_on_all_processes
from alignjax.parallel.tpu_topologies import topology
from alignjax.train import loop, pipeline
from alignjax.train.begin import check_unused
from alignjax.workspace import Workspace

# What a misspelled override may have meant.
FLAGS = [field.name.replace("_", "-") for field in dataclasses.fields(Train) if field.name != "config"]
FLAGS += ["traceback", "help"]


def train(flags: Train, arguments: Sequence[str]) -> int:
    """Resolves CONFIG[:MODE] with its overrides and trains it, or with --dry-run prints what it would be.

    Args:
        flags: the flags of `alignjax train`.
        arguments: overrides of the config, as words of a command line.

    Returns:
        The exit status.

    Raises:
        ConfigError: the config cannot be meant, the folder holds another run, or the run is on another number of
            slices.
    """
    # Everything that can be refused is refused inside the barrier, on all processes and before a folder is made.
    process = (flags.coordinator, flags.processes, flags.process)
    if flags.distributed or process != (None, None, None):
        connect(*process)  # before anything asks for a device
    if (flags.topology or flags.compile) and not flags.dry_run:
        raise ConfigError("--topology SLICE and --compile go with --dry-run")
    if flags.slices is not None and flags.dry_run and not flags.topology:
        raise ConfigError("--slices says with --topology SLICE how many such slices there are")
    place = topology(flags.topology, 1 if flags.slices is None else flags.slices) if flags.topology else None
    with raise_on_all_processes():
        if flags.verify:
            forget_hashes()
        if flags.slices is not None and not flags.dry_run:
            _check_slices(flags.slices)
        loaded = load(flags.config, arguments, flags=FLAGS)
        workspace = Workspace(flags.run_dir or loaded.default_run_dir)
        check_starts(loaded.config, workspace)
        if not (flags.resume or flags.dry_run):
            check_unused(workspace.root)
    if flags.dry_run:
        console = outside.console(soft_wrap=True)
        dry_run(loaded.config, workspace, console, topology=place, compile_=flags.compile)
    else:
        _run_and_remember(loaded, workspace, resume=flags.resume)
    return 0


def _run_and_remember(loaded: Loaded, workspace: Workspace, *, resume: bool) -> None:
    """Trains, and writes down how the config was made: of a run that goes on only afterwards, since the old record
    stays the true one if the config does not fit the run."""
    goes_on = (workspace.folder / COMMAND_FILE).exists()
    if not goes_on and is_main_process():
        remember(loaded, workspace.folder)
    if isinstance(loaded.config, Pipeline):
        pipeline.run_pipeline(loaded.config, workspace, resume=resume)
    else:
        loop.train(loaded.config, workspace, resume=resume)
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


def describe(where: str) -> int:
    """Prints the values of a config that the command line can change: `alignjax train CONFIG --help`."""
    loaded = load(where)
    rows = [
        (f"--{slot.path}", type_name(slot.annotation), _shown(slot.value)) for slot in overrides.slots(loaded.config)
    ]
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
