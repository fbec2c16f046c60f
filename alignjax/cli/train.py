"""The words of `alignjax train` and `alignjax sweep`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a config. After the flags below, any value of the config can be changed by its path, for example
    --steps 20 --algorithm.losses.pair.tau 0.1; `alignjax train CONFIG --help` lists the paths."""

    config: Annotated[Positional[str], arg(metavar="CONFIG[:MODE]")]
    """Python file with get_config(mode), and the mode ("full" unless the file says otherwise)."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the run; runs/<config>-<mode> if not given."""
    resume: bool = False
    """Continue the run that the folder holds from its last checkpoint."""
    dry_run: bool = False
    """Print roles, parameter counts, shapes and a memory estimate; read no data, allocate nothing, train nothing."""
    topology: Annotated[str | None, arg(metavar="SLICE")] = None
    """With --dry-run: what each device of a TPU slice would hold, for example v5e-16 or v5p-128."""
    compile: bool = False
    """With --topology: from the TPU's own compiler, which needs no TPU (pip install "jax[tpu]") but minutes."""
    slices: int | None = None
    """With --topology: how many such slices there are. Of a run: on how many TPU slices its processes must find
    themselves; otherwise they stop."""
    distributed: bool = False
    """This is one of several processes of the run. Which, and where the first is, comes from the three flags below,
    else from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else from the machine (TPU pods, Slurm)."""
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """Where process 0 listens."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Number of this process, from 0."""

    def __call__(self, extra: Sequence[str]) -> int:
        from alignjax.commands.train import train  # noqa: PLC0415

        place = (self.coordinator, self.processes, self.process)
        if self.distributed or place != (None, None, None):
            from alignjax.distributed import connect  # noqa: PLC0415

            connect(*place)  # before anything asks for a device
        return train(
            self.config,
            extra,
            run_dir=self.run_dir,
            resume=self.resume,
            dry_run=self.dry_run,
            slices=self.slices,
            dry_on=(self.topology, self.compile),
        )

    @staticmethod
    def about(config: str) -> int:
        from alignjax.commands.train import describe  # noqa: PLC0415

        return describe(config)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Print the `alignjax train` lines of a sweep, each checked against its config; pipe them into sh or xargs.

    The file defines CONFIG ("configs/online_ipo.py:tiny") and sweep(), a generator of {path: value}. A game's config
    with a GRID is run here and now, all points and seeds as one compiled program."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Python file with CONFIG and sweep(), or a game's config with GRID."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for the runs of the sweep; runs/<file> if not given."""

    def __call__(self) -> int:
        from alignjax.commands.sweep import sweep  # noqa: PLC0415

        return sweep(self.file, self.run_dir)
