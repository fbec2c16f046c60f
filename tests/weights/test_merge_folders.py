"""Folders merged block by block: as trees are, in the layout and dtypes of the base, readable by others, in bounded
memory, and refused in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignjax import weights
from alignjax.cli import main
from alignjax.config import ConfigError
from alignjax.models.huggingface.folders import INDEX
from alignjax.outside import ReadError
from alignjax.weights.merge_config import depth, read_merge_config
from alignjax.weights.merge_folders import merge_folders
from tests.support.commands import ROOT
from tests.support.merged_folders import write_folder

NAMES = {"model.embed_tokens.weight": (9, 4), "model.norm.weight": (4,)} | {
    f"model.layers.{layer}.{name}.weight": (6, 4) for layer in range(3) for name in ("mlp.up", "self_attn.q")
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """A base of two files in bfloat16, and three models of one file in float32."""
    root = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    made = [root / name for name in ("base", "one", "two", "three")]
    for folder in made:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "x", "dtype": folder.name}))
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}))
        tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in NAMES.items()}
        tensors["table"] = np.arange(3)
        if folder.name != "base":
            save_file(tensors, folder / "model.safetensors")
            continue
        where = {name: f"model-{1 + number % 2:05}-of-00002.safetensors" for number, name in enumerate(tensors)}
        for file in set(where.values()):
            part = {name: tensors[name] for name in tensors if where[name] == file}
            part = {name: each.astype("bfloat16") if name != "table" else each for name, each in part.items()}
            save_file(part, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return made


def held(folder: Path) -> dict[str, np.ndarray]:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}


@pytest.mark.parametrize("name", ["model_stock", "ties", "dare", "della"])
def test_folders_are_merged_as_trees_are_wherever_blocks_end(name, folders, tmp_path) -> None:
    base, *models = folders
    values = {"weights": (0.2, 0.5, 0.8)} if name != "model_stock" else {}
    merge, key = getattr(weights, name), jax.random.key(5)
    trees = [{each: jnp.asarray(numbers) for each, numbers in held(folder).items()} for folder in folders]
    meant = merge(trees[1:], trees[0], key, **values)
    for block_bytes in (1, 150, 2**20):
        to = tmp_path / f"{block_bytes}"
        merge_folders(merge, models, to, base=base, key=key, values=lambda _: values, block_bytes=block_bytes)
        assert {path.name for path in to.iterdir()} == {path.name for path in base.iterdir()}
        assert (to / "config.json").read_bytes() == (base / "config.json").read_bytes()
        made = held(to)
        for each in (*NAMES, "table"):
            assert made[each].dtype == ("int64" if each == "table" else meant[each].dtype)
            np.testing.assert_allclose(made[each].astype(float), np.asarray(meant[each]).astype(float), rtol=8e-3)
        index = json.loads((to / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(numbers.nbytes for numbers in made.values())


def written(file: Path, text: str, folders: list[Path]) -> Path:
    """A config, with the folders for BASE, ONE, TWO and THREE."""
    for name, folder in zip(("BASE", "ONE", "TWO", "THREE"), folders, strict=True):
        text = text.replace(name, str(folder))
    file.write_text(text)
    return file


SLERP = """merge_method: slerp
base_model: BASE
models:
  - model: ONE
  - model: BASE
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.9]
    - filter: mlp
      value: [1.0, 0.2]
    - value: 0.3
dtype: float16
"""


def test_parameters_follow_filters_and_layers(folders, tmp_path) -> None:
    config = read_merge_config(written(tmp_path / "c.yml", SLERP, folders))
    assert [folder.name for folder in config.models] == ["base", "one"]
    found = {name: config.values(name, depth(NAMES))["t"] for name in NAMES}
    assert [found[f"model.layers.{layer}.self_attn.q.weight"] for layer in range(3)] == [0, 0.5, 0.9]
    assert [found[f"model.layers.{layer}.mlp.up.weight"] for layer in range(3)] == pytest.approx([1.0, 0.6, 0.2])
    assert found["model.embed_tokens.weight"] == found["model.norm.weight"] == 0.3
    assert main(["merge", str(tmp_path / "c.yml"), "--to", str(tmp_path / "to")]) == 0
    made = held(tmp_path / "to")
    assert {name: numbers.dtype.name for name, numbers in made.items()} == {
        **dict.fromkeys(NAMES, "float16"),
        "table": "int64",
    }
    same = "model.layers.0.self_attn.q.weight"  # t = 0
    np.testing.assert_allclose(made[same], held(folders[0])[same].astype(np.float32), atol=2e-3)
    assert json.loads((tmp_path / "to" / "config.json").read_text())["torch_dtype"] == "float16"
    assert (tmp_path / "to" / "merge.yml").read_text() == (tmp_path / "c.yml").read_text()


TIES = """merge_method: ties
base_model: BASE
models:
  - model: ONE
    parameters: {weight: 0.3, density: 0.5}
  - model: TWO
    parameters: {weight: 0.9, density: 0.2}
