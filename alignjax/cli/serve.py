"""`alignjax serve`: a model behind OpenAI's API."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence

from alignjax.cli.behavior_flags import NO_SYSTEM, behavior_of, opened_streams
from alignjax.cli.serve_flags import Serve
from alignjax.cli.steer_flags import opened_steered
from alignjax.config import ConfigError, Fn
from alignjax.sampling import combined_model
from alignjax.serving import OpenedModel, Worker

LONGEST = 4096  # tokens, unless a person says more: all slots of a lane have room for so many
UNKNOWN_LENGTH = 2048  # of a model that nothing says its length of


def serve(flags: Serve, words: Sequence[str] = ()) -> int:
    """Serves a model until it is interrupted, and returns the exit status.

    Args:
        flags: The flags of `alignjax serve`.
        words: Further ones, the options of --behavior.

    Raises:
        ConfigError: WHERE cannot be opened, the port cannot be had, or the packages of the extra are missing.
    """
    # The port is taken before the weights are read, which may be slow.
    try:
        from alignjax.serving.app import make_app  # noqa: PLC0415
        from alignjax.serving.run_server import (  # noqa: PLC0415
            address_of,
            bound,
            is_loopback,
            serve_until_interrupted,
        )
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(f"alignjax serve needs {error.name}: pip install 'alignjax[serve]'") from None
    behaviour, where = behavior_of(flags.behavior, words, [field.name for field in dataclasses.fields(flags)])
    if NO_SYSTEM in where.values():
        raise ConfigError(f"{NO_SYSTEM} is for `alignjax generate`: a request to a server has one prompt")
    with bound(flags.host, flags.port) as listening:
        opened = opened_steered(flags)
        if flags.behavior is not None:
            opened = _combined(opened, behaviour, where, flags.dtype)
        if flags.name:
            opened = dataclasses.replace(opened, name=flags.name)
        length = longest(opened, flags.max_length)
        print(opened.introduction, file=sys.stderr)
        with Worker(opened, slots=flags.slots, max_length=length) as worker:
            app = make_app(dataclasses.replace(opened, params={}), worker)  # the worker has them, unstacked
            del opened
            print(
                f"serving {app.state.name!r} at {address_of(listening)}/v1: {length:,} tokens, {flags.slots} slots. "
                f"There is no authentication: {_who(is_loopback(listening))} can ask. Ctrl-C ends.",
                file=sys.stderr,
                flush=True,
            )
            serve_until_interrupted(app, listening)
    print("stopped", file=sys.stderr)
    return 0


def _combined(opened: OpenedModel, behaviour: Fn, where: Mapping[str, str], dtype: str | None) -> OpenedModel:
    """WHERE with the models of a behavior beside it, as one model."""
    speakers = opened_streams(behaviour, where, opened, dtype=dtype, system=None)
    model = combined_model(behaviour, dict(speakers.models), streams=speakers.streams)
    others = ", ".join(where.values())
    line = f"{opened.line}; {behaviour.name} with {others}" if others else f"{opened.line}; {behaviour.name}"
    return dataclasses.replace(opened, model=model, params=dict(speakers.params), line=line)


def _who(loopback: bool) -> str:
    return "whoever is on this machine" if loopback else "whoever reaches this port"


def longest(opened: OpenedModel, asked: int | None) -> int:
    """Returns the most tokens of a prompt with its completion: as asked for, else what the model is meant for, within
    bounds.

    Args:
        opened: The model.
        asked: What a person said; None for nothing.

    Raises:
        ConfigError: More was asked for than the model is meant for.
    """
    if asked is None:
        return min(opened.max_length or UNKNOWN_LENGTH, LONGEST)
    if opened.max_length is not None and asked > opened.max_length:
        raise ConfigError(f"--max-length is {asked}, and {opened.name} is meant for {opened.max_length} tokens")
    return asked
