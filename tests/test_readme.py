"""Every command of the README runs, in the order in which it stands there, and so do the files that it shows. A config
is run in its tiny mode, and the example of one, which has none, for six iterations on the standard library's docstrings
alone, as tiny modes are (`data inspect docstrings` reads a share of all that is installed); installing and running
these tests is what has brought us here."""

from __future__ import annotations

import json
import re
import shutil
import sysconfig
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run

README = (ROOT / "README.md").read_text()
MODELESS = re.compile(r"(configs/\w+\.py|my_loss\.py)(?!:)")
EXAMPLE = re.compile(r"train my_config\.py.*$")
REWARD = re.compile(r"train my_reward\.py$")
LOSS = re.compile(r"(configs/losses\.py:\w+)$")
SHORT = "--steps 2 --algorithm.experience.generate.max_tokens 8"
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", README, re.S))  # path -> text
EVERY_PACKAGE = "data.Docstrings()"  # hundreds of megabytes where torch is installed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: the configs, and the README's examples saved under the names it gives."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    assert EXAMPLES["my_config.py"].count(EVERY_PACKAGE) == 1
    for name, text in EXAMPLES.items():
        roots = (sysconfig.get_paths()["stdlib"],)
        (folder / name).write_text(text.replace(EVERY_PACKAGE, f"data.Docstrings(roots={roots})"))
    with_model_and_prompts(folder)
    return folder


def with_model_and_prompts(folder: Path) -> None:
    """Writes a person's own model folder, of random weights, and file of prompts."""
    from tests.support.chat_families import FAMILIES, write_tokenizer  # noqa: PLC0415
    from tests.support.published import theirs  # noqa: PLC0415 (torch)

    write_tokenizer(folder / "my_model", FAMILIES["llama3"])
    theirs("llama2", vocab_size=512, max_position_embeddings=1024).save_pretrained(folder / "my_model")
    rows = [{"prompt": f"{a} and {b} are", "answer": str(a + b)} for a in range(4) for b in range(8)]
    (folder / "my_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def assert_quickstart(run_dir: Path) -> None:
    """Everybody has played everybody, and there is a report of it."""
    results = json.loads((run_dir / "results.json").read_text())
    trained, controls = {"offline_ipo", "online_ipo", "ipo_md"}, {"sft_cool", "sft_greedy", "sft_best_of_4"}
    players = {"sft", *trained, "ipo_md_mixture", *controls, "human"}
    assert set(results["win_rates"]) == players
    for a in players:
        for b in players - {a}:
            assert set(results["win_rates"][a][b]) == {"mean", "low", "high", "n"}
            assert results["ties"][a][b] == results["ties"][b][a]
    assert {name for name, row in results["players"].items() if row.get("control")} == controls
    assert trained <= set(results["against_best_control"])
    for name, row in results["players"].items():
        assert set(row["measures"]) == set(results["measures"]) == {"exact", "score"}
        assert 0 <= row["finished"]["mean"] <= 1
        assert ("kl" in row) == (name not in ("human", "sft_best_of_4"))
    assert results["players"]["human"]["finished"]["mean"] == 1
    assert results["players"]["sft_greedy"]["kl"]["mean"] > 1 > 1e-4 > abs(results["players"]["sft"]["kl"]["mean"])
    assert "drawn from it" in results["judges"]["held_out"]["shares"]["labels"]
    assert results["judges"]["training"]["accuracy"]["n"] > 0
    curves = results["over_optimization"]
    assert [len(points) for points in curves.values()] == [3, 3]
    assert all(set(point["win_rates"]) == {"held_out", "training"} for points in curves.values() for point in points)
    assert len(results["samples"][0]["outputs"]) == len(players)
    assert results["budgets"]["optimizer steps of each policy"] == 4
    page = (run_dir / "report.html").read_text()
    assert "Over-optimization" in page
    assert "exactly sorted (%)" in page
    assert (run_dir / "over_optimization.svg").is_file()


def assert_rewarded(run_dir: Path) -> None:
    """On a folder of weights and a file of prompts, every completion got the reward that the example says."""
    lines = (run_dir / "answers" / "reward-00000002.jsonl").read_text().splitlines()
    assert len(lines) == 64
    for line in map(json.loads, lines):
        right = str(sum(map(int, re.findall(r"\d+", line["prompt"]))))
        assert line["scores"]["right"] == float(right in line["completion"])


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    return [line for block in blocks for line in block.splitlines() if not line.startswith(("pip ", "pytest"))]


@pytest.mark.slow
def test_the_readme_commands_run(folder: Path, session_cache: Path) -> None:
    """The first is the quickstart: data, SFT, a preference model, three methods, a tournament and its report."""
    assert len(commands()) >= 8
    for command in commands():
        short = REWARD.sub(rf"\g<0> {SHORT}", EXAMPLE.sub(r"\g<0> --steps 6", command))
        out = run(LOSS.sub(r"\1-tiny", MODELESS.sub(r"\1:tiny", short)), folder, session_cache)
        assert out.strip(), command
    assert_quickstart(folder / "runs" / "quickstart-tiny")
    for name in ("losses-kto-tiny", "my_loss-tiny"):
        assert "sft" in json.loads((folder / "runs" / name / "results.json").read_text())["win_rates"]
    assert_rewarded(folder / "runs" / "my_reward")
    assert [*(folder / "runs" / "short").rglob("metrics.jsonl")]


def test_a_new_loss_takes_15_lines_and_no_edit() -> None:
    code = [line for line in EXAMPLES["my_config.py"].splitlines() if line.strip()]
    assert len(code) <= 15
    imports = "\n".join(line for line in code if line.startswith(("import", "from")))
    assert {root for _, root in re.findall(r"^(import|from) (\w+)", imports, re.M)} == {"alignjax", "jax"}


def test_a_reward_takes_12_lines() -> None:
    assert len([line for line in EXAMPLES["my_reward.py"].splitlines() if line.strip()]) <= 12


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("*/*.md"), *ROOT.glob("*/*/*.md")]:
        for target in re.findall(r"\]\((?!http|#|api/)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
