"""Control vectors: files as repeng lays them out are read, ours are read back, others are refused in a sentence."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import steering
from alignjax.config import ConfigError
from alignjax.outside import ReadError

DRAW = np.random.default_rng(0)


def made(path: Path, *, kind: str = "controlvector", **tensors: np.ndarray) -> Path:
    """A file in repeng's layout: its settings, and a tensor `direction.L` for each layer."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, tensor in tensors.items():
        writer.add_tensor(name.replace("_", "."), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_in_repengs_layout_and_one_of_ours(tmp_path: Path) -> None:
    one, three = DRAW.normal(size=(2, 6)).astype(np.float32)
    file = made(tmp_path / "made.gguf", direction_3=three, direction_1=one)
    (block,) = steering.read_control_vector(file, layers=5, width=6).values()
    np.testing.assert_array_equal(block, [0 * one, one, 0 * one, three, 0 * one])
    steering.write_control_vector(tmp_path / "ours.gguf", block, hint="mistral")
    np.testing.assert_array_equal(
        steering.read_control_vector(tmp_path / "ours.gguf", layers=5, width=6)["block"], block
    )
    # The package's own reader finds in ours what it finds in the other, tensors in the order of layers.
    for path in (file, tmp_path / "ours.gguf"):
        reader = gguf.GGUFReader(path)
        assert {t.name: t.data.tolist() for t in reader.tensors} == {
            "direction.1": one.tolist(),
            "direction.3": three.tolist(),
        }
        assert reader.fields["controlvector.layer_count"].contents() == 2
        assert reader.fields["controlvector.model_hint"].contents() == "mistral"
        assert reader.fields["general.architecture"].contents() == "controlvector"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"kind": "llama", "direction_1": np.ones(6, np.float32)}, "architecture 'llama'; control vectors are"),
        ({"direction_1": np.ones(7, np.float32)}, r"direction.1 has the shape \[7\].*5 layers of width 6 .*a mistral"),
        ({"direction_5": np.ones(6, np.float32)}, "direction.5 has the shape.*take one that was made for this model"),
        ({"output": np.ones(6, np.float32)}, "holds 'output'; the tensors of a control vector are called direction"),
        ({"direction_1": np.zeros(6, np.float32)}, "holds no direction"),
        ({"direction_1": np.full(6, np.nan, np.float32)}, "not finite"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        steering.read_control_vector(made(tmp_path / "file.gguf", **tensors), layers=5, width=6)


def test_what_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "no.gguf"
    with pytest.raises(ConfigError, match="layer 0 is steered, which llama"):
        steering.write_control_vector(path, jnp.ones((3, 4)), hint="llama")
    with pytest.raises(ConfigError, match="all directions are 0"):
        steering.write_control_vector(path, jnp.zeros((3, 4)), hint="llama")
    with pytest.raises(ReadError, match="there is no file"):
        steering.read_control_vector(path, layers=3, width=4)
    plain = builtins.__import__

    def without(name: str, *args: Any, **kw: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return plain(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs gguf: pip install 'alignjax\[gguf\]'"):
        steering.write_control_vector(path, jnp.ones((3, 4)), hint="llama")
    assert not path.exists()


def test_directions_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ConfigError, match="not finite"):
        steering.write_control_vector(tmp_path / "v.gguf", jnp.array([[0.0, 0.0], [1.0, jnp.nan]]), hint="llama")
    assert not list(tmp_path.iterdir())
