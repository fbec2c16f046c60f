"""`WHERE --steer FILE --strength S` of generate and serve: the model with a control vector in its params."""

from __future__ import annotations

import dataclasses

from alignjax.cli.flags import Generate
from alignjax.cli.open_model import open_model
from alignjax.cli.serve_flags import Serve
from alignjax.config import ConfigError
from alignjax.gguf_files import read_header
from alignjax.models import TransformerConfig
from alignjax.serving import OpenedModel
from alignjax.steering import read_control_vector, steered


def opened_steered(flags: Generate | Serve) -> OpenedModel:
    """Opens WHERE, steered if --steer says so; a behavior then reads the steered model.

    Args:
        flags: Flags with where, role, dtype, steer and strength.

    Raises:
        ConfigError: WHERE cannot be opened, the file is no control vector for it, or --strength is without one.
        CheckpointError: There is nothing trained yet.
        ReadError: The file cannot be read.
    """
    # The file's header is looked at before the weights are read, which may be slow.
    if flags.steer is None:
        if flags.strength is not None:
            raise ConfigError(f"--strength {flags.strength:g} is that of a control vector; name one, --steer FILE")
        return open_model(flags.where, flags.role, flags.dtype)
    read_header(flags.steer)
    opened, strength = open_model(flags.where, flags.role, flags.dtype), 1 if flags.strength is None else flags.strength
    config = opened.model.config
    if not isinstance(config, TransformerConfig):
        raise ConfigError(f"{opened.name} is no transformer, and control vectors are for those; leave out --steer")
    direction = read_control_vector(flags.steer, layers=config.layers, width=config.width)
    line = f"{opened.line}; steered by {strength:g} times {flags.steer}"
    return dataclasses.replace(opened, params=steered(opened.params, direction, strength=strength), line=line)
