"""`alignjax import` and `alignjax export`, from a folder of published weights to a checkpoint, a run, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from alignjax import roles
from alignjax.cli import config_file, import_export, main
from alignjax.config import Experiment, fn
from alignjax.models import huggingface, lora, transformer
from alignjax.scoring import params_of
from alignjax.train import checkpoint
from alignjax.train.state import create_state
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace
from tests.support.published import SIZES, theirs, written

CONFIG = '''
"""A policy with adapters over published weights."""
from alignjax import losses
from alignjax.algorithms import with_lora
from alignjax.config import Experiment, fn
from alignjax.models import huggingface, transformer
from alignjax.train.optimizers import sgd
from alignjax.types import Algorithm, Role


def get_config():
    model = transformer(huggingface.config_of(FOLDER))
    policy = Role(model, huggingface.pretrained(FOLDER), fn(sgd))
    return Experiment(with_lora(Algorithm(losses={"sft": fn(losses.sft)}, roles={"policy": policy})), fn(nothing), 1)


def nothing(workspace, seed):
    raise AssertionError("an export reads no data")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model with a tokenizer, as it is published."""
    root = tmp_path_factory.mktemp("published")
    folder = shutil.copytree(written("llama3", root), root / "whole")
    words = {word: number for number, word in enumerate(("<pad>", "<s>", "</s>", "a", "b"))}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a")).save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def no_data(workspace: Workspace, seed: int) -> None:
    raise AssertionError("an export reads no data")


def test_there_and_back(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """import, then a role that starts from the checkpoint, then export: the same weights and tokenizer files."""
    assert main(["import", str(folder), "--to", str(tmp_path / "own"), "--role", "teacher"]) == 0
    network = transformer(huggingface.config_of(folder))
    start = roles.restored(str(tmp_path / "own"), "teacher")
    algorithm = Algorithm(roles={"policy": Role(network, start)})
    state = create_state(algorithm, 0, Workspace(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, state.roles["policy"], huggingface.load(folder, network))
    assert main(["export", str(tmp_path / "own"), "--to", str(tmp_path / "out"), "--role", "teacher"]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert torch.equal(tensor, theirs("llama3").state_dict()[name]), name
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ messages }}"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["max_position_embeddings"] == SIZES["max_position_embeddings"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]

    # A run that goes on from there, through an earlier step, has the tokenizer of the import.
    second = {
        "policy": Role(network, roles.restored("first", "policy")),
        "copy": Role(network, roles.copy_of("policy")),
    }
    assert import_export._first_start(second, "copy", {"first": algorithm.roles}) == start
    experiment = Experiment(algorithm, fn(no_data), 1)
    extra, tokenizer = import_export._tokenizer(experiment, Workspace(tmp_path), start)
    assert extra["max_position_embeddings"] == SIZES["max_position_embeddings"]
    import_export._write_tokenizer(tokenizer, tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()

    capsys.readouterr()
    shutil.rmtree(tmp_path / "own" / "tokenizer")
    assert main(["export", str(tmp_path / "own"), "--to", str(tmp_path / "bare"), "--role", "teacher"]) == 0
    assert "no tokenizer is written" in capsys.readouterr().err

    # With a tokenizer whose files name what ends a text, theirs does end it: here with what the model says first.
    prompt = torch.tensor([[1, 5, 7]])
    bare = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bare", dtype=torch.float32)
    said = bare.generate(prompt, do_sample=False, max_new_tokens=5)[0].tolist()
    first, second = said[3], said[3] + 1
    assert len(said) > 4
    tokenizer = tokenizer_of_numbers(tmp_path / "numbers", SIZES["vocab_size"], eos=first)
    (tokenizer / "generation_config.json").write_text(json.dumps({"use_cache": False, "eos_token_id": second}))
    words = ["export", str(tmp_path / "own"), "--role", "teacher", "--tokenizer", str(tokenizer)]
    assert main([*words, "--to", str(tmp_path / "other")]) == 0
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "other", dtype=torch.float32)
    assert other.generate(prompt, do_sample=False, max_new_tokens=5)[0].tolist() == said[:4]
    assert (other.config.eos_token_id, other.config.bos_token_id) == ([first, second], None)
    generation = other.generation_config
    assert (generation.eos_token_id, generation.use_cache) == ([second, first], False)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "other").eos_token_id == first
    tokenizer_of_numbers(tokenizer, 50, eos=40)
    assert main([*words, "--to", str(tmp_path / "x")]) == 2
    assert "its eos token is number 40, and the model has 37 tokens" in capsys.readouterr().err


def tokenizer_of_numbers(folder: Path, size: int, eos: int) -> Path:
    """A folder with a tokenizer of the words 0, 1, 2, .., of which one ends a text, and no generation_config.json."""
    folder.mkdir(exist_ok=True)
    words = {str(number): number for number in range(size)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": str(eos)}))
    return folder


def test_adapters_are_added_to_their_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run = tmp_path / "config.py", tmp_path / "run"
    file.write_text(CONFIG.replace("FOLDER", repr(str(folder))))
    loaded = config_file.load(str(file))
    config_file.remember(loaded, run)
    state = create_state(loaded.config.algorithm, 0, Workspace(run))
    moved = jax.tree.map(lambda leaf: leaf + 0.1, state.roles["policy"])
    trees = {**state.roles, "policy": moved}
    with checkpoint.writing(run, keep=1) as writer:
        checkpoint.save(writer, 1, {"roles": trees}, {})
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
    merged = lora.merged(params_of(loaded.config.algorithm.roles, trees)("policy"))
    found = tensors_of(tmp_path / "out")
    query = found["model.layers.1.self_attn.q_proj.weight"].numpy()
    assert "tokenizer" not in capsys.readouterr().err
    np.testing.assert_array_equal(query.T, merged["layers"]["q"][1])
    assert not np.array_equal(query, theirs("llama3").state_dict()["model.layers.1.self_attn.q_proj.weight"].numpy())
    np.testing.assert_array_equal(found["model.embed_tokens.weight"].numpy(), merged["embed"])
    assert (tmp_path / "out" / "tokenizer_config.json").is_file()


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\0" * 20)
    for words, message in (
        (["import", str(broken), "--to", str(tmp_path / "x")], "model.safetensors is not a whole safetensors file"),
        (["import", str(folder), "--to", str(broken)], "already and not empty"),
        (["export", str(broken), "--to", str(tmp_path / "x")], "not a run folder"),
        (["export", str(folder), "--to", str(tmp_path / "x"), "--tokenizer", str(tmp_path)], "has no tokenizer.json"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
