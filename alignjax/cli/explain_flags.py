"""The flags of `alignjax explain`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Explain:
    """Print how data flow through a config: what each stage adds to the batch, what each loss computes and with which
    numbers, who learns from it and who does not. Nothing is read or trained. Overrides are those of `alignjax train`.

    Attributes:
        config: Python file with get_config(mode), and the mode.
        step: Only this step of a pipeline.
        to: Also draws it, as a new .svg file.
    """

    runs: ClassVar[str] = "explain.explain"
    config: Annotated[Positional[str], arg(metavar="CONFIG[:MODE]")]
    step: Annotated[str | None, arg(metavar="STEP")] = None
    to: Annotated[Path | None, arg(metavar="FILE.svg")] = None
