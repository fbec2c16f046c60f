"""Every number that a person can write has a declared range, and one outside it ends in a sentence.

Nothing is listed here by hand but the records: functions are found by looking through the package, flags by their
commands.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

import alignjax
from alignjax import config, stages, types
from alignjax.algorithms.parts import SelfPlay
from alignjax.cli import COMMANDS, main, parsed
from alignjax.config import ConfigError, Experiment, MeshConfig, Packing, check_ranges, fn, hyperparameters, type_hints
from alignjax.data.datasets import docstrings, from_files
from alignjax.data.prepared import Dataset
from alignjax.data.sources.row_selection import Texts
from alignjax.evaluate.players import Player
from alignjax.exact_tasks.letters import Letters
from alignjax.exact_tasks.task import ExactTask
from alignjax.games.strings import Language
from alignjax.games.table_policy import TableConfig
from alignjax.json_shapes import misfit
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import RopeScaling
from alignjax.pipelines import exact_study, summarization
from alignjax.ranges import Count, Fraction, Limit, Natural, Positive, plain, undeclared, violation

RECORDS = (
    Experiment, MeshConfig, Packing, types.Algorithm, SelfPlay, TransformerConfig, RopeScaling, TableConfig, Language,
    Dataset, Letters, from_files.File, docstrings.Docstrings, Texts, Player, ExactTask, exact_study.Sizes,
    summarization.Sizes,
)  # fmt: skip
ODD = (math.nan, math.inf, -math.inf, -1, 0, 1, 1e30, 10**30)
# They are called by the program alone, which has checked what it passes on.
INTERNAL = ("alignjax.cli", "alignjax.train.checkpoint", "alignjax.evaluate.report", "alignjax.scoring")


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function of the package with a keyword-only parameter, once."""
    for module in pkgutil.walk_packages(alignjax.__path__, "alignjax."):
        if module.name.startswith(INTERNAL) or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            public = callable(value) and not name.startswith("_") and typing.get_origin(value) is None
            if public and not isinstance(value, type) and getattr(value, "__module__", None) == module.name:
                yield f"{module.name}.{name}", value


FUNCTIONS = dict(functions())


def slots() -> Iterator[tuple[str, Any, Any, str]]:
    """(place, function, annotation, name) of every numeric hyper-parameter."""
    for place, function in FUNCTIONS.items():
        for name, parameter in hyperparameters(function).items():
            if parameter.annotation is not inspect.Parameter.empty and undeclared(plain(parameter.annotation)):
                yield f"{place}.{name}", function, parameter.annotation, name


SLOTS = list(slots())


def test_the_search_finds_all_kinds() -> None:
    assert len(SLOTS) > 350
    places = {place for place, *_ in SLOTS}
    for known in (
        "losses.margin.ipo.tau", "stages.completions.generate.top_p", "train.optimizers.adamw.learning_rate",
        "data.sources.kinds.preferences.batch_size", "roles.ema.decay", "algorithms.online.online_ipo.tau",
        "sampling.behaviors.mixture.beta", "evaluate.tournament.play.max_tokens", "games.world.measure.tau",
    ):  # fmt: skip
        assert f"alignjax.{known}" in places, known


def test_every_numeric_slot_declares_its_range() -> None:
    bare = [place for place, _, annotation, _ in SLOTS if undeclared(annotation)]
    assert not bare, f"annotate them with a range of alignjax/ranges.py: {bare}"


@pytest.mark.parametrize("record", [*RECORDS, *COMMANDS.values()], ids=lambda record: record.__qualname__)
def test_every_numeric_field_declares_its_range(record: type) -> None:
    names = {field.name for field in dataclasses.fields(record) if field.init}
    bare = [name for name, hint in type_hints(record).items() if name in names and undeclared(hint)]
    assert not bare, f"annotate them with a range of alignjax/ranges.py: {bare}"


def filled(function: Any, **changes: Any) -> Any:
    """fn(function) with something in every slot that has no default."""
    needed = {name: p for name, p in hyperparameters(function).items() if p.default is inspect.Parameter.empty}
    return fn(function, **{**{name: something(p.annotation) for name, p in needed.items()}, **changes})


def something(annotation: Any) -> Any:
    option = config.members(annotation)[0]
    if typing.get_origin(option) is typing.Literal:
        return typing.get_args(option)[0]
    return {str: "some", int: 1, float: 0.25, bool: False}.get(option, fn(something))


def numbers_of(annotation: Any) -> bool:
    return any(option in (int, float) for option in config.members(annotation))


def test_odd_numbers_are_refused_in_words_or_in_range() -> None:
    refused = taken = 0
    for place, function, annotation, name in SLOTS:
        for value in ODD if numbers_of(annotation) else ():
            kind = float if float in config.members(annotation) else int
            try:
                made = filled(function, **{name: value})
            except ConfigError as error:
                said = str(error)
            else:
                said = ""
            if said:
                assert any(f".{name} is {form!r}" in said for form in (value, float(value))), place
                assert "it must be" in said, place
                refused += 1
            else:
                assert violation(made.kwargs[name], annotation) is None, place
                assert isinstance(made.kwargs[name], kind), place
                assert not math.isnan(value), place
                taken += 1
    assert refused > taken > 0


