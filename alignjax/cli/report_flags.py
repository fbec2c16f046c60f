"""The flags of `alignjax compare` and `alignjax watch`, as in `flags.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from alignjax.ranges import Count


@dataclasses.dataclass(frozen=True)
class Compare:
    """Write one report of several runs: what differs in their configs, their curves over each other, win rates over KL,
    and answers to the same prompts side by side. Nothing is sampled or judged anew.

    Attributes:
        run_dirs: Run folders of `alignjax train`, finished or not.
        to: Folder of the report, from which `alignjax report` makes it again.
    """

    runs: ClassVar[str] = "compare.compare"
    run_dirs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN ..")]
    to: Annotated[Path, arg(metavar="DIR")] = Path("runs/comparison")


@dataclasses.dataclass(frozen=True)
class Watch:
    """Write watch.html into the folder of a run that goes on, again and again until it is done: how far each stage is,
    and curves and samples of the stage at work. The page reads itself again; Ctrl-C ends the watching, not the run.

    Attributes:
        run_dir: Run folder of `alignjax train`.
        every: Seconds between two looks.
        once: Look once.
    """

    runs: ClassVar[str] = "watch.watch"
    run_dir: Annotated[Positional[Path], arg(metavar="RUN_DIR")]
    every: Count = 20
    once: bool = False
