"""Open-weight checkpoints in the format of Hugging Face: config.json and safetensors, in and out. Never pickle."""

from alignjax.models.huggingface.config_codec import (
    config_in as config_in,
    config_json as config_json,
    config_of as config_of,
    families_for as families_for,
    positions_of as positions_of,
)
from alignjax.models.huggingface.families import FAMILIES as FAMILIES, tensor_name as tensor_name
from alignjax.models.huggingface.folders import (
    dtype_of as dtype_of,
    fingerprint as fingerprint,
    read_json as read_json,
)
from alignjax.models.huggingface.read_weights import (
    Pretrained as Pretrained,
    check as check,
    load as load,
    pretrained as pretrained,
)
from alignjax.models.huggingface.write_weights import TOKENIZER_FILES as TOKENIZER_FILES, save as save