parameters: {lambda: 0.7}
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ties", "tie", "no merge_method 'tie'"),
        ("ties", "passthrough", "no merge_method 'passthrough'"),
        ("lambda", "int8_mask", "ties takes no parameter 'int8_mask'"),
        ("density: 0.5", "gamma: 0.5", "takes no 'gamma' of a model"),
        (", density: 0.2", "", "ties needs 'density' of"),
        ("density: 0.2", "density: 1.2", "density"),
        ("weight: 0.3", "weight: [0.1, x]", "must be numbers"),
        ("weight: 0.3", "weight: [{filter: mlp, value: 1}]", "no filter of weight fits"),
        ("weight: 0.3", "weight: -0.9", "add up to 0"),
        ("weight: 0.3", "weight: -0.9000000001", "add up to 0"),
        ("weight: 0.3", "weight: 3e-1", "write 1.0e-3"),
        ("weight: 0.3", "weight: 2026-01-01", 'weight is "2026-01-01"; it must be a number'),
        ("weight: 0.3", "weight: [{value: null}]", "weight is null; it must be a number"),
        ("weight: 0.3", "weight: &a [*a]", "cannot be read as YAML"),
        ("weight: 0.3", "weight: &a [{value: *a}]", "cannot be read as YAML"),
        ("merge_method: ties", "merge_method: {2026-01-01: 1}", "is no text"),
        ("lambda: 0.7", "lambda: 3.0e+38", "not finite"),
        ("lambda: 0.7", "weight: 1}\nslices: {", "'slices' is not read here"),
        ("models", "base_model", "stands twice"),
        ("base_model: BASE\n", "", "needs a base_model"),
        ("TWO", "/nowhere", "no folder /nowhere"),
        ("parameters: {lambda", "tokenizer_source: union\nparameters: {lambda", "tokenizer_source"),
        ("merge_method: ties", "merge_method: [ties", "cannot be read as YAML"),
        ("parameters: {lambda", "dtype: int8\nparameters: {lambda", "int8"),
    ],
)
def test_what_is_not_known_is_refused_by_name(old, new, words, folders, tmp_path, capsys) -> None:
    assert old in TIES
    file = written(tmp_path / "c.yml", TIES.replace(old, new, 1), folders)
    assert main(["merge", str(file), "--to", str(tmp_path / "to")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_models_that_do_not_belong_together_are_refused(folders, tmp_path) -> None:
    base, one, *_ = folders
    tensors = held(one)
    cases = {
        "vocabulary": (tensors, {}, {"model": {"vocab": {"a": 1, "b": 0}}}),
        "rope_theta": (tensors, {"rope_theta": 2}, None),
        r"shape \[9, 4\]": ({**tensors, "model.embed_tokens.weight": np.zeros((8, 4), np.float32)}, {}, None),
        "extra stands in only one": ({**tensors, "extra": np.zeros(2, np.float32)}, {}, None),
        "is F64": ({**tensors, "model.norm.weight": np.zeros(4)}, {}, None),
        "differs between the models": ({**tensors, "table": np.arange(3) + 1}, {}, None),
    }
    for words, (numbers, config, tokenizer) in cases.items():
        folder = tmp_path / words.replace(" ", "")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "x", **config}))
        (folder / "tokenizer.json").write_text(
            json.dumps(tokenizer or json.loads((base / "tokenizer.json").read_text()))
        )
        save_file(numbers, folder / "model.safetensors")
        with pytest.raises(ConfigError, match=words):
            merge_folders(weights.expo, [folder], tmp_path / "to", base=base)
        assert not (tmp_path / "to").exists()


