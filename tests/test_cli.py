"""The command line through `main([...])`: what it says, and the status it ends with."""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys

import pytest

from alignjax import cli
from alignjax.cli import main
from tests.support.toy_configs import ONE, in_a_folder


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    with in_a_folder(tmp_path, monkeypatch):
        yield


# ---------------------------------------------------------------------------------------------------------------- help


def test_help_needs_neither_jax_nor_a_second():
    code = "import sys; from alignjax.cli import main; sys.exit(main(['--help']) or 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: alignjax {name}" in out
    assert " ".join(cli.COMMANDS[name].__doc__.split())[:40] in " ".join(out.split())


def test_no_command_shows_the_overview(capsys):
    assert main([]) == 0
    assert "usage: alignjax COMMAND" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert importlib.metadata.version("alignjax") in capsys.readouterr().out


def test_help_on_a_config_lists_what_can_be_changed(capsys):
    assert main(["train", ONE, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--algorithm.roles.policy.optimizer.learning_rate" in out
    assert "0.01" in out
    assert "runs/one-full" in out
    shown = [line.split() for line in out.splitlines() if line.startswith("  --")]
    assert ["--steps", "int", "30"] in shown
    for path, *_ in shown:  # each can be written
        assert main(["train", ONE, path, "{", "--dry-run"]) == 2 or "str" in _


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tarin x", "Did you mean 'train'?"),
        ("data prepar x", "Did you mean 'data prepare'?"),
        ("train 'my configs/oen.py'", "Did you mean 'one.py'?"),
        ("train 'my configs'", "is a folder; name a config file in it. There are: one.py, shared_by_tests.py"),
        ("train nowhere/one.py", "there is no folder nowhere"),
        ("train 'my configs/one.py:tin'", "has no mode 'tin'. Did you mean 'tiny'?"),
        ("train 'my configs/shared_by_tests.py'", "has no get_config"),
        ("train 'my configs/one.py' --stpes 3", "Did you mean --steps?"),
        ("train 'my configs/one.py' --dyr-run", "there is no flag --dyr-run. Did you mean --dry-run?"),
        ("train 'my configs/one.py' --steps three", "--steps got 'three'; it must be an integer"),
        ("train 'my configs/one.py' --steps 0", "Experiment.steps is 0"),
        ("train 'my configs/one.py' 3", "'3' stands where an override should"),
        ("train 'my configs/one.py' --run-dir", "--run-dir"),
        ("train", "CONFIG"),
        ("list --fromat json", "--format"),
        ("list --format xml", "table"),
        ("evaluate nowhere", "no such run folder: nowhere"),
        ("generate nowhere", "no such run folder: nowhere"),
        ("generate 'my configs'", "cannot be opened: name a run folder"),
        ("generate nowhere --top-p 0", "--top-p is 0"),
        ("report nowhere", "no such run folder: nowhere"),
        ("data prepare docstring", "Did you mean 'docstrings'?"),
        ("data prepare docstrings --vocab-sise 9", "Did you mean --vocab_size?"),
        ("data prepare docstrings --vocab-size many", "--vocab-size got 'many'; it must be an integer"),
        ("data inspect 'my configs/one.py'", "names no dataset"),
        ("sweep nowhere.py", "no such sweep file"),
        ("sweep 'my configs/one.py'", "must define CONFIG"),
    ],
)
def test_mistakes_end_with_a_message_and_status_2(line, message, capsys, tmp_path):
    assert main(shlex.split(line)) == 2
    shown = capsys.readouterr()
    assert message in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(mode):\n    return 3\n", "returned a int; it must return an Experiment or a Pipeline"),
        ("def get_config(mode)\n", "is not valid Python"),
        ("def get_config(mode):\n    return {'full': 1}[mode]\n", "has no mode 'tiny'"),
        ("def get_config():\n    return 3\n", "has no modes"),
        ("from alignjax.config import fn\ndef f(*, tau: float): ...\nX = fn(f, tua=1.0)\n", "Did you mean 'tau'?"),
    ],
)
def test_a_config_that_cannot_be_meant(text, message, capsys, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    assert main(["train", "bad.py:tiny"]) == 2
    assert message in capsys.readouterr().err


def test_traceback_on_request_and_for_bugs(capsys, tmp_path, monkeypatch):
    assert main(["train", "nowhere.py", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("ALIGNJAX_TRACEBACK", "1")
    assert main(["train", "nowhere.py"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.delenv("ALIGNJAX_TRACEBACK")
    (tmp_path / "bug.py").write_text("def get_config(mode):\n    return 1 / 0\n")
    assert main(["train", "bug.py"]) == 1  # not a mistake of the command line: where it happened is the message
    assert "return 1 / 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_installed_command_ends_with_status_2(tmp_path):
    command = [sys.executable, "-m", "alignjax.cli", "train", ONE, "--stpes", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --stpes")
    assert done.stderr.count("\n") == 1
