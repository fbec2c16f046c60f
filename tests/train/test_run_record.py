"""Configs as JSON: everything that makes a run, nothing that depends on the process."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError, DataError, fn
from alignjax.train import run_record
from alignjax.train.named_files import named_files
from alignjax.train.run_record import check_same, config_hash, differences
from alignjax.types import Model
from alignjax.workspace import read_json, write_json
from tests.support import toy_run


def scaled(factor: float, names: tuple[str, ...] = ()) -> Callable[[float], float]:
    def apply(x: float) -> float:
        return factor * x if names else x

    return apply


def outer(x: Any, *, inner: Any = None, limit: float = float("inf"), path: Path = Path("a/b")) -> Any:
    return x


@dataclasses.dataclass(frozen=True)
class Size:
    width: int = 3


def test_everything_a_config_may_hold_is_json() -> None:
    model = Model(lambda key: key, lambda *_: None, {}, lambda *_: {}, config=Size(5))  # type: ignore[arg-type, return-value]
    tree = {
        "fn": fn(outer, inner=fn(toy_run.noise, scale=1)),
        "model": model,
        "array": jnp.arange(3),
        "number": np.float32(0.5),
        "set": frozenset({"b", "a"}),
        "type": Size,
        "closure": scaled(2.0, ("a",)),
    }
    found = run_record.config_json(tree)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    inner = {"function": "tests.support.toy_run.noise", "scale": 1.0}
    assert found["fn"] == {"function": f"{__name__}.outer", "inner": inner, "limit": "inf", "path": "a/b"}
    assert found["model"] == {"model": {"type": f"{__name__}.Size", "width": 5}}
    assert (found["array"], found["number"], found["set"]) == ([0, 1, 2], 0.5, ["a", "b"])
    assert config_hash(scaled(2.0)) != config_hash(scaled(3.0))
    assert "0x" not in json.dumps(found)


@pytest.mark.slow
def test_the_hash_is_that_of_any_process_and_of_the_file() -> None:
    code = (
        "from tests.support import toy_run; from alignjax.train.run_record import config_hash; "
        "print(config_hash(toy_run.experiment()))"
    )
    root = Path(__file__).resolve().parents[2]
    elsewhere = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    mine = config_hash(toy_run.experiment())
    assert elsewhere.stdout.split() == [mine]
    assert config_hash(json.loads(json.dumps(run_record.config_json(toy_run.experiment())))) == mine
    assert config_hash(toy_run.experiment(seed=8)) != mine


def test_differences_name_the_fields() -> None:
    old = {"a": {"b": [1, 2], "c": 1}, "d": "x" * 100, "stages": {"one": 1, "two": 2}}
    new = {"a": {"b": [1, 3], "e": 1}, "d": "y", "stages": {"two": 2, "one": 1}}
    lines = differences(old, new)
    assert lines[:3] == ["a.b[1]: 2 -> 3", "a.c: 1 -> null", "a.e: null -> 1"]
    assert lines[3].startswith('d: "xxx')
    assert len(lines[3]) < 80
    assert lines[4] == "stages: another order"
    assert differences(old, old) == []


def test_only_what_changes_no_step_may_change(tmp_path: Path) -> None:
    old = {"config": run_record.config_json(toy_run.experiment())}
    check_same(old, toy_run.experiment(steps=99, keep=5, checkpoint_every=1, tags={"a": "b"}), tmp_path)
    for changed in ({"log_every": 5}, {"seed": 1}, {"learning_rate": 0.2}):
        with pytest.raises(ConfigError, match=next(iter(changed))):
            check_same(old, toy_run.experiment(**changed), tmp_path)  # type: ignore[arg-type]


def test_a_config_names_files_by_what_they_hold(tmp_path: Path) -> None:
    """The same contents elsewhere are the same config; others, or another field of the same text, are not."""
    for place, text in (("old", "rows"), ("new", "rows"), ("other", "more rows")):
        for name in ("data.jsonl", "model/config.json", "run/checkpoints/3/meta/metadata", "run/metrics.jsonl"):
            file = tmp_path / place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text} of {name}")
    (tmp_path / "new/run/metrics.jsonl").write_text("a log that went on")

    def config(place: str, lines: int = 3) -> dict[str, Any]:
        root = tmp_path / place
        data = {"path": str(root / "data.jsonl"), "lines": lines, "name": "data.jsonl"}
        return {"data": data, "starts": [str(root / "model"), [str(root / "run"), "policy"]]}

    old = {"config": config("old"), "files": named_files(config("old"))}
    assert len(old["files"]) == 3
    shutil.rmtree(tmp_path / "old")
    check_same(old, config("new"), tmp_path)
    for wrong, words in (
        (config("other"), r"data\.path: .*\n  starts\[0\]: .*\n  starts\[1\]\[0\]: "),
        (config("new", lines=4), r"config, so .*\n  data\.lines: 3 -> 4\n"),
        (config("gone"), r"data\.path"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_same(old, wrong, tmp_path)
    with pytest.raises(ConfigError, match=r"data\.path"):  # a run of an older version
        check_same({"config": old["config"]}, config("new"), tmp_path)


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep/file.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    path.write_text('{"a": ')
    with pytest.raises(DataError, match=r"not JSON .* put a copy of it back"):
        read_json(path)
