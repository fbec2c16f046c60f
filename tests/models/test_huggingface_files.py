"""Folders of published weights: read in part, written back, and refused by name before anything is read."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from alignjax.config import ConfigError, DataError
from alignjax.models import TransformerConfig, huggingface, transformer
from tests.support.published import CASES, OLDER_FAMILIES, SIZES, loaded, theirs, written

DRAW = np.random.default_rng(1)
VALID = np.stack([np.arange(9) >= 4, np.arange(9) < 6, np.arange(9) >= 0])
TOKENS = np.where(VALID, DRAW.integers(3, SIZES["vocab_size"], VALID.shape), 0)


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS), attention_mask=torch.tensor(VALID)).logits.numpy()


# ----------------------------------------------------------------------------------------------------- in and out again


@pytest.mark.parametrize(("case", "labels"), [("llama3", 1), ("qwen2", 3), ("gemma2", 1)])
def test_a_classifier(case: str, labels: int, root: Path) -> None:
    network, params = loaded(written(case, root, labels))
    head = "reward" if labels == 1 else "classes"

    @jax.jit
    def scores(params: Any) -> jax.Array:
        hidden, _, _ = network.extend(params, None, jnp.asarray(TOKENS)[:, None], jnp.asarray(VALID)[:, None])
        return network.heads[head].apply(params, hidden)[:, 0]

    last = VALID.shape[1] - 1 - np.argmax(VALID[:, ::-1], axis=1)
    ours = np.asarray(scores(params))[np.arange(len(last)), last]
    np.testing.assert_allclose(ours, logits_of(theirs(case, labels=labels)), atol=2e-4)


@pytest.mark.parametrize(
    ("case", "labels"),
    [
        *(pytest.param(case, None, marks=() if case in OLDER_FAMILIES else pytest.mark.slow) for case in CASES),
        ("llama3", 1),
        ("qwen2", 3),
        *(pytest.param(case, 1, marks=pytest.mark.slow) for case in ("gpt2", "gpt_neox", "phi3")),
    ],
)
def test_what_is_written_is_what_was_read(case: str, labels: int | None, root: Path, tmp_path: Path) -> None:
    """`transformers` finds the same weights and gives the same numbers; so do we."""
    network, params = loaded(written(case, root, labels))
    head = {None: "lm", 1: "reward"}.get(labels, "classes")
    extra = {key: SIZES[key] for key in ("pad_token_id", "max_position_embeddings")}
    left = huggingface.save(params, network.config, tmp_path / "out", head=head, extra=extra, shard_bytes=9000)
    assert left == []
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert huggingface.config_of(tmp_path / "out") == network.config
    auto = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
    again = auto.from_pretrained(tmp_path / "out", attn_implementation="eager", dtype=torch.float32).eval()
    first = theirs(case, labels=labels)
    for (name, one), (other_name, other) in zip(first.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(one, other), name
    # Of equal weights torch's products may differ in a last bit, by where the arrays lie in memory.
    np.testing.assert_allclose(logits_of(again)[VALID[:, -1]], logits_of(first)[VALID[:, -1]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files_in_pieces(dtype: str, root: Path, tmp_path: Path) -> None:
    """Halves are read exactly into float32 and bfloat16 files into bfloat16; written as halves they are the same."""
    folder = written("qwen2", root, None, dtype, "5KB")
    assert (folder / huggingface.folders.INDEX).is_file()
    network, params = loaded(folder)
    expected = theirs("qwen2").to(getattr(torch, dtype)).float().state_dict()
    np.testing.assert_array_equal(params["layers"]["up"][1], expected["model.layers.1.mlp.up_proj.weight"].numpy().T)
    np.testing.assert_array_equal(params["embed"], expected["model.embed_tokens.weight"].numpy())
    _, half = loaded(folder, param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    huggingface.save(params, network.config, tmp_path / "out", dtype=dtype)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {dtype}
    jax.tree.map(np.testing.assert_array_equal, params, loaded(tmp_path / "out")[1])


def test_the_text_model_of_one_with_images(root: Path, tmp_path: Path) -> None:
    """Gemma 3 of 4 billion weights and more is published with eyes; what is read is its language model."""
    text = theirs("gemma3").config.to_dict()
    eyes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=4)
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    _, params = loaded(tmp_path)
    weights = {name: tensor.numpy() for name, tensor in model.model.language_model.state_dict().items()}
    np.testing.assert_array_equal(params["layers"]["q"][4], weights["layers.4.self_attn.q_proj.weight"].T)
    np.testing.assert_array_equal(params["embed"], weights["embed_tokens.weight"])
    assert huggingface.config_of(tmp_path) == huggingface.config_of(written("gemma3", root))


SHORT_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}
OLDER: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 2.0,
            "high_freq_factor": 5.0,
            "original_max_position_embeddings": 512,
        },
    },
    "mistral": {"rope_theta": 1e6, "sliding_window": None},
    "qwen2": {"rope_theta": 1e6, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "gemma2": {"hidden_act": "gelu", "rope_theta": 5e4, "sliding_window_size": 4096},
    "gemma3_text": {
        "rope_theta": 2e6,
        "rope_local_base_freq": 3e4,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "sliding_window_pattern": 2,
    },
    "olmo2": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "olmo3": {"rope_theta": 5e5, "rope_scaling": SHORT_YARN, "sliding_window": 5},
    "smollm3": {"rope_theta": 5e6, "no_rope_layer_interval": 2},
    "phi3": {"rope_theta": 2e4, "partial_rotary_factor": 0.5, "attention_bias": False},
    "qwen3_moe": {"rope_theta": 1e6, "num_experts": 6, "max_window_layers": 1, "decoder_sparse_step": 1},
    "gpt2": {"n_positions": 64, "n_inner": None, "scale_attn_by_inverse_layer_idx": False},
    "gpt_neox": {"rotary_pct": 0.5, "rotary_emb_base": 5000, "use_parallel_residual": False},
    "mixtral": {"rope_theta": 1e5, "num_local_experts": 3, "sliding_window": 9},
    "olmoe": {"rope_theta": 2e4, "num_experts": 3, "clip_qkv": None},
    "granite": {"rope_theta": 1e5, "embedding_multiplier": 12, "logits_scaling": 8, "attention_multiplier": 0.5},
    "ministral3": {"rope_scaling": SHORT_YARN | {"rope_theta": 1e5, "llama_4_scaling_beta": 0.2}},
    "gpt_oss": {"rope_theta": 1e5, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 9},
    "cohere2": {"rope_theta": 5e4, "sliding_window_pattern": 2, "logit_scale": 0.25},
}


@pytest.mark.parametrize("older", [False, True], ids=["defaults", "older keys"])
@pytest.mark.parametrize("kind", sorted(huggingface.FAMILIES))
def test_what_a_config_says_and_leaves_unsaid(kind: str, older: bool) -> None:
    """The defaults are those of `transformers`, and the keys of older files mean what its newer ones do."""
    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    sizes["num_attention_heads"] = 8
    sizes |= OLDER[kind] if older else {}
    config = transformers.AutoConfig.for_model(kind, **copy.deepcopy(sizes))
    architectures = [huggingface.FAMILIES[kind].causal]
    full = {**config.to_dict(), "architectures": architectures}
    short = {"model_type": kind, "architectures": architectures, **sizes}
    assert huggingface.config_codec.fields_in(short, "short") == huggingface.config_codec.fields_in(full, "full")


# ------------------------------------------------------------------------------------------------------------- refusals


def changed(key: str, value: Any, **more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: value, **more}))

    return change


def tensors(function: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        function(found)
        save_file(found, folder / "model.safetensors")

    return change


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def indexed(name: Any = "model-00001-of-00002.safetensors") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))

    return change


def piped(folder: Path) -> None:
    os.mkfifo(folder / "model-1.safetensors")
    indexed("model-1.safetensors")(folder)


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blob")


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "family": (changed("model_type", "lama"), "model_type 'lama' is not read; families that are: llama, mistral"),
    "a family that needs more": (changed("model_type", "gemma3n_text"), "It needs inputs of each layer"),
    "architecture": (changed("architectures", ["LlamaModel"]), "architectures is ['LlamaModel']; of llama there are"),
    "quantized": (
        changed("quantization_config", {"bits": 4}),
        'quantization_config is {"bits": 4}, which is not built',
    ),
    "rope": (
        changed("rope_parameters", {"rope_type": "proportional", "rope_theta": 1e4}),
        "rotary scaling 'proportional' is not",
    ),
    "activation": (changed("hidden_act", "relu"), "unknown activation 'relu'"),
    "no width": (changed("hidden_size", None), "config.json does not say hidden_size"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "cut config": (lambda folder: (folder / "config.json").write_text('{"a'), "config.json cannot be read: not JSON"),
    "missing": (tensors(lambda found: found.pop(UP)), f"{UP} is missing"),
    "spare": (
        tensors(lambda found: found.update({"model.vision.weight": found[UP]})),
        "model.vision.weight in model.safetensors belongs nowhere in a llama",
    ),
    "shape": (
        tensors(lambda found: found.update({UP: np.ascontiguousarray(found[UP].T)})),
        f"{UP} in model.safetensors has the shape [16, 24] where the config means [24, 16]",
    ),
    "config of another size": (changed("intermediate_size", 20), "where the config means [20, 16]"),
    "integers": (
        tensors(lambda found: found.update({UP: found[UP].astype(np.int8)})),
        f"{UP} in model.safetensors is I8",
    ),
    "cut": (cut, "model.safetensors is not a whole safetensors file"),
    "pickle": (pickled, "only as pickle (pytorch_model.bin)"),
    "index": (indexed(), "names model-00001-of-00002.safetensors, which is not there"),
    "outside": (indexed("../model/model.safetensors"), 'names "../model/model.safetensors"; only .safetensors files'),
    "absolute": (indexed("/etc/passwd"), 'names "/etc/passwd"'),
    "no name": (indexed(3), "weight_map.model.norm.weight is 3; it must be text"),
    "a pipe": (piped, "names model-1.safetensors, which is not there"),
    "a link to nothing": (dangling, "has neither model.safetensors nor"),
    "deep": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "config.json cannot be read: not JSON that",
    ),
    "unknown key": (changed("use_new_idea", True), "use_new_idea is true, a key that is not known here"),
    "code": (changed("auto_map", {"AutoModel": "code.Model"}), "auto_map is"),
    "partial": (changed("partial_rotary_factor", 0.5), "partial_rotary_factor is 0.5"),
    "text for a number": (changed("hidden_size", "16"), 'hidden_size is "16"; it must be a whole number from 1'),
    "no number": (changed("rms_norm_eps", float("nan")), "rms_norm_eps is NaN"),
    "a bool for a number": (changed("num_hidden_layers", True), "num_hidden_layers is true"),
    "yes": (changed("tie_word_embeddings", "yes"), 'tie_word_embeddings is "yes"; it must be true or false or null'),
    "a factor alone": (
        changed("rope_parameters", {"factor": 2.0, "rope_theta": 1e4}),
        "rope_parameters: factor is 2.0",
    ),
    "no factor": (changed("rope_parameters", {"rope_type": "linear"}), "rotary scaling 'linear' needs factor"),
    "kinds": (changed("architectures", "LlamaForCausalLM"), "architectures is LlamaForCausalLM; of llama there are"),
    "more heads than width": (
        changed("head_dim", None, num_attention_heads=32, num_key_value_heads=32),
        "config.json: width=16 is less than heads=32",
    ),
    "another table": (
        tensors(lambda found: found.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)})),
        "is not the table of rope_theta=10000",
    ),
    "nothing": (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_refused(what: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error that names the tensor, the file or the key, before any number is read."""
    folder = tmp_path / "broken"
    shutil.copytree(written("llama2", root), folder)
    change, message = BROKEN[what]
    change(folder)
    monkeypatch.setattr(jax, "make_array_from_callback", lambda *_: pytest.fail("took memory"))
    with pytest.raises((ConfigError, DataError)) as refused:
        loaded(folder)
    assert message in str(refused.value)


