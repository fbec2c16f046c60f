"""The errors whose message is all that a person needs. They stand alone, so that they come without jax."""

from __future__ import annotations


class ConfigError(ValueError):
    """Says that a config cannot be meant. The message names the place and what to write instead."""


class DataError(ValueError):
    """Data cannot be used: a file holds something that the settings refuse, or measurements cannot be averaged. The
    message names the place and the way out."""
