"""Networks as records of pure functions: `transformer(TransformerConfig(...))` and the caches that decode uses."""

from alignjax.models import lora as lora
from alignjax.models.architecture import TransformerConfig as TransformerConfig
from alignjax.models.attention import RopeScaling as RopeScaling
from alignjax.models.kv_cache import (
    Cache as Cache,
    Segment as Segment,
    parameter_count as parameter_count,
    share as share,
    unrolled as unrolled,
    with_room as with_room,
)
from alignjax.models.transformer import transformer as transformer
from alignjax.models.weights import (
    Adapted as Adapted,
    Quantized as Quantized,
    dense as dense,
    product as product,
    quantize as quantize,
)
