"""A source of which every batch has a second stream of rows beside it, as a view."""

from __future__ import annotations

import dataclasses

from alignjax.config import ConfigError, Fn
from alignjax.data.sources.source import OpenedSource, Source
from alignjax.workspace import Workspace


def beside(workspace: Workspace | None, seed: int, *, source: Fn, stream: Fn, view: str = "pretrain") -> Source:
    """A source of two: the batches of `source`, with those of `stream` as a view, such as texts for
    `algorithms.ppo_ptx` beside prompts.

    Args:
        workspace: Given to both.
        seed: Given to both.
        source: `fn(prompts, ...)`, or another source of rows in files.
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
    if other.buckets:
        raise ConfigError("beside: the stream has buckets, and a view is of one shape; leave them out there")

    def opened() -> OpenedSource:
        return dataclasses.replace(main.opened, streams={**main.opened.streams, view: other.opened.rows})

    spec = main.spec.replace(views={**main.spec.views, view: other.spec})
    return dataclasses.replace(main, spec=spec, open=opened)
