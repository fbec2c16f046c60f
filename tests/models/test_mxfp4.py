"""Matrices in MXFP4 are the numbers that their bits stand for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignjax.config import ConfigError
from alignjax.models import huggingface, transformer
from alignjax.models.huggingface.mxfp4 import View
from tests.support.family_configs import CONFIGS

CONFIG = dataclasses.replace(CONFIGS["gpt_oss"], width=64, head_dim=8, mlp=32, layers=2, rope_scaling=None)
DRAW = np.random.default_rng(0)


def from_bits(code: int) -> float:
    """Sign, two bits of exponent with a bias of 1, one of mantissa."""
    sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
    return (-1) ** sign * ((1 + mantissa / 2) * 2.0 ** (exponent - 1) if exponent else mantissa / 2)


def packed(experts: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, exponents and what they stand for, number by number."""
    codes = DRAW.integers(0, 16, (experts, outputs, inputs))
    scales = DRAW.integers(120, 130, (experts, outputs, inputs // 32))
    values = np.zeros((experts, inputs, outputs), np.float32)
    for e, f, d in np.ndindex(*codes.shape):
        values[e, d, f] = from_bits(int(codes[e, f, d])) * 2.0 ** (int(scales[e, f, d // 32]) - 127)
    pairs = codes.reshape(experts, outputs, inputs // 32, 16, 2)
    return (pairs[..., 0] + 16 * pairs[..., 1]).astype(np.uint8), scales.astype(np.uint8), values


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model whose experts are such numbers, written out and in MXFP4."""
    network = transformer(CONFIG)
    plain, few = tmp_path / "plain", tmp_path / "few"
    huggingface.save(network.init(jax.random.key(0)), CONFIG, plain)
    tensors = load_file(plain / "model.safetensors")
    small = {}
    for name in list(tensors):
        if name.endswith(("gate_up_proj", "down_proj")):
            blocks, scales, tensors[name] = packed(*tensors[name].shape)
            small |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    assert len(small) == 2 * 2 * CONFIG.layers
    save_file(tensors, plain / "model.safetensors")
    few.mkdir()
    rest = {name: tensor for name, tensor in tensors.items() if f"{name}_blocks" not in small}
    save_file(rest | small, few / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (few / "config.json").write_text(json.dumps(config))
    return plain, few


def test_a_folder_in_mxfp4_is_the_one_written_out(tmp_path: Path) -> None:
    plain, few = folders(tmp_path)
    network = transformer(huggingface.config_of(few))
    jax.tree.map(np.testing.assert_array_equal, huggingface.load(plain, network), huggingface.load(few, network))
    assert huggingface.pretrained(few).numbers == "MXFP4 dequantized"
    assert huggingface.pretrained(plain).numbers is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "quantization_config is .* which is not built"),
        ({"quant_method": "mxfp4", "block": 16}, "block is 16, a key that is not known here"),
    ],
)
def test_other_kinds_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    _, few = folders(tmp_path)
    config = json.loads((few / "config.json").read_text())
    (few / "config.json").write_text(json.dumps(config | {"quantization_config": change}))
    with pytest.raises(ConfigError, match=message):
        huggingface.config_of(few)


def test_blocks_of_another_size_are_refused(tmp_path: Path) -> None:
    _, few = folders(tmp_path)
    tensors = load_file(few / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj_blocks"
    tensors[name] = np.ascontiguousarray(tensors[name][..., :8])
    save_file(tensors, few / "model.safetensors")
    with pytest.raises(ConfigError, match=r"down_proj_blocks in .* which is no MXFP4"):
        huggingface.load(few, transformer(huggingface.config_of(few)))


@pytest.mark.slow
def test_transformers_reads_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    blocks, scales, values = packed(3, 64, 10)
    theirs = mxfp4.convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
    np.testing.assert_array_equal(theirs.numpy(), values)
    whole = (slice(None),) * 3
    np.testing.assert_array_equal(View(blocks, scales)[whole], values)
    np.testing.assert_array_equal(View(blocks, scales)[1:, 3:40, 2:9], values[1:, 3:40, 2:9])