def test_a_head_of_its_own_is_not_passed_over(root: Path, tmp_path: Path) -> None:
    """A second copy of a tied embedding is; so are tables of rotary frequencies that say what the config says."""
    shutil.copytree(written("llama3", root), tmp_path / "tied")
    _, expected = loaded(tmp_path / "tied")

    def copied(found: dict[str, np.ndarray]) -> None:
        found["lm_head.weight"] = found["model.embed_tokens.weight"].copy()
        found["model.layers.1.self_attn.rotary_emb.inv_freq"] = (100.0 ** (-np.arange(4) / 4)).astype(np.float16)

    tensors(copied)(tmp_path / "tied")
    jax.tree.map(np.testing.assert_array_equal, expected, loaded(tmp_path / "tied")[1])
    tensors(lambda found: found["lm_head.weight"].__setitem__((30, 7), 0.5))(tmp_path / "tied")
    with pytest.raises(ConfigError, match=r"lm_head\.weight .* is another matrix .* set it to false in config\.json"):
        loaded(tmp_path / "tied")


def test_links_of_a_cache_are_read(root: Path, tmp_path: Path) -> None:
    """A cache of downloads keeps its files under hashes, and a folder of links to them."""
    source = written("llama2", root)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(source / name)
    jax.tree.map(np.testing.assert_array_equal, loaded(source)[1], loaded(tmp_path)[1])


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_a_bias_that_the_family_has_not_is_refused(kind: str) -> None:
    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    raw = {"model_type": kind, "architectures": [huggingface.FAMILIES[kind].causal], "num_attention_heads": 8, **sizes}
    huggingface.config_codec.fields_in({**raw, "num_key_value_heads": 8, "attention_bias": False}, "file")
    with pytest.raises(ConfigError, match="file: attention_bias is true, which is not built"):
        huggingface.config_codec.fields_in({**raw, "num_key_value_heads": 8, "attention_bias": True}, "file")


