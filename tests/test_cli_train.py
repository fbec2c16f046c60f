"""`alignjax train`, its dry runs, its config files, and the commands on what it made."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from alignjax import cli
from alignjax.cli import config_file, main
from alignjax.models import TransformerConfig, transformer
from alignjax.train.checkpoint.checksums import in_units, tree_bytes
from tests.support.toy_configs import CONFIG, ONE, PIPELINE, THREE, in_a_folder


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    with in_a_folder(tmp_path, monkeypatch):
        yield


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------ dry runs


def test_dry_run_says_what_would_be_and_touches_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    before = sorted(tmp_path.rglob("*.json"))
    assert main(["train", f"{ONE}:tiny", "--dry-run", "--source.rows", "7", "--source.readable", "false"]) == 0
    out = capsys.readouterr().out
    model = transformer(TransformerConfig(vocab=32, width=8, layers=2, heads=2, mlp=16))
    count = sum(leaf.size for leaf in jax.tree.leaves(model.init(jax.random.key(0))))
    assert out.count(f"{count:,}") >= 2  # policy and reference
    assert "int32[7, 1, 6]" in out
    assert "3 iterations, seed 0" in out
    assert "adamw" in out
    assert "frozen" in out
    assert sorted(tmp_path.rglob("*.json")) == before
    assert not (tmp_path / "runs").exists()


def test_dry_run_of_a_pipeline_needs_no_earlier_output(capsys):
    assert main(["train", THREE, "--dry-run", "--second.steps", "9"]) == 0
    out = capsys.readouterr().out
    assert out.index("first") < out.index("2 iterations") < out.index("second") < out.index("9 iterations")
    assert "more: 1" in out
    assert "policy: shapes of policy in first" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("first", "frist"), "neither an earlier step nor a run. Did you mean 'first'?"),
        (("first", "second"), "starts from step 'second', which does not run before it"),
        (("first", "count"), "starts from step 'count', a job"),
        (("policy", "polcy"), "starts from role 'polcy' of step 'first', which has none. Did you mean 'policy'?"),
    ],
)
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_start_that_cannot_be_is_said_before_any_step_runs(change, message, dry, capsys, tmp_path):
    text = PIPELINE.replace('restored("first", "policy")', 'restored("first", "policy")'.replace(*change))
    text = text.replace('Pipeline({"first"', 'Pipeline({"count": fn(count), "first"')
    (tmp_path / "my configs" / "wrong.py").write_text(text)
    assert main(["train", "my configs/wrong.py", *dry]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_start_of_other_shapes_is_said_before_any_step_runs(capsys, tmp_path):
    wider = "transformer(dataclasses.replace(policy.model.config, width=16, head_dim=0))"
    text = PIPELINE.replace("Role(policy.model", f"Role({wider}").replace(
        "from alignjax import roles", "from alignjax import roles\nfrom alignjax.models import transformer"
    )
    (tmp_path / "my configs" / "wider.py").write_text(text)
    assert main(["train", "my configs/wider.py"]) == 2
    assert "embed is (32, 16) here and (32, 8) there (and " in capsys.readouterr().err


def test_dry_run_of_a_model_that_would_not_fit_here(capsys, tmp_path):
    text = CONFIG.replace(
        "vocab=32, width=8, layers=2, heads=2, mlp=16", "vocab=32000, width=16384, layers=120, mlp=65536"
    )
    (tmp_path / "my configs" / "huge.py").write_text(text)
    assert main(["train", "my configs/huge.py", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "GiB" in out
    assert "float32[120, 16384, 65536]" in out


def test_dry_run_asks_this_machines_compiler_and_allocates_nothing(capsys, tmp_path, monkeypatch):
    """Were an array of the model made, its 100 GiB would not fit; compiled for a mesh that is not here, it says so."""
    monkeypatch.setenv("COLUMNS", "200")
    text = CONFIG.replace("vocab=32, width=8, layers=2, heads=2, mlp=16", "vocab=32, width=65536, layers=2, mlp=16")
    (tmp_path / "my configs" / "wide.py").write_text(text)
    assert main(["train", "my configs/wide.py", "--dry-run", "--compile"]) == 0
    out = capsys.readouterr().out
    assert "to update, says the compiler" in out
    assert "to sample and score" not in out  # an algorithm without stages
    arguments, outputs, in_place, temporary = re.search(r"│ update +│ (.*?) │ (.*?) │ (.*?) │ (.*?) │", out).groups()
    assert arguments.endswith("GiB")
    assert arguments.strip() == outputs.strip() == in_place.strip()
    assert temporary.endswith("GiB")
    assert main(["train", "my configs/wide.py", "--dry-run", "--compile", "--mesh.fsdp", "3"]) == 2
    assert "needs 3 devices; there are 1" in capsys.readouterr().err


def test_dry_run_of_a_mesh_says_what_each_device_holds(capsys):
    assert main(["train", ONE, "--dry-run", "--mesh.fsdp", "4"]) == 0
    out = capsys.readouterr().out
    held = dict(re.findall(r"│ (trained weights|batch) +│ +([\d,]+) │", out.partition("each of the 4 devices")[2]))
    assert held == {"trained weights": "1,832", "batch": "83"}


def test_bytes():
    assert tree_bytes({"a": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16), "b": jnp.zeros(5, jnp.int8)}) == 29
    assert [in_units(size) for size in (0, 1023, 1536, 5 * 2**20, 3 * 2**41)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "6144.0 GiB",
    ]


# ------------------------------------------------------------------------------------------------------------ training


def test_train_writes_the_run_folder_and_resumes(capsys, tmp_path):
    assert main(["train", f"{ONE}:tiny", "--algorithm.roles.policy.optimizer.learning_rate", "0.5", "--seed", "3"]) == 0
    run = tmp_path / "runs" / "one-tiny"
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2, 3]
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["seed"] == 3
    assert config["algorithm"]["roles"]["policy"]["optimizer"]["learning_rate"] == 0.5
    command = json.loads((run / config_file.COMMAND_FILE).read_text())
    assert command["mode"] == "tiny"
    capsys.readouterr()

    assert main(["train", f"{ONE}:tiny"]) == 2  # never over a run
    assert "already holds a run: --resume continues it" in capsys.readouterr().err

    assert main(["train", f"{ONE}:tiny", "--resume", "--seed", "4"]) == 2  # another config
    assert json.loads((run / config_file.COMMAND_FILE).read_text()) == command
    capsys.readouterr()

    again = ["--algorithm.roles.policy.optimizer.learning_rate", "0.5", "--seed", "3", "--steps", "5"]
    assert main(["train", f"{ONE}:tiny", "--resume", *again]) == 0
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("line", ["--steps 2 --run-dir here --seed 1", "--run-dir=here --seed=1 --steps=2"])
def test_overrides_and_flags_stand_in_any_order(line, monkeypatch):
    asked = []
    monkeypatch.setattr("alignjax.train.loop.train", lambda *given, **more: asked.append((*given, more)))
    assert main(["train", f"{ONE}:tiny", *line.split()]) == 0
    [(experiment, workspace, more)] = asked
    assert (experiment.steps, experiment.seed, workspace.root) == (2, 1, Path("here"))
    assert more == {"resume": False}


@pytest.mark.parametrize("words", [["--run-dir", ""], ["--run-dir="]])
def test_an_empty_place_is_not_this_folder(words, capsys, tmp_path):
    assert main(["train", f"{ONE}:tiny", *words]) == 2
    assert "--run-dir is empty; name a folder" in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_a_pipeline_trains_and_is_evaluated_again(capsys, tmp_path):
    assert main(["train", THREE, "--run-dir", "run", "--all.steps", "1"]) == 0
    assert (tmp_path / "run" / "second" / "metrics.jsonl").exists()
    count = tmp_path / "run" / "evaluate" / "count.json"
    assert json.loads(count.read_text()) == 0
    assert main(["evaluate", "run", "--evaluate.more", "5"]) == 0
    assert json.loads(count.read_text()) == 5
    capsys.readouterr()
    assert main(["evaluate", "run", "--step", "evalaute"]) == 2
    assert "Did you mean 'evaluate'?" in capsys.readouterr().err
    (tmp_path / "run" / "second" / "done.json").unlink()
    assert main(["evaluate", "run"]) == 2
    assert "has not finished second" in capsys.readouterr().err


def test_interruption_keeps_the_status_of_the_loop(monkeypatch):
    def stop(*_, **__):
        raise SystemExit(143)

    monkeypatch.setattr("alignjax.train.loop.train", stop)
    assert main(["train", f"{ONE}:tiny"]) == 143

    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignjax.train.loop.train", press)
    assert main(["train", f"{ONE}:tiny", "--run-dir", "other"]) == cli.INTERRUPTED


# ------------------------------------------------------------------------------------------------------------- configs


def test_default_run_folders():
    assert config_file.load(ONE).default_run_dir == Path("runs/one-full")
    assert config_file.load(f"{ONE}:tiny").default_run_dir == Path("runs/one-tiny")


def test_a_config_without_modes_and_one_inside_a_package(tmp_path):
    package = tmp_path / "my configs" / "recipes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("from one import get_config as whole\n")
    (package / "main.py").write_text("from .parts import whole\n\ndef get_config():\n    return whole('tiny')\n")
    loaded = config_file.load(str(package / "main.py"))
    assert loaded.config.steps == 3
    assert loaded.default_run_dir == Path("runs/main")


def test_modes_of_a_literal_annotation(tmp_path):
    text = "from typing import Literal\ndef get_config(mode: Literal['small', 'large'] = 'small'): ..."
    (tmp_path / "modes.py").write_text(text)
    with pytest.raises(config_file.ConfigError, match=r"no mode 'lrage'\. Did you mean 'large'"):
        config_file.load("modes.py:lrage")


def test_a_changed_config_file_is_noticed(capsys, tmp_path):
    run = tmp_path / "run"
    config_file.remember(config_file.load(f"{ONE}:tiny", ["--steps", "7"]), run)
    assert config_file.reload(run).config.steps == 7
    assert capsys.readouterr().err == ""
    config = tmp_path / ONE
    config.write_text(config.read_text() + "\n# one more line\n")
    assert config_file.reload(run).config.steps == 7
    assert "has changed since" in capsys.readouterr().err
    config.unlink()
    with pytest.raises(config_file.ConfigError, match="which is not there any more"):
        config_file.reload(run)


# -------------------------------------------------------------------------------------------------------------- sweeps


def test_sweep_prints_lines_that_run(capsys, tmp_path):
    text = f"""
    CONFIG = "{ONE}:tiny"

    def sweep():
        for seed in range(2):
            for rate in (0.1, 0.2):
                yield {{"seed": seed, "algorithm.roles.policy.optimizer.learning_rate": rate}}
    """
    (tmp_path / "rates.py").write_text(textwrap.dedent(text))
    assert main(["sweep", "rates.py"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert len({line.split("--run-dir")[1].split()[0] for line in printed}) == 4
    words = shlex.split(printed[-1])
    assert words[:2] == ["alignjax", "train"]
    assert main([*words[1:], "--dry-run"]) == 0
    assert "seed 1" in capsys.readouterr().out


def test_sweep_checks_every_point_first(capsys, tmp_path):
    (tmp_path / "typo.py").write_text(
        f'CONFIG = "{ONE}"\ndef sweep():\n    yield {{"seed": 1}}\n    yield {{"sed": 2}}\n'
    )
    assert main(["sweep", "typo.py"]) == 2
    shown = capsys.readouterr()
    assert "Did you mean --seed?" in shown.err
    assert shown.out == ""