def made_of(folder: Path, tensors: dict[str, np.ndarray], tokenizer: str | None = None) -> Path:
    """A folder of one file."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def test_vocabularies_are_compared_where_the_first_model_has_none(tmp_path) -> None:
    vocabularies = (None, '{"model": {"vocab": {"a": 0, "b": 1}}}', '{"model": {"vocab": {"a": 1, "b": 0}}}')
    folders = [
        made_of(tmp_path / f"{number}", {"w": np.ones(2, np.float32)}, said) for number, said in enumerate(vocabularies)
    ]
    with pytest.raises(ConfigError, match="give other numbers to tokens"):
        merge_folders(weights.karcher, folders, tmp_path / "to")
    for added in ("3", "[3]", '{"a": 1}'):
        (folders[2] / "tokenizer.json").write_text(f'{{"added_tokens": {added}}}')
        with pytest.raises(ConfigError, match="added_tokens is"):
            merge_folders(weights.karcher, folders, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_vocabularies_of_sentencepiece_alone_are_compared(tmp_path) -> None:
    """By their pieces in order, whatever else the files say; beside a tokenizer.json they do not count."""
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    folders = [made_of(tmp_path / name, {"w": np.ones(2, np.float32)}) for name in ("one", "two", "other")]
    for folder, pieces, score in zip(folders, (["a", "b"], ["a", "b"], ["b", "a"]), (0.0, 1.0, 0.0), strict=True):
        model = proto.ModelProto(pieces=[{"piece": piece, "score": score} for piece in pieces])
        (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    merge_folders(weights.karcher, folders[:2], tmp_path / "to")
    with pytest.raises(ConfigError, match=r"one and .*other give other numbers to tokens"):
        merge_folders(weights.karcher, folders, tmp_path / "no")
    (folders[2] / "tokenizer.json").write_text("{}")
    merge_folders(weights.karcher, folders, tmp_path / "beside")
    (folders[1] / "tokenizer.model").write_bytes(b"\xff")
    with pytest.raises(ReadError, match="cannot be read as SentencePiece"):
        merge_folders(weights.karcher, folders, tmp_path / "no")


def test_a_base_is_no_model_however_its_path_is_written(folders, tmp_path) -> None:
    (tmp_path / "link").symlink_to(folders[0])
    for path in (f"{folders[0]}/", str(folders[0].parent / "one" / ".." / "base"), str(tmp_path / "link")):
        text = TIES.replace("model: TWO", f"model: {path}", 1)
        assert [each.name for each in read_merge_config(written(tmp_path / "c.yml", text, folders)).models] == ["one"]


@pytest.mark.parametrize("name", ["linear", "karcher", "model_stock", "ties", "dare", "della"])
def test_tensors_without_entries_stay_so_and_names_are_no_markup(name, tmp_path) -> None:
    tensors = {"a[/b]": np.ones((2, 3), np.float32), "none": np.ones((0, 3), np.float32)}
    folders = [made_of(tmp_path / f"{number}", tensors) for number in range(3)]
    merge = getattr(weights, name)
    config: dict[str, object] = {"merge_method": {"dare": "dare_ties"}.get(name, name)}
    config["models"] = [{"model": str(folder)} for folder in folders[1:]]
    of_all = {"linear": ["weight"], "ties": ["weight", "density"], "dare": ["weight", "density"]}
    of_all["della"] = ["weight", "density", "epsilon"]
    config["parameters"] = dict.fromkeys(of_all.get(name, []), 0.5)
    if merge.base:
        config["base_model"] = str(folders[0])
    (tmp_path / "c.yml").write_text(json.dumps(config))
    assert main(["merge", str(tmp_path / "c.yml"), "--to", str(tmp_path / "to")]) == 0
    assert {each: numbers.shape for each, numbers in held(tmp_path / "to").items()} == {"a[/b]": (2, 3), "none": (0, 3)}


def test_a_config_may_be_a_pipe(folders, tmp_path) -> None:
    text = f'{{"merge_method": "karcher", "models": [{{"model": "{folders[1]}"}}, {{"model": "{folders[2]}"}}]}}'
    reads, writes = os.pipe()
    os.write(writes, text.encode())
    os.close(writes)
    assert main(["merge", f"/dev/fd/{reads}", "--to", str(tmp_path / "to")]) == 0
    assert (tmp_path / "to" / "merge.yml").read_text() == text


def test_places_that_cannot_be_a_folder_are_refused(folders, tmp_path, capsys) -> None:
    file = written(tmp_path / "c.yml", TIES, folders)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    for place, words in [("link", "is a link"), ("dangling", "is a link"), ("c.yml/to", "is no folder")]:
        assert main(["merge", str(file), "--to", str(tmp_path / place)]) == 2
        assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yml", "dangling", "empty", "link"]


def test_expo_takes_one_model(folders, tmp_path) -> None:
    with pytest.raises(ConfigError, match="one aligned model and was given 2"):
        merge_folders(weights.expo, folders[1:3], tmp_path / "to", base=folders[0])


@pytest.mark.slow
def test_our_loader_and_transformers_read_what_was_merged(tmp_path) -> None:
    """Logits of both agree, and so do those of the merged tree."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    from tests.support.published import loaded, theirs  # noqa: PLC0415

    folders = []
    for number in range(2):
        model = theirs("llama3")
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * number * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
        model.save_pretrained(folder := tmp_path / str(number), max_shard_size="10KB")
        folders.append(folder)
    merge_folders(weights.linear, folders, tmp_path / "to", values=lambda _: {"weights": (0.3, 0.7)})
    network, params = loaded(tmp_path / "to")
    trees = [loaded(folder)[1] for folder in folders]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, weights.linear(trees, weights=(0.3, 0.7))
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "to")
    embedded = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(params["embed"], embedded, atol=1e-6)
    assert network.config == loaded(folders[0])[0].config


@pytest.mark.slow
def test_memory_is_bounded_by_blocks_and_not_by_folders(tmp_path) -> None:
    """Three folders of 200 MB with a tensor of 64 MB: the peak grows by less than three times that tensor, and a merge
    that held all the tensors of a name in float32 would take six."""
    rows = {"wide": (2**15, 2**10), **{f"layers.{number}.w": (2**13, 2**10) for number in range(8)}}
    folders = [write_folder(tmp_path / str(number), rows, number, files=2) for number in range(3)]
    command = [sys.executable, "-m", "tests.support.merged_folders", *map(str, folders), str(tmp_path / "to")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ})
    said = json.loads(done.stdout)
    assert said["peak"] - said["before"] < 3 * 2**26, said
