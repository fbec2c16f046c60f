"""The flags of `alignjax merge`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from alignjax.ranges import Seed


@dataclasses.dataclass(frozen=True)
class Merge:
    """Merge folders of published weights of one architecture into a new one, as a YAML file in mergekit's form says.

    Memory holds a few rows of each model, however large they are; docs/weights.md lists the methods.

    Attributes:
        config: YAML file with merge_method, models, base_model, parameters and dtype.
        to: New folder for the weights, with the tokenizer and config.json of the base, or of the first model.
        seed: Seed of what dare and della drop.
    """

    runs: ClassVar[str] = "merge.merge"
    config: Annotated[Positional[Path], arg(metavar="CONFIG.yml")]
    to: Annotated[Path, arg(metavar="DIR")]
    seed: Seed = 0
