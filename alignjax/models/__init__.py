"""Networks as records of pure functions: `transformer(TransformerConfig(...))`, and kinds of weights."""

from alignjax.models import lora as lora
from alignjax.models.architecture import TransformerConfig as TransformerConfig
from alignjax.models.attention import RopeScaling as RopeScaling
from alignjax.models.kv_cache import parameter_count as parameter_count, unrolled as unrolled
from alignjax.models.packaged import fetched as fetched
from alignjax.models.prefixed import prefixed_model as prefixed_model
from alignjax.models.transformer import transformer as transformer
from alignjax.models.weights import (
    Adapted as Adapted,
    Quantized as Quantized,
    dense as dense,
    product as product,
    quantize as quantize,
)
