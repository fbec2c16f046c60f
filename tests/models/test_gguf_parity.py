"""GGUF files beside `transformers`: the model that a file was made of has the same logits, the same file read by
`transformers` the same numbers, and its tokenizer the same ids. The published file generates sense."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as hf
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import TikTokenConverter

from alignjax.config import ConfigError
from alignjax.data import load_tokenizer
from alignjax.data.text.chat import load_template
from alignjax.models import huggingface, transformer
from alignjax.sampling import Filters, Sampling, generate
from alignjax.types import Batch
from tests.support.gguf_made import gguf_of, tokenizer_settings
from tests.support.published import LLAMA3, theirs, written
from tests.support.tiny import context_of

pytestmark = pytest.mark.slow

WIDE = {"hidden_size": 64, "intermediate_size": 96}  # rows of whole blocks of 32
STRETCHED = LLAMA3 | {"original_max_position_embeddings": 8192, "rope_theta": 5e5, "factor": 32.0}
# A GGUF file says neither windows nor which of a family's sizes the scale of queries is from; transformers takes heads
# of a Qwen3 for 128 wide.
CHANGES: dict[str, dict[str, Any]] = {
    "llama2": {"attention_bias": False, "mlp_bias": False},
    "llama3": {"rope_parameters": STRETCHED},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"attention_bias": False, "head_dim": 128},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3": {"query_pre_attn_scalar": 8},
}
# Of these transformers reads no GGUF files.
ALONE: dict[str, dict[str, Any]] = {
    "olmo2": {}, "granite": {"mlp_bias": False}, "smollm3": {"attention_bias": False}, "cohere2": {},
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(3, 37, (2, 9))


def made(case: str, root: Path, kind: str = "F32", **changes: Any) -> tuple[Path, Any]:
    """A GGUF file, and the model that it was made of."""
    changes = (CHANGES | ALONE)[case] | WIDE | changes
    folder = root / f"{case}-{kind}"
    model = theirs(case, **changes)
    model.save_pretrained(folder)
    more = {}
    if case == "llama3":  # llama.cpp writes what frequencies are divided by, and nothing of what that was made of
        stretched, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
        half = len(stretched)
        more["rope_freqs.weight"] = (5e5 ** -(np.arange(half) / half) / stretched.numpy()).astype(np.float32)
    return gguf_of(folder, root / f"{case}-{kind}.gguf", kind, more=more), model


def our_logits(file: Path) -> np.ndarray:
    network = transformer(huggingface.config_of(file))
    params = huggingface.load(file, network)
    hidden, _, _ = network.extend(params, None, jnp.asarray(TOKENS)[:, None], jnp.ones((2, 1, 9), bool))
    return np.asarray(network.heads["lm"].apply(params, hidden)[:, 0])


@pytest.mark.parametrize("case", [*CHANGES, *ALONE])
def test_logits_are_those_of_the_model_that_was_written(case: str, root: Path) -> None:
    file, model = made(case, root)
    if case == "llama3":
        scaling = huggingface.config_of(file).rope_scaling
        assert scaling is not None
        assert (scaling.kind, scaling.factor, scaling.original) == ("llama3", 32.0, 8192)
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    assert expected.std() > 0.5
    np.testing.assert_allclose(our_logits(file), expected, atol=2e-4)


@pytest.mark.parametrize("kind", ["Q4_1", "F16"])
@pytest.mark.parametrize("case", CHANGES)
def test_weights_are_those_that_transformers_reads(case: str, kind: str, root: Path) -> None:
    """Bit for bit, when they are exported again."""
    file, _ = made(case, root, kind)
    reread = transformers.AutoModelForCausalLM.from_pretrained(root, gguf_file=file.name, dtype=torch.float32)
    network = transformer(huggingface.config_of(file))
    huggingface.save(huggingface.load(file, network), network.config, root / f"{case}-{kind}-out")
    ours = transformers.AutoModelForCausalLM.from_pretrained(root / f"{case}-{kind}-out", dtype=torch.float32)
    expected = reread.state_dict()
    assert {*expected} == {*ours.state_dict()}
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


# ---------------------------------------------------------------------------------------------------------- tokenizers

CORPUS = [
    "The judge reads two texts, and says which one is better.",
    "don't I'LL  1234567 3.5",
    "naïve 語\n\n  café",
] * 4
TEXTS = [
    "The judge's 12345 texts", "I'LL don'T we've", "  two  spaces \n\n\nlines\t.", "naïve café 語語 🙂 ½ ²³",
    "a1b22c333", "…!?!\r\n x", "<|end|>in the midst<|end|>", "cafe\u0301", " ", "",
]  # fmt: skip


def split(pattern: str) -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Split(hf.Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]


def published(pre: str) -> hf.Tokenizer:
    """A tokenizer that cuts words as those called `pre` do, by the patterns that `transformers` has for them."""
    steps: list[pre_tokenizers.PreTokenizer]
    if pre == "gpt-2":
        steps = [pre_tokenizers.ByteLevel(False)]
    elif pre == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    elif pre == "llama-bpe":
        steps = split(TikTokenConverter(vocab_file="x").pattern)
    else:
        steps = split(transformers.models.qwen2.tokenization_qwen2.PRETOKENIZE_REGEX)
    backend = hf.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens([hf.AddedToken("<|end|>", special=True, normalized=False)])
    return backend


def file_of(backend: hf.Tokenizer, root: Path, name: str, **said: Any) -> Path:
    """A GGUF file with the tokenizer of `backend` beside a tiny model."""
    state = json.loads(backend.to_str())["model"]
    tokens = sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)
    end = tokens.index("<|end|>")
    types = [3 if i == end else 1 for i in range(len(tokens))]
    said = {"token_type": types, "merges": [" ".join(pair) for pair in state["merges"]], **said}
    settings = tokenizer_settings("gpt2", name, tokens, **said)
    folder = written("qwen2", root)
    ids = {"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.eos_token_id": end}
    return gguf_of(folder, root / f"{name}.gguf", settings=settings | ids)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_words_are_cut_as_the_published_tokenizers_do(pre: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(root / "cache"))
    backend = published(pre)
    file = file_of(backend, root, pre, eot_token_id=5)
    ours = load_tokenizer(file)
    for text in TEXTS:
        assert ours.encode(text) == backend.encode(text, add_special_tokens=False).ids, text
        assert ours.decode(ours.encode(text)) == backend.decode(ours.encode(text)), text
    assert ours.ends == (backend.token_to_id("<|end|>"), 5)
    assert not ours.adds_bos
    if pre in ("gpt-2", "qwen2"):  # of these alone transformers cuts by the pattern that the file names
        their = transformers.AutoTokenizer.from_pretrained(root, gguf_file=file.name)
        for text in (text for text in TEXTS if unicodedata.is_normalized("NFC", text)):  # which it leaves out
            assert ours.encode(text) == their(text, add_special_tokens=False)["input_ids"], text


def test_pieces_with_scores_are_those_of_transformers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(root / "cache"))
    letters = sorted(set("".join(CORPUS)) - {" "})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    pieces += ["▁T", "▁t", "he", "▁The", "re", "ad", "read", "▁a", "nd", "▁and"]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259)
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces) - 259)]
    settings = tokenizer_settings("llama", "default", pieces, token_type=types, scores=scores, unknown_token_id=0)
    settings |= {"tokenizer.chat_template": "{{ messages[0].content }}"}
    file = gguf_of(written("llama2", root), root / "pieces.gguf", settings=settings)
    ours = load_tokenizer(file)
    their = transformers.AutoTokenizer.from_pretrained(root, gguf_file=file.name)
    for text in ("The read and", "a  nd", "naïve 語🙂", "the", "x\ny"):
        assert ours.encode(text) == their(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ours.encode(text)) == text
    assert (ours.bos, ours.eos, ours.adds_bos) == (1, 2, True)
    assert load_template(str(file)) == "{{ messages[0].content }}"


def test_a_tokenizer_that_is_not_known_is_refused_by_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(root / "cache"))
    folder = written("qwen2", root)
    for kind, pre, tokens, says in (
        ("gpt2", "viking", ["a", "b"], "tokenizer.ggml.pre is 'viking'"),
        ("gpt2", None, ["a", "b"], "does not say tokenizer.ggml.pre"),
        ("t5", "", ["a", "b"], "a tokenizer of kind 't5'"),
        ("gpt2", "gpt-2", ["a", "a"], "the token 'a' twice"),
        ("gpt2", "gpt-2", ["a"], "bos_token_id is 1, and its tokenizer has 1 tokens"),
    ):
        settings = tokenizer_settings(kind, pre, tokens, merges=["a b"] * (len({*tokens}) > 5) or ["a a"])
        settings.pop("tokenizer.ggml.merges")
        file = gguf_of(folder, root / "odd.gguf", settings=settings)
        with pytest.raises(ConfigError, match=says):
            load_tokenizer(file)
        assert huggingface.config_of(file).vocab == 37  # the weights are read all the same


# ----------------------------------------------------------------------------------------------------- a published file


def test_the_published_file_generates_sense() -> None:
    file = Path(os.environ.get("ALIGNJAX_SMOLLM2", ""))
    if not file.is_file():
        pytest.skip("ALIGNJAX_SMOLLM2 names no SmolLM2-135M-Instruct.Q4_1.gguf (alignjax models fetch gives one)")
    network, tokenizer = transformer(huggingface.config_of(file)), load_tokenizer(file)
    ids = tokenizer.encode("The capital of France is")
    batch = Batch(prompt=jnp.asarray([ids], jnp.int32), prompt_valid=jnp.ones((1, len(ids)), bool))
    context = context_of(network, policy=huggingface.load(file, network))
    greedy = generate(context, batch, jax.random.key(0), Sampling(1, 2, filters=Filters(0.0), stop=tokenizer.ends))
    assert tokenizer.decode(np.asarray(greedy.tokens[0, 0])[:1]) == " Paris"
    assert huggingface.pretrained(file).numbers == "Q4_1, Q8_0 dequantized"
