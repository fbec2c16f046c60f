"""Open-weight checkpoints in the format of Hugging Face: config.json and safetensors, in and out. Never pickle."""

from alignjax.models.huggingface.config_json import config_json, config_of
from alignjax.models.huggingface.families import FAMILIES, tensor_name
from alignjax.models.huggingface.folders import fingerprint, read_json, tensors_of
from alignjax.models.huggingface.read_weights import Pretrained, check, load, pretrained
from alignjax.models.huggingface.write_weights import TOKENIZER_FILES, save

__all__ = [
    "FAMILIES",
    "TOKENIZER_FILES",
    "Pretrained",
    "check",
    "config_json",
    "config_of",
    "fingerprint",
    "load",
    "pretrained",
    "read_json",
    "save",
    "tensor_name",
    "tensors_of",
]
