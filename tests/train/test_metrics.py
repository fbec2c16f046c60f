"""Metric files and what people see."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from alignjax.config import ConfigError
from alignjax.train import metrics, trackers


def test_fetched_loses_nothing_on_its_way_through_json() -> None:
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    row = json.loads(json.dumps(metrics.fetched([{"x": jnp.asarray(values)}])[0]))
    assert np.array_equal(np.asarray(row["x"], np.float32), values)


def test_mean_over_the_rows_that_have_a_metric() -> None:
    assert metrics.averaged([{"a": 1.0, "b": [1.0, 2.0]}, {"a": 3.0, "b": [3.0, 4.0], "c": 5.0}]) == {
        "a": 2.0,
        "b": [2.0, 3.0],
        "c": 5.0,
    }


def test_only_losses_and_gradients_must_be_finite() -> None:
    row = {"gradient_norm/x": float("inf"), "loss/pair": float("nan"), "loss": 1.0, "pair/ratio": float("nan")}
    assert metrics.not_finite(row) == ["loss/pair", "gradient_norm/x"]


def test_jsonl_is_strict_json_and_unicode(tmp_path: Path) -> None:
    with metrics.jsonl(tmp_path / "m.jsonl", 0) as write:
        write(3, {"loss": float("nan"), "text": "ä\n\u2028", "list": [float("inf"), 1]})
    (line,) = (tmp_path / "m.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 3,
        "loss": None,
        "text": "ä\n\u2028",
        "list": [None, 1],
    }
    assert metrics.cut_back(tmp_path / "m.jsonl", 3) == 0


@pytest.mark.parametrize("tail", ["", '{"step": 9', "\x00\x00", '{"no": 1}\n', "[1]\n"])
def test_cut_back_drops_later_and_broken_lines_only(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "m.jsonl"
    whole = [json.dumps({"step": step, "x": step / 3}) + "\n" for step in range(1, 7)]
    path.write_text("".join(whole) + tail)
    assert metrics.cut_back(path, 4) == 2 + bool(tail)
    assert path.read_text() == "".join(whole[:4])
    assert list(tmp_path.iterdir()) == [path]


def test_all_sinks_get_the_same_and_tensorboard_is_purged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append(("open", purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def close(self) -> None:
            calls.append("close")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    with metrics.opened(tmp_path, 4, tags={}, config={}) as write:
        write(5, {"loss": 0.5, "per_class": [1.0, 2.0]})
    assert calls == [("open", 5), ("loss", 0.5, 5), "close"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 5, "loss": 0.5, "per_class": [1.0, 2.0]}


def test_wandb_is_asked_for_by_a_tag_and_missed_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'alignjax\[wandb\]'"),
        metrics.opened(tmp_path, 0, tags={"wandb": "project"}, config={}),
    ):
        pass


def test_a_folder_is_one_run_of_wandb_and_an_error_fails_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the real one, tried by hand: ids, rows and exit codes were read back from what it wrote offline."""
    calls: list[Any] = []

    class Run:
        def log(self, row: Any, step: int) -> None:
            calls.append((step, row))

        def finish(self, exit_code: int) -> None:
            calls.append(exit_code)

    def init(**given: Any) -> Run:
        if not given["project"]:
            raise RuntimeError("no login.")
        calls.append((given["id"], given["name"], given["resume"]))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=RuntimeError))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with metrics.opened(tmp_path / "a", 0, tags={"wandb": "p"}, config={}) as write:
        write(1, {"loss": 0.5, "per_class": [1.0, 2.0]})
    with pytest.raises(KeyError), metrics.opened(tmp_path / "a", 1, tags={"wandb": "p"}, config={}):
        raise KeyError
    with metrics.opened(tmp_path / "b", 0, tags={"wandb": "p"}, config={}):
        pass
    (first, *_), row, done, (again, *_), failed, (other, name, resume), _ = calls
    assert (first, row, done, failed) == (again, (1, {"loss": 0.5}), 0, 1)
    assert (first != other, name, resume) == (True, f"{tmp_path.name}-b", "allow")
    with (
        pytest.raises(ConfigError, match=r"wandb: no login. WANDB_MODE=offline"),
        trackers.wandb(tmp_path, "", {}),
    ):
        pass


