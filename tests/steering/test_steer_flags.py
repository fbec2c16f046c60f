"""`--steer FILE --strength S` of generate and serve: the opened model in other words, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.cli import main
from alignjax.cli.open_model import open_model
from alignjax.cli.serve_flags import Serve
from alignjax.cli.steer_flags import opened_steered
from alignjax.models import TransformerConfig, huggingface, transformer
from alignjax.steering import write_control_vector
from tests.support.chat_families import FAMILIES, write_tokenizer

CONFIG = TransformerConfig(vocab=500, width=8, layers=2, heads=2, mlp=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model of a few thousand weights, and a control vector for it beside."""
    path = tmp_path_factory.mktemp("published")
    huggingface.save(jax.jit(transformer(CONFIG).init)(jax.random.key(0)), CONFIG, path)
    write_tokenizer(path, FAMILIES["chatml"])
    direction = np.random.default_rng(0).normal(size=(2, 8)) * [[0], [9]]
    write_control_vector(path / "vector.gguf", jnp.asarray(direction), hint="llama")
    (path / "prompts.txt").write_text("Why?\nWhere?\n")
    return path


def answers(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    command = ["generate", str(folder), "--prompt-file", str(folder / "prompts.txt"), "--format", "json"]
    assert main([*command, "--max-tokens", "4", *words]) == 0
    captured = capsys.readouterr()
    assert ("steered by" in captured.err) == ("--steer" in words)
    return [json.loads(line) for line in captured.out.splitlines()]


def test_generate_is_steered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a strength, 0 being none; a behavior reads the steered model: DeRa at 0 is the other one."""
    vector = ("--steer", str(folder / "vector.gguf"))
    plain = answers(folder, capsys)
    assert answers(folder, capsys, *vector, "--strength", "0") == plain
    assert answers(folder, capsys, *vector, "--strength", "-2") != plain
    texts = [[one["text"] for one in each["completions"]] for each in plain]  # type: ignore[union-attr, index]
    dera = answers(folder, capsys, *vector, "--behavior", "dera", "--reference", str(folder), "--lambda", "0")
    assert [[one["text"] for one in each["completions"]] for each in dera] == texts  # type: ignore[union-attr, index]


def test_serve_opens_what_generate_does(folder: Path) -> None:
    flags = Serve(str(folder), steer=folder / "vector.gguf", strength=3.0)
    edits = opened_steered(flags).params["edits"]["block"]
    once = opened_steered(Serve(str(folder), steer=folder / "vector.gguf")).params["edits"]["block"]
    np.testing.assert_allclose(edits, 3 * once, rtol=1e-6)
    assert "edits" not in open_model(str(folder)).params


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--strength", "2"), "--strength 2 is that of a control vector; name one, --steer FILE"),
        (("--steer", "nowhere.gguf"), "there is no file nowhere.gguf"),
        (("--steer", "prompts.txt"), "cannot be read as GGUF"),
    ],
)
def test_refusals(
    folder: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    assert main(["generate", ".", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
