"""Networks as records of pure functions: `transformer(TransformerConfig(...))` and the caches that decode uses."""

from alignjax.models import lora
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import RopeScaling
from alignjax.models.kv_cache import Cache, Segment, parameter_count, select, share, unrolled, with_room
from alignjax.models.transformer import transformer
from alignjax.models.weights import Adapted, Quantized, dense, product, quantize

__all__ = [
    "Adapted",
    "Cache",
    "Quantized",
    "RopeScaling",
    "Segment",
    "TransformerConfig",
    "dense",
    "lora",
    "parameter_count",
    "product",
    "quantize",
    "select",
    "share",
    "transformer",
    "unrolled",
    "with_room",
]
