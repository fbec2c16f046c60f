"""The words of `alignjax list`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg


@dataclasses.dataclass(frozen=True)
class List:
    """List every algorithm, loss, sampler, judge, stage, rule and metric, with one line and its paper."""

    kind: Annotated[str | None, arg(metavar="KIND")] = None
    """Only this kind."""
    format: Literal["table", "json"] = "table"
    """A table for people or JSON for programs."""

    def __call__(self) -> int:
        from alignjax.commands.listing import listing  # noqa: PLC0415

        return listing(self.kind, self.format)