def test_odd_numbers_in_records_are_refused_in_words() -> None:
    for record in (TransformerConfig, RopeScaling, MeshConfig, Packing, exact_study.Sizes, summarization.Sizes):
        sizes = {"vocab": 8, "kind": "linear", "factor": 2.0, "prompts": 1, "length": 8}
        fixed = {field.name for field in dataclasses.fields(record)} & set(sizes)
        for name, hint in type_hints(record).items():
            for value in (math.nan, -2, 10**40) if numbers_of(hint) else ():
                with pytest.raises(ConfigError, match=rf"{record.__name__}\.{name} is .*it must be"):
                    record(**{key: sizes[key] for key in fixed} | {name: value})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "run", "--temperature", "nan"], "--temperature is nan; it must be a finite float32 number"),
        (["generate", "run", "--top-p", "1.5"], "--top-p is 1.5; it must be a number above 0 and at most 1"),
        (["generate", "run", "--top-k", "0"], "--top-k is 0; it must be -1 (all tokens) or a whole number from 1"),
        (["chat", "run", "--top-k=-2"], "--top-k is -2; it must be -1 (all tokens) or a whole number from 1"),
        (["generate", "run", "--max-tokens", "0"], "--max-tokens is 0; it must be a whole number from 1"),
        (["generate", "run", "--n=-1"], "--n is -1"),
        (["export", "run", "--to", "x", "--shard-gb", "0"], "--shard-gb is 0.0"),
        (["data", "inspect", "docstrings", "--rows=-3"], "--rows is -3"),
        (["train", "c.py", "--processes", "0"], "--processes is 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_flags_say_their_range(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_top_k_means_one_thing_in_a_stage_and_as_a_flag() -> None:
    """None and -1 keep all tokens, in both; 0 is refused by both in the same words."""
    for all_tokens in (-1, None):
        assert fn(stages.generate, n=2, max_tokens=3, top_k=all_tokens).kwargs["top_k"] == all_tokens
    for words, value in ((["--top-k", "-1"], -1), (["--top-k=-1"], -1), (["--top-k", "7"], 7), ([], None)):
        for command in ("generate", "chat"):
            assert parsed(command, ["run", *words])[0].top_k == value
    with pytest.raises(ConfigError) as in_stage:
        fn(stages.generate, n=2, max_tokens=3, top_k=0)
    with pytest.raises(ConfigError) as in_flag:
        parsed("generate", ["run", "--top-k", "0"])
    said = [str(error.value).partition("top_k" if error is in_stage else "top-k")[2] for error in (in_stage, in_flag)]
    assert said[0] == said[1]
    assert said[0].startswith(" is 0; it must be -1 (all tokens) or a whole number from 1")


@pytest.mark.parametrize("digits", [400, 6000])
def test_whole_numbers_that_no_float_holds_end_in_words(digits: int) -> None:
    """Python makes no float of them, and no text of the longer ones."""
    huge = 10 ** (digits - 1)
    for value, place, name in ((huge, "losses.margin.ipo", "tau"), (-huge, "stages.completions.generate", "n")):
        with pytest.raises(ConfigError, match=rf"{name} is a whole number of some {digits:,} digits; it must be a"):
            filled(FUNCTIONS[f"alignjax.{place}"], **{name: value})
    assert violation(huge, Positive) == violation(math.inf, Positive) is not None
    assert violation(huge, Limit) is None
    assert misfit(10**399, Positive) is not None
    with pytest.raises(ConfigError, match="--n is a whole number of some 400 digits"):
        parsed("generate", ["run", "--n", str(10**399)])


def test_ranges_of_tuples_unions_and_arrays() -> None:
    pairs = tuple[tuple[Natural, Natural], ...]
    assert violation(((0, 1), (2, 5)), pairs) is None
    assert "from 0" in (violation(((0, 1), (2, -5)), pairs) or "")
    assert violation((1, 0), tuple[Natural, Count] | None) is not None
    assert violation(None, Count | None) is None
    assert violation(-1, Count | typing.Literal[-1]) is None
    assert violation(0, Count | typing.Literal[-1]) == "a whole number from 1 to 2147483647 or -1"
    assert violation(math.inf, Limit) is None
    assert violation(math.inf, Positive) is not None
    assert violation(np.float32("nan"), Fraction) is not None
    assert plain(tuple[Positive, ...] | None) == tuple[float, ...] | None


def test_numbers_inside_a_program_are_not_looked_at() -> None:
    """A traced value has no number to check, and a record goes through jax without its checks being in the way."""
    jitted = jax.jit(lambda decay: fn(config_probe, decay=decay)())
    assert float(jitted(7.0)) == 7.0
    assert float(jax.vmap(lambda decay: fn(config_probe, decay=decay)())(np.array([7.0]))[0]) == 7.0


def config_probe(*, decay: Fraction = 0.5) -> Any:
    return decay


def test_a_bare_record_is_checked_by_one_call() -> None:
    @dataclasses.dataclass
    class Record:
        rate: Fraction
        name: str = "x"

    check_ranges(Record(0.5))
    with pytest.raises(ConfigError, match=r"Record\.rate is 2\.0; it must be a number at least 0 and at most 1"):
        check_ranges(Record(2.0))
    with pytest.raises(ConfigError, match=r"it is called rate is 'a'"):
        check_ranges(Record("a"), lambda field: f"it is called {field}")  # type: ignore[arg-type]