def test_a_tensor_in_two_files_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(written("llama2", root), tmp_path / "twice")
    shutil.copy(tmp_path / "twice" / "model.safetensors", tmp_path / "twice" / "more.safetensors")
    index = {"model.norm.weight": "more.safetensors", "lm_head.weight": "model.safetensors"}
    (tmp_path / "twice" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ConfigError, match=r"stands in model.safetensors and in more.safetensors"):
        loaded(tmp_path / "twice")


GOOD_HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    "header",
    [
        {**GOOD_HEADER, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {**GOOD_HEADER, "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "Q2", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": [1]},
        [],
        "x" * 10,
    ],
    ids=["overlap", "hole", "shape", "dtype", "unknown", "negative", "huge", "backwards", "list", "no object", "text"],
)
@pytest.mark.parametrize("longer", [0, 50, 2**62], ids=["", "longer", "endless"])
def test_headers_that_cannot_be_meant(header: Any, longer: int, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    whole = (len(text) + longer).to_bytes(8, "little") + text + bytes(20)
    (tmp_path / "model.safetensors").write_bytes(whole)
    with pytest.raises(ConfigError, match=r"model\.safetensors is not a whole safetensors file .*download it again"):
        huggingface.folders.tensors_of(tmp_path)


def test_another_model_is_refused(root: Path) -> None:
    folder = written("gemma2", root)
    network = transformer(huggingface.config_of(folder, attn_softcap=None))
    with pytest.raises(ConfigError, match=r"attn_softcap=2.0, and this one has None"):
        huggingface.load(folder, network)
    with pytest.raises(ConfigError, match="there is no folder"):
        huggingface.config_of(folder / "nowhere")


def test_what_cannot_be_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, params = loaded(written("llama2", root))
    odd = TransformerConfig(vocab=8, width=8, layers=2, heads=2, mlp=8, attn_softcap=5.0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for config, folder, words, message in (
        (odd, "odd", {}, "no family .* nearest is llama, but for attn_softcap=5.0"),
        (network.config, "other", {"head": "reward"}, "has no head 'reward'; its heads are lm"),
        (network.config, "other", {"head": "value"}, "'value' has no place"),
        (network.config, "other", {"dtype": "int8"}, "not 'int8'"),
        (network.config, "full", {}, "already and not empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            huggingface.save(params, config, tmp_path / folder, **words)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(ConfigError, match=r"0\.0 GB free"):
        huggingface.save(params, network.config, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
