from __future__ import annotations

import ast
import dataclasses
import email
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alignjax.cli import main
from alignjax.config import ConfigError
from alignjax.data import Docstrings, prepare
from alignjax.data.datasets import docstrings as docstrings_module
from alignjax.data.datasets.docstrings import RULES, extract, in_test, list_files, package_name, select
from alignjax.data.datasets.extract_docstrings import is_pair, pairs_of
from alignjax.data.prepared import cache_folder, located, rows_of
from alignjax.workspace import Workspace

BODY = "Looks at the place that the caller names and gives back all that is there, in the order it was put."
SOURCE = f'''
"""A module that does things well.

{BODY} Module.
"""
class Shelf:
    """A shelf that holds books for readers.

    {BODY} Class.
    """
    def take(self, name, *others, mode=None, **options):
        """Take a book from its place
        on the shelf.

        Parameters
        ----------
        name : str
            What is written on the back of the book.
        """
        def inner():
            """Short.

            {BODY}
            """
if True:
    async def wander(cls, where):
        """Wander about until something turns up.

        >>> wander(1)
        2
        >>> wander(2)
        3
        """
    def stay(where):
        """Stay where you are for the moment.

        {BODY} stay where you are for the moment
        """
'''


def test_what_is_taken_from_a_file() -> None:
    found = pairs_of(SOURCE.encode(), "things", "things/shelf.py")
    assert [(pair[2], pair[3]) for pair in found] == [
        ("module things.shelf", "A module that does things well."),
        ("class Shelf", "A shelf that holds books for readers."),
        ("Shelf.take(name, *others, mode, **options)", "Take a book from its place on the shelf."),
    ]  # neither the one-word summary, nor the doctest, nor the summary that its own body repeats
    assert "---" not in found[2][4]
    assert found[2][4].startswith("Parameters\nname : str\n    What is written")


@pytest.mark.parametrize(
    ("summary", "good"),
    [
        ("Return the number of open files.", True),
        ("return the number of open files.", False),
        ("Return the number of open files", False),
        ("Return.", False),
        ("See https://example.org for all of it.", False),
        ("Compute (1 + x)**y - 1 / (2 * z) ** 3.", False),
        ("Return \x07 the number of files.", False),
        ("Return the number of files. " * 12, False),
    ],
)
def test_a_summary_is_a_sentence(summary: str, good: bool) -> None:
    assert is_pair(summary, BODY) is good


def test_nothing_is_executed_and_odd_files_are_counted(tmp_path: Path) -> None:
    package = tmp_path / "odd"
    package.mkdir()
    (package / "a.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{SOURCE}")
    (package / "b.py").write_text('"""A broken file, which is one."""\nprint "python 2"')
    (package / "c.py").write_bytes(b'"""\xff\xfe is not UTF-8 at all."""')
    (package / "test_d.py").write_text(SOURCE)
    (package / "tests").mkdir()
    (package / "tests" / "e.py").write_text(SOURCE)
    pairs, failed = extract(list_files([str(tmp_path)]), workers=1)
    assert {pair[1] for pair in pairs} == {"odd/a.py"}
    assert failed == 2
    assert not (tmp_path / "ran").exists()


def test_the_number_of_workers_changes_nothing(site: Path) -> None:
    files = [file for file in list_files([str(site)]) for _ in range(5)]  # enough files for several workers
    one, three = extract(files, 1), extract(files, 3)
    assert len(one[0]) == 5 * 24 * 6
    assert one == three


@pytest.mark.slow
def test_it_can_be_called_from_an_unguarded_script_that_imported_jax(site: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import jax, jax.numpy as jnp\njnp.ones(3).sum()\nfrom alignjax.data import Docstrings\n"
        f"account = Docstrings(roots=({str(site)!r},), vocab_size=300, max_share=1.0, workers=2).prepare()\n"
        "print(account['rows'])"
    )
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "ALIGNJAX_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert sum(ast.literal_eval(run.stdout.splitlines()[-1]).values()) == 24 * 6


