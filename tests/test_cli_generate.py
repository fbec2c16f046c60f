"""`alignjax data` and `alignjax generate` on a dataset of a few docstrings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignjax.cli import config_file, main
from alignjax.models import transformer
from tests.support.toy_configs import ONE, in_a_folder

CONFIG = '''
"""A tiny policy on the docstrings of two toy packages."""
from pathlib import Path

from alignjax import losses, roles
from alignjax.config import Experiment, Pipeline, fn
from alignjax.data import Docstrings, instructions, prepare
from alignjax.models import TransformerConfig, transformer
from alignjax.train.optimizers import adamw
from alignjax.types import Algorithm, Role

DATA = Docstrings(roots=(str(Path(__file__).parent / "packages"),), vocab_size=270, max_share=1.0, test_fraction=0.5)


def get_config(mode="full"):
    model = transformer(TransformerConfig(vocab=270, width=8, layers=1, heads=2, mlp=16))
    algorithm = Algorithm(
        losses={"sft": fn(losses.sft)}, roles={"policy": Role(model, roles.fresh(), fn(adamw, learning_rate=1e-2))}
    )
    source = fn(instructions, dataset=DATA, batch_size=2, prompt_length=64, completion_length=32,
                long_prompts="truncate_right", long_completions="truncate")
    return Pipeline({"data": fn(prepare, dataset=DATA), "sft": Experiment(algorithm, source, steps=1)})
'''

MODULE = '''
def walk(distance):
    """Walk to {name} {number} times and come back.

    The way is {name} metres long and leads through a wood; number {number} of them is the last that anybody walks.
    """
'''


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    with in_a_folder(tmp_path, monkeypatch):
        write(tmp_path)
        yield


def write(folder):
    (folder / "policy.py").write_text(CONFIG)
    for name in "abcdefgh":
        package = folder / "packages" / f"package_{name}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("".join(MODULE.format(name=name, number=i) for i in range(6)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained policy; the folder of its run."""
    folder = tmp_path_factory.mktemp("generate")
    with pytest.MonkeyPatch.context() as monkeypatch, in_a_folder(folder, monkeypatch):
        write(folder)
        assert main(["train", "policy.py", "--run-dir", "run"]) == 0
    return folder / "run"


