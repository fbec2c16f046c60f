"""Token ids of an experiment are those of its data's tokenizer; where data, model and config disagree it is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
from rich.console import Console
from tokenizers import models

from alignjax import algorithms, data, losses, roles, stages
from alignjax.config import ConfigError, Experiment, fn
from alignjax.models import TransformerConfig, transformer
from alignjax.train.loop import train
from alignjax.train.optimizers import sgd
from alignjax.train.token_ids import check_one_tokenizer, ends_of, with_token_ids
from alignjax.types import Role
from alignjax.workspace import Workspace

WORDS = ("a", "b", "c", "<s>", "</s>", "<pad>", "<end>", "<stop>", "[SEP]")
EOS, END, STOP, SEP = 4, 6, 7, 8
NETWORK = transformer(TransformerConfig(vocab=len(WORDS), width=8, layers=1, heads=2, mlp=16, outputs=("preference",)))


def published(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    folder.mkdir()
    vocabulary = {word: number for number, word in enumerate(words)}
    hf.Tokenizer(models.WordLevel(vocabulary, unk_token="a")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, STOP]}))
    return folder


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> data.Prompts:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"a {word}"}) + "\n" for word in "abc"))
    tokenizer = str(published(tmp_path / "tokenizer"))
    return data.Prompts(path=str(path), tokenizer=tokenizer, test_fraction=0.0)


def experiment(dataset: Any, judge: Any = None, network: Any = NETWORK, **parts: Any) -> Experiment:
    algorithm = algorithms.online_ipo(
        network,
        judge=judge or fn(stages.bernoulli, judge=fn(stages.preference_model, role="judge")),
        judges={"judge": Role(NETWORK, roles.fresh())},
        optimizer=fn(sgd, learning_rate=1.0),
        start=roles.fresh(),
        max_tokens=3,
        **parts,
    )
    source = fn(data.prompts, dataset=dataset, batch_size=2, prompt_length=4)
    return Experiment(algorithm, source, steps=1)


@pytest.mark.parametrize("prepare", [False, True])
def test_what_is_left_open_is_what_the_tokenizer_says(prompts: data.Prompts, prepare: bool) -> None:
    """All ends that its files name, also where a function holds another that holds the slot."""
    given = experiment(prompts)
    made = with_token_ids(given, None, prepare).algorithm
    assert made.experience["generate"].kwargs["stop"] == (EOS, END, STOP)
    assert made.experience["prefer"].kwargs["judge"].kwargs["judge"].kwargs["separator"] == SEP
    assert given.algorithm.experience["generate"].kwargs["stop"] is None  # what files keep
    assert ends_of(given.source, None) == (EOS, END, STOP)
    named = experiment(dataclasses.replace(prompts, eos_token="<end>"))
    assert with_token_ids(named, None, prepare).algorithm.experience["generate"].kwargs["stop"] == (END, STOP)
    told = experiment(prompts, stop=(0, STOP))
    assert with_token_ids(told, None, prepare).algorithm.experience["generate"].kwargs["stop"] == (0, STOP)


def test_an_engine_a_loss_and_a_tokenizer_that_is_trained_here(prompts: data.Prompts) -> None:
    base = experiment(dataclasses.replace(prompts, tokenizer="", vocab_size=300))
    asked = stages.engine(url="http://localhost/v1", model="policy", n=2, max_tokens=3)
    pair = {"pair": fn(losses.weighted, loss=fn(losses.preference_cross_entropy), weight=0.5)}
    changed = dataclasses.replace(base.algorithm, experience=asked, losses=pair)
    made = with_token_ids(dataclasses.replace(base, algorithm=changed), None, prepare=False).algorithm
    assert made.experience["generate"].kwargs["stage"].kwargs["stop"] == (data.EOS,)
    assert made.losses["pair"].kwargs["loss"].kwargs["separator"] == data.SEP


def test_what_disagrees_is_refused_with_both_numbers(prompts: data.Prompts, tmp_path: Path) -> None:
    small = transformer(TransformerConfig(vocab=7, width=8, layers=1, heads=2, mlp=16))
    joint = fn(stages.preference_model, role="judge", separator=9)
    for wrong, words in (
        (experiment(prompts, network=small), r"prompts has 9 tokens and the model of role 'policy' a vocab of 7"),
        (experiment(prompts, stop=(0,)), r"stop=\(0,\) of 'generate' has none of the tokens .* \(4, 6, 7\)"),
        (experiment(prompts, stop=(EOS, 9)), r"names token 9, and .* has 9, of ids 0 to 8"),
        (experiment(prompts, judge=joint), r"separator=9 of 'prefer' names token 9"),
    ):
        with pytest.raises(ConfigError, match=words):
            with_token_ids(wrong, None, prepare=False)
        # A run says it before anything of it exists.
        with pytest.raises(ConfigError, match=words):
            train(wrong, Workspace(tmp_path / "run"), console=Console(quiet=True))
        assert not (tmp_path / "run").exists()
    other = dataclasses.replace(prompts, tokenizer=str(published(tmp_path / "other", (*WORDS[:7], "[SEP]", "<stop>"))))
    shown = dataclasses.replace(experiment(prompts), sample=fn(shows, dataset=other))
    with pytest.raises(ConfigError, match=r"tokenizers differ \(9 tokens, .* separator 8; 9 tokens, .* separator 7\)"):
        with_token_ids(shown, None, prepare=False)
    bare = dataclasses.replace(experiment(prompts), source=fn(no_dataset))
    with pytest.raises(
        ConfigError, match=r"stage 'generate' samples with stop=None, and the source no_dataset names no"
    ):
        with_token_ids(bare, None, prepare=True)
    with pytest.raises(ConfigError, match="names no dataset"):
        ends_of(bare.source, None)


def test_a_step_reads_data_of_the_tokenizer_that_it_starts_from(prompts: data.Prompts, tmp_path: Path) -> None:
    """Files are known by what is in them; a tokenizer that is trained is that of its data set."""
    copied = dataclasses.replace(prompts, tokenizer=str(published(tmp_path / "copy")), prefix="b ")
    ours = dataclasses.replace(prompts, tokenizer="", prefix="b ")
    other = dataclasses.replace(prompts, tokenizer=str(published(tmp_path / "other", WORDS[::-1])))
    for first, second in ((prompts, copied), (ours, dataclasses.replace(prompts, tokenizer=ours))):
        check_one_tokenizer("role", experiment(second), "sft", experiment(first))
    named = dataclasses.replace(prompts, eos_token="<end>")
    for first, second in (
        (prompts, other),
        (prompts, ours),
        (prompts, named),
        (ours, dataclasses.replace(ours, prefix="")),
    ):
        with pytest.raises(ConfigError, match=r"from step .sft., whose data \(prompts\) has another tokenizer"):
            check_one_tokenizer("role", experiment(second), "sft", experiment(first))


def shows(experiment: Any, workspace: Any, *, dataset: data.Dataset) -> Any:
    raise AssertionError("nothing is shown")


def no_dataset(workspace: Any, seed: int) -> Any:
    raise AssertionError("nothing is read")