def test_repeated_texts_shares_and_moulds() -> None:
    def pair(package: str, number: int, body: str = "", summary: str = "") -> list[str]:
        # words, not digits, tell these apart: what differs in names only is a mould
        word = "".join(chr(97 + int(digit)) for digit in f"{number:03d}")
        return [package, f"{package}/{number:03d}", "f()", summary or f"{word} is a summary.", body or f"{word} body"]

    pairs = [pair("small", n) for n in range(20)] + [pair("large", n) for n in range(20, 100)]
    again = [pair("other", 200, body=pairs[0][4].upper()), pair("other", 201, summary=pairs[1][3])]
    kept, account = select([*pairs, *again], max_share=1.0)
    assert kept == pairs
    assert account == {"repeated": 2, "generated": 0, "over_share": 0}
    accents = [pair("one", 300, body="caf\u00e9 body"), pair("two", 301, body="cafe\u0301 body")]
    assert select(accents, max_share=1.0)[0] == accents[:1]
    kept, account = select(pairs, max_share=0.3)
    assert [p[0] for p in kept].count("large") == 30
    assert account["over_share"] == 50
    assert [pairs.index(p) for p in kept] == sorted(pairs.index(p) for p in kept)
    cast = [
        ["gen", f"gen/{n}", "f()", f"Make a thing {n}.", f"Use `thing_{n}` to get what you want."] for n in range(30)
    ]
    kept, account = select(cast, max_share=1.0)
    assert account["generated"] == 30 - len(kept) > 0


def test_other_rules_have_another_name(site: Path) -> None:
    """Prepared files are recognized by RULES. Where this digest changes, other pairs are chosen: change RULES too."""
    source = (site / "package0" / "__init__.py").read_text() + SOURCE
    pairs = [pair for n in range(4) for pair in pairs_of(source.encode(), f"p{n % 2}", f"p{n % 2}/{n}.py")]
    odd = [["p0", "p0/a.py", "f(x)", f"Make a thing {n}.", f"Use `it_{n}` for {n} things."] for n in range(12)]
    chosen = select([*pairs, *odd], max_share=0.6), [in_test(f"package{n}", 0.5) for n in range(40)]
    digest = hashlib.sha256(json.dumps([chosen, package_name("_a/b.py")]).encode()).hexdigest()
    assert (digest[:16], *(rule[:8] for rule in RULES)) == (
        "1ecd2b7a4335d135", "0c5d82ba", "bf005287", "texts ar",
    )  # fmt: skip


def test_no_package_is_on_both_sides(docstrings: Docstrings) -> None:
    account = docstrings.prepare(report=lambda line: None)
    train, test = (set(account["packages"][split]) for split in ("train", "test"))
    assert train
    assert test
    assert not train & test
    assert train | test == {f"package{number}" for number in range(24)}
    for split, packages in (("train", train), ("test", test)):
        rows, lengths = rows_of(docstrings, split)
        assert len(rows) == len(lengths) == account["rows"][split]
        assert {json.loads(rows[n]["meta"])["package"] for n in range(len(rows))} == packages


def test_the_side_depends_on_the_name_alone() -> None:
    names = [f"name{number}" for number in range(2000)]
    aside = {name for name in names if in_test(name, 0.1)}
    assert 140 < len(aside) < 260
    assert aside <= {name for name in names if in_test(name, 0.2)}
    assert package_name("_pytest/config.py") == package_name("pytest/__init__.py") == "pytest"
    assert package_name("six.py") == "six"


def test_a_dev_split_takes_packages_from_train_alone(docstrings: Docstrings) -> None:
    """And without one nothing changes: old prepared files are still recognized."""
    account = docstrings.prepare(report=lambda line: None)
    with_dev = dataclasses.replace(docstrings, dev_fraction=0.3)
    packages = with_dev.prepare(report=lambda line: None)["packages"]
    assert packages["test"] == account["packages"]["test"]
    assert packages["dev"]
    assert {*packages["dev"], *packages["train"]} == {*account["packages"]["train"]}
    assert not {*packages["dev"]} & {*packages["train"]}
    rows, lengths = rows_of(with_dev, "dev")
    assert len(rows) == len(lengths) == 6 * len(packages["dev"])
    assert "dev_fraction" not in docstrings.settings
    assert with_dev.folder != docstrings.folder
    with pytest.raises(ConfigError, match="dev_fraction"):
        Docstrings(test_fraction=0.5, dev_fraction=0.5)


