"""Networks as records of pure functions: `transformer(TransformerConfig(...))` and the caches that decode uses."""

from alignjax.models.functional import Cache, Segment, parameter_count, select, share, unrolled, with_room
from alignjax.models.transformer import TransformerConfig, transformer

__all__ = [
    "Cache",
    "Segment",
    "TransformerConfig",
    "parameter_count",
    "select",
    "share",
    "transformer",
    "unrolled",
    "with_room",
]
