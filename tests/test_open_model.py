"""A model is told by what it holds, opened with all that it takes to speak to it, or refused in a sentence."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from alignjax.cli import main
from alignjax.cli.open_model import open_model
from alignjax.config import ConfigError, DataError
from alignjax.models import TransformerConfig, huggingface, transformer
from tests.support.chat_families import FAMILIES, write_tokenizer

CONFIG = TransformerConfig(vocab=500, width=8, layers=1, heads=2, mlp=16)
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def folder_of(path, family="chatml", template=True):
    """A published folder of a hundred weights with the tokenizer of a family of models."""
    params = jax.jit(transformer(CONFIG).init)(jax.random.key(0))
    huggingface.save(params, CONFIG, path, extra={"max_position_embeddings": 64})
    write_tokenizer(path, FAMILIES[family])
    if not template:
        settings = json.loads((path / "tokenizer_config.json").read_text())
        (path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": None}))
    return path


def test_a_published_folder_and_its_import_are_one_model(tmp_path, capsys):
    folder = folder_of(tmp_path / "published")
    assert main(["import", str(folder), "--to", str(tmp_path / "imported")]) == 0
    one, other = open_model(str(folder)), open_model(str(tmp_path / "imported"))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    end = one.tokenizer.backend.token_to_id("<|im_end|>")
    for opened in (one, other):
        assert opened.max_length == 64
        assert opened.has_template
        assert end in opened.stops
        ids = opened.prompt_ids([TALK, "Why?"])
        assert ids[0] == opened.tokenizer.encode(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert ids[1] == opened.prompt_ids([[TALK[1]]])[0]  # a text is a message where there is a template
    assert "LlamaForCausalLM" in one.line
    assert str(tmp_path / "published") in other.line


def test_without_a_chat_template_texts_are_as_they_are(tmp_path):
    opened = open_model(str(folder_of(tmp_path / "base", "gemma3", template=False)))
    assert not opened.has_template
    assert "no chat template" in opened.introduction
    assert opened.prompt_ids(["Why?"])[0] == opened.tokenizer.encode("Why?") == opened.text_ids("Why?")
    assert opened.tokenizer.decode(opened.prompt_ids([TALK])[0]) == "System: Be brief.\nUser: Why?\nAssistant:"


@pytest.mark.parametrize(
    ("make", "role", "message"),
    [
        (lambda path: path.write_bytes(b"PK\3\4 something"), "policy", "is no GGUF file"),
        (lambda path: path.write_bytes(b"GGUF\3"), "policy", "cannot be read as GGUF"),
        (lambda path: path.mkdir(), "policy", "cannot be opened: name a run folder"),
        (lambda path: folder_of(path), "reference", "has no roles; leave out --role reference"),
        (lambda path: (folder_of(path), (path / "tokenizer.json").unlink()), "policy", "there is no tokenizer at"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("[1]")), "policy", "holds no JSON object"),
        (lambda path: None, "policy", "no such run folder"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(make, role, message, tmp_path):
    make(tmp_path / "it")
    with pytest.raises((ConfigError, DataError), match=message):
        open_model(str(tmp_path / "it"), role)


def test_classifiers_and_tokenizers_of_other_models_are_refused(tmp_path):
    folder = folder_of(tmp_path / "it")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ConfigError, match="sequence classifier"):
        open_model(str(folder))
    small = TransformerConfig(vocab=300, width=8, layers=1, heads=2, mlp=16)
    params = jax.jit(transformer(small).init)(jax.random.key(0))
    huggingface.save(params, small, tmp_path / "small")
    write_tokenizer(tmp_path / "small", FAMILIES["chatml"])
    with pytest.raises(ConfigError, match="tokenizer of another model"):
        open_model(str(tmp_path / "small"))