def test_plain_lines_without_a_terminal_and_a_bar_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"loss": 0.6931, "time/prompts_per_second": 12.0, "time/completion_tokens_per_second": 12345.0}
    plain = Console(file=io.StringIO(), width=200)
    with metrics.watched(plain, "sft", 0, 9) as show:
        for step in range(1, 10):
            show(step, row if step % 3 == 0 else None)
    said = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[1] for line in said] == ["3/9", "9/9"]
    assert "loss 0.693  12 prompts/s  12.3k tokens/s" in said[0]
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True)
    with metrics.watched(terminal, "sft", 0, 9) as show:
        show(3, row)
        show(9, None)
    assert "9/9" in terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "loss 0.693" in terminal.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0.0123456, "0.0123"),
        (1234567.0, "1.23M"),
        (-12.3456, "-12.35"),
        (45678.0, "45.7k"),
        (2.5e9, "2.5G"),
        (0.0, "0"),
    ],
)
def test_short_numbers(number: float, said: str) -> None:
    assert metrics.short(number) == said


def test_trackers_are_asked_for_by_tags_and_get_tables_of_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the real ones, tried by hand: runs, numbers and tables were read back from what they wrote offline."""
    calls: list[Any] = []

    class Run:
        info = types.SimpleNamespace(run_id="r")

        def log(self, row: Any, step: int) -> None:
            calls.append((step, row))

        def finish(self) -> None:
            calls.append("finish")

    class Client:
        experiments: ClassVar[dict[str, Any]] = {}
        runs: ClassVar[list[Any]] = []

        def get_experiment_by_name(self, name: str) -> Any:
            return self.experiments.get(name)

        def create_experiment(self, name: str) -> str:
            self.experiments[name] = types.SimpleNamespace(experiment_id="e")
            return "e"

        def search_runs(self, places: list[str], tag: str) -> list[Any]:
            return [run for run, folder in self.runs if f"tags.folder_id = '{folder}'" == tag]

        def create_run(self, place: str, run_name: str, tags: dict[str, str]) -> Any:
            calls.append(("create", run_name))
            self.runs.append((Run(), tags["folder_id"]))
            return self.runs[-1][0]

        def set_terminated(self, run: str, status: str) -> None:
            calls.append(status)

        def log_dict(self, run: str, config: Any, name: str) -> None:
            calls.append(config)

        def log_batch(self, run: str, metrics: list[Any]) -> None:
            calls.extend(metrics)

        def log_table(self, run: str, data: Any, name: str) -> None:
            calls.append((name, data))

    def table(columns: list[str], data: list[list[str]]) -> Any:
        return columns, data

    entities = types.SimpleNamespace(Metric=lambda name, value, time, step: (name, value, step))
    trackio = types.SimpleNamespace(init=lambda **given: calls.append(given) or Run(), Table=table)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client, entities=entities))
    samples = [{"prompt": "p", "completion 0": "c"}, {"prompt": "q", "completion 1": "d"}]
    columns, data = ["prompt", "completion 0", "completion 1"], [["p", "c", ""], ["q", "", "d"]]
    for tag in ("trackio", "mlflow"):
        with metrics.opened(tmp_path, 0, tags={tag: "p"}, config={"a": 1}) as write:
            write(1, {"loss": 0.5, "per_class": [1.0]})
            write(1, {"samples": samples})
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    begun, row, texts, end, *rest = calls
    assert (begun["project"], begun["resume"], begun["config"]) == ("p", "allow", {"a": 1})
    assert begun["name"].startswith("-".join(tmp_path.parts[-2:]))
    assert (row, texts, end) == ((1, {"loss": 0.5}), (1, {"samples": (columns, data)}), "finish")
    shown = {"step": [1, 1], "prompt": ["p", "q"], "completion 0": ["c", ""], "completion 1": ["", "d"]}
    name = "-".join(tmp_path.parts[-2:])
    assert rest == [("create", name), "RUNNING", {"a": 1}, ("loss", 0.5, 1), ("samples.json", shown), "FINISHED"]
    calls.clear()
    with pytest.raises(KeyError), metrics.opened(tmp_path, 1, tags={"mlflow": "p"}, config={}):
        raise KeyError
    assert calls == ["RUNNING", {}, "FAILED"]
    for tag in ("trackio", "mlflow"):
        monkeypatch.setitem(sys.modules, tag, None)
        words = rf"tags ask for {tag}, which is not installed: pip install 'alignjax\[{tag}\]'"
        with (
            pytest.raises(ConfigError, match=words),
            metrics.opened(tmp_path, 0, tags={tag: "p"}, config={}),
        ):
            pass
