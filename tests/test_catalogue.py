"""The catalogue is what is there: a function put into a room appears, with the line and paper of its docstring."""

from __future__ import annotations

import inspect
import json
import sys
import types

import pytest

from alignjax import losses, roles, sampling, stages
from alignjax.cli import catalogue, main
from alignjax.losses.decorators.pairwise import pairwise
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


@pytest.fixture(scope="module")
def entries():
    return catalogue.entries()


def names(entries, kind):
    return {entry.name for entry in entries if entry.kind == kind}


def test_every_kind_is_there_and_every_entry_is_described(entries):
    assert {entry.kind for entry in entries} == set(catalogue.KINDS)
    for entry in entries:
        assert entry.summary.endswith((".", "!")), entry
        assert "\n" not in entry.summary
        assert entry.paper is None or entry.paper.startswith("arXiv:")
    assert len({(entry.kind, entry.name) for entry in entries}) == len(entries)


def test_public_names_are_listed_under_their_kind(entries):
    assert {"dpo", "ipo", "slic", "sft", "bradley_terry", "preference_cross_entropy"} <= names(entries, "loss")
    parts = {"token_ratio", "ppo_clip", "top_entropy", "sequence_mean", "k3"}
    assert parts <= names(entries, "part"), "what the surrogate is made of"
    assert {"mixture", "own", "generate", "top_p"} <= names(entries, "sampler")
    assert {"preference_model", "reward_difference", "bernoulli"} <= names(entries, "judge")
    assert {"generate", "prefer", "logprobs"} <= names(entries, "stage")
    assert {"frozen", "ema", "snapshot"} <= names(entries, "rule")
    assert {"online_ipo", "ipo_md", "dpo"} <= names(entries, "algorithm")
    assert {"rouge_l", "win_rate_matrix", "exploitability"} <= names(entries, "metric")


@pytest.mark.parametrize(
    ("room", "kinds"),
    [
        (losses, {"loss", "rule", "part"}),
        (stages, {"stage", "judge", "rule"}),
        (sampling, {"sampler"}),
        (roles, {"rule"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_that_takes_the_arguments_of_a_kind_is_left_out(entries, room, kinds):
    """Whatever is public and takes (context, batch, ...) is listed; what is not listed cannot be put into a slot."""
    listed = set().union(*(names(entries, kind) for kind in kinds))
    for name in set(catalogue.public(room)) - listed:
        value = getattr(room, name)
        if inspect.isroutine(value):
            assert "batch" not in inspect.signature(value).parameters, f"{room.__name__}.{name} is not listed"


def test_helpers_are_not_listed(entries):
    assert not names(entries, "loss") & {"on", "pairwise"}
    assert not names(entries, "rule") & {"fresh", "copy_of", "restored"}
    assert not names(entries, "metric") & {"words", "ngrams", "lcs_length", "checked", "complement", "scored"}


def test_papers_come_from_docstrings(entries):
    found = {(entry.kind, entry.name): entry.paper for entry in entries}
    assert found["loss", "ipo"] == "arXiv:2310.12036"
    assert found["loss", "dpo"] == "arXiv:2305.18290"
    assert found["sampler", "mixture"] == "arXiv:2403.08635"


def test_a_new_loss_appears_by_itself(monkeypatch):
    room = types.ModuleType("a_room_of_tests")

    @pairwise
    def square(margin: Array, preference: Array, *, scale: float = 1.0) -> Array:
        """A loss of this test. The rest is not shown (arXiv:1234.56789 eq. 1)."""
        return scale * margin**2

    def plain(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
        """Nothing, e.g. of
        two lines"""
        raise NotImplementedError

    def helper(value: int) -> int:
        return value

    room.__dict__.update(square=square, plain=plain, helper=helper, __path__=[])  # a package
    monkeypatch.setitem(sys.modules, "a_room_of_tests", room)
    monkeypatch.setattr(catalogue, "ROOMS", {"a_room_of_tests": ("loss", "rule")})
    assert catalogue.entries() == [
        catalogue.Entry("plain", "loss", "Nothing, e.g. of two lines", None),
        catalogue.Entry("square", "loss", "A loss of this test.", "arXiv:1234.56789"),
    ]


def test_stages_and_judges_are_told_apart_by_what_they_return(monkeypatch):
    def stage(context: Context, batch: Batch, key: Key) -> Batch:
        """A stage."""
        raise NotImplementedError

    def judge(context: Context, batch: Batch, key: Key) -> Array:
        """A judge."""
        raise NotImplementedError

    kinds = catalogue.ROOMS["alignjax.stages"]
    assert [catalogue.kind_of(function, kinds) for function in (stage, judge, len)] == ["stage", "judge", None]


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("One line.", "One line."),
        ("One line. And more.", "One line."),
        ("A sum over\n    two lines, with 1.5 inside.\n\n    Then more.", "A sum over two lines, with 1.5 inside."),
        ("See (arXiv:2310.12036 eq. 17) for it. More.", "See (arXiv:2310.12036 eq. 17) for it."),
        ("No full stop", "No full stop"),
        (None, ""),
    ],
)
def test_summary_is_the_first_sentence(text, summary):
    def function():
        return None

    function.__doc__ = text
    assert catalogue.summary(function) == summary


def test_list_json(capsys, entries):
    assert main(["list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == [
        {"name": entry.name, "kind": entry.kind, "summary": entry.summary, "paper": entry.paper} for entry in entries
    ]


def test_list_table_shows_one_kind(capsys, monkeypatch, entries):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "--kind", "rule"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names(entries, "rule"))
    assert "bradley_terry" not in out


def test_list_of_an_unknown_kind(capsys):
    assert main(["list", "--kind", "los"]) == 2
    assert "Did you mean 'loss'?" in capsys.readouterr().err
