"""A source of which every batch has a second stream of rows beside it, as a view."""

from __future__ import annotations

import dataclasses
from typing import Any

from alignjax.config import ConfigError, Fn
from alignjax.data.sources.source import OpenedSource, Source
from alignjax.types import Batch
from alignjax.workspace import Workspace


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnBeside:
    """Two sources whose batches are made on the spot, such as `exact_tasks.letters`: the second's are a view of the
    first's.

    Attributes:
        main: The source.
        other: The source of the view.
        view: Its name.
    """

    main: Any
    other: Any
    view: str

    @property
    def spec(self) -> Batch:
        """The batch as jax.ShapeDtypeStructs."""
        return self._together(self.main.spec, self.other.spec)

    def __getitem__(self, step: int) -> Batch:
        return self._together(self.main[step], self.other[step])

    def _together(self, batch: Batch, stream: Batch) -> Batch:
        return batch.replace(views={**batch.views, self.view: stream})


def beside(
    workspace: Workspace | None, seed: int, *, source: Fn, stream: Fn, view: str = "pretrain"
) -> Source | DrawnBeside:
    """A source of two: the batches of `source`, with those of `stream` as a view, such as texts for
    `algorithms.ppo_ptx` beside prompts.

    Args:
        workspace: Given to both.
        seed: Given to both.
        source: `fn(prompts, ...)`, or another source of rows in files, or both of batches made on the spot.
        stream: `fn(instructions, ...)`, or another, with a batch size of its own and without buckets.
        view: The name of the view.

    Returns:
        The source; both go through their rows in orders of their own.

    Raises:
        ConfigError: If the view is there already, or the stream has buckets.
    """
    main, other = source(workspace, seed), stream(workspace, seed)
    if view in main.spec.views:
        raise ConfigError(f"beside(view={view!r}): the source has this view already; name the stream otherwise")
    if not isinstance(main, Source) and not isinstance(other, Source):
        return DrawnBeside(main, other, view)
    if not (isinstance(main, Source) and isinstance(other, Source)):
        raise ConfigError("beside: one of the two sources reads rows of files and the other makes batches on the spot")
    if other.buckets:
        raise ConfigError("beside: the stream has buckets, and a view is of one shape; leave them out there")

    def opened() -> OpenedSource:
        return dataclasses.replace(main.opened, streams={**main.opened.streams, view: other.opened.rows})

    spec = main.spec.replace(views={**main.spec.views, view: other.spec})
    return dataclasses.replace(main, spec=spec, open=opened)