def test_prepare_and_inspect(capsys):
    assert main(["data", "prepare", "policy.py"]) == 0
    assert main(["data", "inspect", "policy.py", "--rows", "1", "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert out.count("test row") == 1
    assert "Walk to " in out
    assert main(["data", "inspect", "policy.py", "--split", "tset"]) == 2
    assert "Did you mean 'test'?" in capsys.readouterr().err


def test_prepare_by_name_takes_the_options_of_the_dataset(capsys, tmp_path):
    options = ["--roots", str(tmp_path / "packages"), "--vocab-size", "265", "--max-share", "1", "--test-fraction=0.5"]
    assert main(["data", "prepare", "docstrings", *options]) == 0
    account = next((tmp_path / "cache").glob("docstrings-*/account.json"))
    settings = json.loads(account.read_text())["settings"]
    assert (settings["vocab_size"], settings["max_share"]) == (265, 1.0)


def test_help_on_a_dataset_lists_its_options(capsys):
    for command in ("prepare", "inspect"):
        assert main(["data", command, "preferences", "--help"]) == 0
        words = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["--path", "str", "|", "tuple[str,", "...]", "(required)"] in words
        assert ["--vocab-size", "int", "4096"] in words


def test_generate_from_a_file(run, capsys, tmp_path):
    prompts = [f"walk({number}) and then some more of it" for number in range(10)]  # more than one batch
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n\n")
    line = ["generate", str(run), "--prompt-file", "prompts.txt", "--max-tokens", "5", "--n", "2", "--format", "json"]
    assert main(line) == 0
    shown = capsys.readouterr()
    rows = [json.loads(row) for row in shown.out.splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    assert all(len(row["completions"]) == 2 for row in rows)
    assert all(1 <= one["tokens"] <= 5 and one["logp"] < 0 for row in rows for one in row["completions"])
    assert "policy of" in shown.err
    assert "sft, step 1" in shown.err

    assert main(line) == 0  # a sample is a function of the seed and the number of the prompt
    assert [json.loads(row) for row in capsys.readouterr().out.splitlines()] == rows
    assert main([*line, "--seed", "1"]) == 0
    assert [json.loads(row) for row in capsys.readouterr().out.splitlines()] != rows
    (tmp_path / "prompts.txt").write_text("\n".join(prompts[:2]))
    assert main([*line[:1], f"{run}/sft", *line[2:]]) == 0  # and not of what stands beside it
    assert [json.loads(row) for row in capsys.readouterr().out.splitlines()] == rows[:2]


def test_a_run_speaks_on_a_machine_without_its_kernel(run, capsys, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("walk\n")
    line = ["generate", str(run), "--prompt-file", "prompts.txt", "--max-tokens", "5"]
    assert main(line) == 0
    wanted = capsys.readouterr().out

    def reload(root):
        """The run as if it had been trained with splash attention."""
        pipeline = config_file.reload(root).config
        step = pipeline.steps["sft"]
        role = step.algorithm.roles["policy"]
        model = transformer(dataclasses.replace(role.model.config, attention="splash"))
        algorithm = dataclasses.replace(step.algorithm, roles={"policy": dataclasses.replace(role, model=model)})
        steps = {**pipeline.steps, "sft": dataclasses.replace(step, algorithm=algorithm)}
        return SimpleNamespace(config=dataclasses.replace(pipeline, steps=steps))

    monkeypatch.setattr("alignjax.cli.open_model.reload", reload)
    assert main(line) == 0
    shown = capsys.readouterr()
    assert shown.out == wanted
    assert "plain attention: this machine has no kernel for the policy's" in shown.err


def test_generate_greedily_from_jsonl_and_from_standard_input(run, capsys, tmp_path, monkeypatch):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "walk\\nfar"}\n')
    line = ["generate", str(run), "--temperature", "0", "--max-tokens", "4", "--format", "json"]
    assert main([*line, "--prompt-file", str(file)]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["prompt"] == "walk\nfar"
    assert main([*line, "--prompt-file", str(file), "--seed", "9"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    answers = iter(["one prompt", "another", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert main(line) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_generate_by_a_behavior(run, capsys, tmp_path):
    """Of one model with itself every realignment is the model; without its system message it is another."""
    (tmp_path / "prompts.txt").write_text("walk far\nwalk home\n")
    line = ["generate", str(run), "--prompt-file", "prompts.txt", "--max-tokens", "5", "--format", "json"]

    def said(*more):
        assert main([*line, *more]) == 0, capsys.readouterr().err
        return [json.loads(row)["completions"] for row in capsys.readouterr().out.splitlines()]

    plain = said()
    for reference in (f"{run}:policy", f"{run}/sft"):
        assert said("--behavior", "dera", "--lambda", "1.5", "--reference", reference) == plain
    several = [
        "--behavior",
        "pluralistic",
        "--streams",
        str(run),
        str(run),
        "--weights",
        "0.2",
        "1",
        "3",
        "--per-token",
    ]
    assert said(*several) == plain
    told = ["--system", "Speak of the way that leads through a wood."]
    contrast = ["--behavior", "contrastive", "--amateur", "no-system", "--alpha", "0", "--beta"]
    aligned = ["--behavior", "linear-alignment", "--plain", "no-system", "--nucleus", "1", "--rho", "0"]
    assert said(*told, *aligned) == said(*told)
    assert said(*told, *contrast, "0") == said(*told)
    assert said(*told, *contrast, "200") != said(*told)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tempreture", "1"], "there is no flag --tempreture. Did you mean 'temperature'?"),
        (["stray"], "'stray' belongs to no flag"),
        (["--behavior", "dear"], "there is no behavior 'dear'. Did you mean 'dera'?"),
        (["--behavior", "dera", "--reference", "x"], "--behavior dera needs --lambda"),
        (["--behavior", "dera", "--lambda", "1.5"], "--behavior dera needs --references WHERE"),
        (["--behavior", "genarm", "--rewards", "x", "--rewards", "y"], "--rewards stands twice"),
        (["--behavior", "genarm", "--rewards"], "--rewards takes one WHERE or more"),
        (["--behavior", "pluralistic", "--streams", "x", "--per-token", "maybe"], "it must be true or false"),
        (["--behavior", "dera", "--lambda"], "error: --lambda takes one word, and 0 were given"),
        (["--behavior", "dera", "--lambda", "-1", "--reference", "x"], "dera.lam is -1.0"),
        (["--behavior", "dera", "--lambda", "big", "--reference", "x"], "'big' is not a number in digits"),
        (["--behavior", "dera", "--lambda", "1", "--reference", "nowhere"], "no such run folder: nowhere"),
        (["--behavior", "dera", "--lamda", "1"], "--behavior dera has no flag --lamda. Did you mean 'lam'?"),
        (["--behavior", "contrastive", "--amateur", "no-system"], "give the system message that it goes without"),
        (["--role", "polcy"], "with a role 'polcy'"),
        (["--prompt-file", "nowhere.txt"], "no such prompt file: nowhere.txt"),
        (["--prompt-file", "bad.jsonl"], 'bad.jsonl:2 cannot be read: not a JSON object with a text "prompt"'),
        (["--prompt-file", "latin.txt"], "latin.txt cannot be read: not UTF-8 (byte "),
        (["--temperature", "-1"], "--temperature is -1.0"),
        (["--temperature", "hot"], "hot"),
    ],
)
def test_generate_mistakes(run, more, message, capsys, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "walk"}\n{"promt": "walk"}\n')
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert main(["generate", str(run), *more]) == 2
    shown = capsys.readouterr()
    assert message in " ".join(shown.err.split())
    assert shown.out == ""


def test_generate_needs_a_trained_step(run, capsys):
    assert main(["generate", f"{run}/stf"]) == 2
    assert "trains no step 'stf'. Did you mean 'sft'?" in capsys.readouterr().err
    config_file.remember(config_file.load("policy.py"), Path("untrained"))
    assert main(["generate", "untrained"]) == 2
    assert "no step of untrained has a checkpoint with a role 'policy'; steps: sft" in capsys.readouterr().err
    config_file.remember(config_file.load(ONE), Path("numbers"))
    assert main(["generate", "numbers"]) == 2
    assert "names no dataset" in capsys.readouterr().err