def test_the_second_time_reuses_and_gives_the_same(docstrings: Docstrings, tmp_path, monkeypatch) -> None:
    said: list[str] = []
    docstrings.prepare(report=said.append)
    account = docstrings.prepare(report=said.append)
    assert account["reused"]
    assert "reused" in said[-1]
    rows, _ = rows_of(docstrings, "train")
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path))
    elsewhere = dataclasses.replace(docstrings, workers=1)
    assert not elsewhere.prepare(report=said.append)["reused"]
    again, _ = rows_of(elsewhere, "train")
    assert [str(again[n]) for n in range(len(again))] == [str(rows[n]) for n in range(len(rows))]
    assert (elsewhere.folder / "tokenizer.json").read_bytes() == (
        Path(account["folder"]) / "tokenizer.json"
    ).read_bytes()


def test_other_settings_and_other_files_are_other_data(docstrings: Docstrings, site: Path, tmp_path: Path) -> None:
    folders = {docstrings.folder, dataclasses.replace(docstrings, signature=False).folder}
    folders.add(dataclasses.replace(docstrings, roots=(str(tmp_path),)).folder)
    assert len(folders) == 3
    assert dataclasses.replace(docstrings, workers=7).folder == docstrings.folder


def test_a_killed_preparation_leaves_nothing(docstrings: Docstrings, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alignjax.data.datasets.preparation.write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        docstrings.prepare(report=lambda line: None)
    assert list(cache_folder().iterdir()) == []


def test_a_run_keeps_the_files_it_began_with(site: Path, tmp_path: Path) -> None:
    root = tmp_path / "site"
    (root / "one").mkdir(parents=True)
    source = (site / "package0" / "__init__.py").read_text()
    (root / "one" / "__init__.py").write_text(source)
    dataset = Docstrings(roots=(str(root),), vocab_size=280, max_share=1.0, test_fraction=0.01)
    workspace = Workspace(tmp_path / "run", "data")
    account = prepare(workspace, dataset=dataset)
    (root / "two").mkdir()
    (root / "two" / "__init__.py").write_text(source.replace("package", "bundle"))
    from_here_on = dataclasses.replace(dataset, roots=(str(root) + "/",))  # the same folder, not remembered
    assert from_here_on.folder != dataset.folder
    assert located(dataset, workspace.of("sft")) == Path(account["folder"])


def test_a_slice_of_the_standard_library(tmp_path: Path) -> None:
    """Real files: the e-mail package, copied into a root of its own."""
    shutil.copytree(Path(email.__file__).parent, tmp_path / "email")
    pairs, failed = extract(list_files([str(tmp_path)]), workers=1)
    assert failed == 0
    assert len(pairs) > 20
    assert any(pair[1] == "email/message.py" and pair[2].startswith("Message.") for pair in pairs)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="test_fraction"):
        Docstrings(test_fraction=0.0)
    with pytest.raises(ConfigError, match="not a folder"):
        Docstrings(roots=("/nowhere/at/all",)).prepare()


def test_a_look_at_many_files_reads_a_share_and_prepares_nothing(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 24 files, 9 at most: every third. What is shown are pairs of these files, and of all once it is prepared."""
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(docstrings_module, "SAMPLED", 9)
    words = ["data", "inspect", "docstrings", "--roots", str(site), "--vocab-size=300", "--max-share=1", "--rows=50"]
    assert main([*words, "--format", "json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    files = [file[2] for file in list_files([str(site)])][::3]
    assert {row["file"] for row in said["shown"]} == set(files)
    assert said["records"] == len(said["shown"]) == int(said["sample"].split()[0])
    assert said["sample"].endswith("pairs from 1 in 3 of 24 files of 24 packages")
    assert main(words[:-1]) == 0
    text = capsys.readouterr().out
    assert said["sample"] in text
    assert "alignjax data prepare docstrings reads all" in text
    assert list(tmp_path.iterdir()) == []
    assert main(["data", "prepare", *words[2:-1]]) == 0
    capsys.readouterr()
    assert main([*words, "--format", "json"]) == 0
    (whole,) = json.loads(capsys.readouterr().out)
    assert sum(whole["account"]["rows"].values()) > said["records"]
    assert whole["lengths"]["train"]["prompt"]["max"] > 10
    assert len(whole["shown"]) == 50
    assert {"prompt", "completions", "example_id", "row"} <= whole["shown"][0].keys()
