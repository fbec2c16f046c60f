"""GGUF files give the numbers of the weights that they were made of, and those that `transformers` reads from them; a
file that is not whole is refused in one sentence."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest

from alignjax.config import ConfigError
from alignjax.gguf_files import numbers, origin, read_header
from alignjax.models import huggingface, transformer
from alignjax.outside import ReadError
from tests.support.gguf_made import add

F32 = gguf.GGMLQuantizationType.F32


def made(file: Path, settings: dict[str, Any], tensors: dict[str, np.ndarray], kind: Any = F32, **options: Any) -> Path:
    writer = gguf.GGUFWriter(file, "llama", **options)
    for key, value in settings.items():
        add(writer, key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor if kind == F32 else gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def sizes(**changes: Any) -> dict[str, Any]:
    said = {
        "block_count": 2, "embedding_length": 64, "feed_forward_length": 96, "attention.head_count": 4,
        "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5, "context_length": 128,
    }  # fmt: skip
    return {f"llama.{key}": value for key, value in (said | changes).items() if value is not None}


def tiny(layers: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of `sizes`, as they stand in the file."""
    draw = np.random.default_rng(seed)
    layer = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64), "attn_norm": (64,),
             "ffn_norm": (64,), "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}  # fmt: skip
    shapes = {"token_embd": (37, 64), "output_norm": (64,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}
    return {f"{name}.weight": draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return made(tmp_path / "tiny.gguf", sizes(), tiny())


def test_the_header_is_what_the_package_reads(tmp_path: Path) -> None:
    settings = sizes() | {
        "general.alignment": 64, "x.texts": ["", "ö", "a b"], "x.flag": True, "x.numbers": [3, -1], "x.half": 0.1,
    }  # fmt: skip
    header = read_header(made(tmp_path / "m.gguf", settings, tiny()))
    theirs = gguf.GGUFReader(header.path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert {*header.metadata} == {*fields}
    for key, value in fields.items():
        assert header.metadata[key] == value or np.float32(header.metadata[key]) == np.float32(value), key
    assert header.metadata["x.half"] == 0.1  # the shortest decimal that means the float32 number
    assert len(header.tensors) == len(theirs.tensors)
    for tensor in theirs.tensors:
        np.testing.assert_array_equal(numbers(header, tensor.name), tensor.data)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16", "BF16"])
def test_rows_are_those_of_the_whole_tensor(kind: str, tmp_path: Path) -> None:
    """Whatever rows are asked for, and the quantized numbers lie within half a step of what they were made of."""
    weight = np.random.default_rng(1).normal(size=(7, 64)).astype(np.float32)
    header = read_header(made(tmp_path / "m.gguf", {}, {"w": weight}, gguf.GGMLQuantizationType[kind]))
    whole = numbers(header, "w")
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, weight, atol={"Q4_1": 0.25, "Q8_0": 0.02}.get(kind, 0.01))
    for rows in (slice(2, 5), np.array([6, 0, 3])):
        np.testing.assert_array_equal(numbers(header, "w", rows), whole[rows])
    assert origin(header) == kind + " dequantized" * (kind[0] == "Q")


def test_weights_are_read_into_our_layout(file: Path) -> None:
    """Products are [in, out] here, and the rows of q and k that turn together are i and i + h/2 of a head."""
    network = transformer(huggingface.config_of(file))
    params, tensors = huggingface.load(file, network), tiny()
    assert jax.tree.structure(params) == jax.tree.structure(jax.eval_shape(network.init, jax.random.key(0)))
    assert (network.config.kv_heads, network.config.norm_eps, network.config.tied) == (2, 1e-5, True)
    for layer in range(2):
        for leaf, name, heads in (("q", "attn_q", 4), ("k", "attn_k", 2)):
            ours, theirs = np.asarray(params["layers"][leaf][layer]), tensors[f"blk.{layer}.{name}.weight"]
            for head in range(heads):
                for pair in range(8):
                    for half in (0, 1):
                        column = ours[:, 16 * head + 8 * half + pair]
                        np.testing.assert_array_equal(column, theirs[16 * head + 2 * pair + half])
        np.testing.assert_array_equal(params["layers"]["down"][layer], tensors[f"blk.{layer}.ffn_down.weight"].T)
    np.testing.assert_array_equal(params["embed"], tensors["token_embd.weight"])


def test_a_start_knows_contents_and_numbers(file: Path, tmp_path: Path) -> None:
    start = huggingface.pretrained(file)
    assert start.numbers == "F32"
    elsewhere = tmp_path / "other.bin"  # a GGUF file is known by its first bytes
    elsewhere.write_bytes(file.read_bytes())
    assert huggingface.pretrained(elsewhere).fingerprint == start.fingerprint
    other = made(tmp_path / "other.gguf", sizes(), tiny(seed=1))
    assert huggingface.pretrained(other).fingerprint != start.fingerprint
    assert huggingface.positions_of(file) == 128


def changed(**edits: Any) -> Any:
    """The bytes of a file, changed: `at` and `bytes`, or cut to `length`."""

    def change(data: bytes) -> bytes:
        data = data[: edits.get("length", len(data))]
        return data[: edits["at"]] + edits["put"] + data[edits["at"] + len(edits["put"]) :] if "put" in edits else data

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(length=0), "it is empty"),
        (changed(length=20), "ends within its first 24 bytes"),
        (changed(length=700), "cut short or damaged"),
        (changed(length=20_000), "cut short or damaged"),
        (changed(at=0, put=b"PK\x03\x04"), "it begins with b'PK"),
        (changed(at=0, put=b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        (changed(at=4, put=struct.pack(">I", 3)), "big-endian"),
        (changed(at=4, put=struct.pack("<I", 1)), "GGUF version 1"),
        (changed(at=8, put=struct.pack("<Q", 2**60)), "is said to have 1,152,921,504,606,846,976 tensors"),
        (changed(at=16, put=struct.pack("<Q", 2**60)), "1,152,921,504,606,846,976 settings"),
        (changed(at=24, put=struct.pack("<Q", 2**60)), "needs 1,152,921,504,606,846,976 bytes"),
        (changed(at=32, put=b"\xff"), "is not UTF-8"),
        (changed(at=52, put=struct.pack("<I", 77)), "is of type 77"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused(file: Path, change: Any, says: str) -> None:
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ReadError, match="cannot be read as GGUF") as caught:
        huggingface.pretrained(file)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_are_compared_with_the_file(file: Path, tmp_path: Path) -> None:
    """A list that is said to be long is not made."""
    path = made(tmp_path / "list.gguf", {"x.list": [7, 8, 9], **sizes()}, tiny())
    data = path.read_bytes()
    at = data.index(b"x.list") + 6 + 4 + 4
    for count, says in ((2**50, "at most 10,000,000"), (5_000_000, "cut short or damaged")):
        path.write_bytes(data[:at] + struct.pack("<Q", count) + data[at + 8 :])
        with pytest.raises(ReadError, match=says):
            read_header(path)


@pytest.mark.parametrize(
    ("settings", "tensors", "says"),
    [
        (sizes(block_count=None), tiny(), "does not say llama.block_count"),
        (sizes() | {"llama.expert_count": 8}, tiny(), "expert_count is 8"),
        (sizes() | {"llama.sliding_thing": 8}, tiny(), "sliding_thing is 8, a key that is not known"),
        (sizes() | {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}, tiny(), "yarn"),
        (sizes(**{"attention.head_count": [4, 2]}), tiny(), "head_count"),
        (sizes(**{"rope.dimension_count": 8, "attention.key_length": 16}), tiny(), "a head has 16"),
        (sizes(), tiny(3), "self_attn.q_proj.weight in m.gguf belongs nowhere"),
        (sizes(), tiny(1), "model.layers.1.mlp.gate_proj.weight is missing"),
        (sizes(), tiny() | {"rope_freqs.weight": np.linspace(1, 3, 8, dtype=np.float32)}, "not the table of a Llama 3"),
        (sizes(), {}, "no tensor 'token_embd.weight'"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_built_is_refused_by_name(
    settings: dict[str, Any], tensors: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    file = made(tmp_path / "m.gguf", settings, tensors)
    with pytest.raises(ConfigError) as caught:
        huggingface.check(file, transformer(huggingface.config_of(file)))
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_other_kinds_of_files_are_called_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = made(tmp_path / "m-00001-of-00003.gguf", sizes(), tiny())
    with pytest.raises(ConfigError, match="one of 3 parts of a model"):
        huggingface.pretrained(part)
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(ConfigError, match="has neither"):
        huggingface.pretrained(tmp_path / "x.gguf")
    with pytest.raises(ReadError, match="there is no file"):
        huggingface.pretrained(tmp_path / "nowhere.gguf")
    with pytest.raises(ConfigError, match=": name that file instead of the folder"):
        huggingface.pretrained(tmp_path)
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(ReadError, match="big-endian"):
        huggingface.pretrained(tmp_path / "big.gguf")
    for key, value, says in (
        ("general.architecture", "mamba", "general.architecture is 'mamba'"),
        ("general.type", "adapter", "it holds 'adapter', not a model"),
    ):
        writer = gguf.GGUFWriter(tmp_path / "other.gguf", value if key.endswith("architecture") else "x")
        if key == "general.type":
            writer.add_string(key, value)
        for step in (
            writer.write_header_to_file,
            writer.write_kv_data_to_file,
            writer.write_tensors_to_file,
            writer.close,
        ):
            step()
        with pytest.raises(ConfigError, match=says):
            huggingface.config_of(tmp_path / "other.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    made_before = tmp_path / "new.gguf"
    made_before.write_bytes((tmp_path / "other.gguf").read_bytes())
    with pytest.raises(ConfigError, match=r"needs gguf: pip install 'alignjax\[gguf\]'"):
        read_header(made_before)
