"""Overrides: a path reaches the one value it names, everything else stays, and every mistake says what to write."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import OrderedDict
from typing import Literal

import jax
import pytest

from alignjax import cli
from alignjax.cli import overrides
from alignjax.cli.number_words import number_of
from alignjax.config import ConfigError, Experiment, Fn, Pipeline, fn
from alignjax.types import Algorithm, Model, Role


class Colour(enum.Enum):
    red = 1
    blue = 2


@dataclasses.dataclass(frozen=True)
class Width:
    layers: int = 2
    width: int = 8

    def __post_init__(self):
        if self.width % self.layers:
            raise ConfigError(f"width {self.width} is not a multiple of {self.layers} layers")


def loss(
    context,
    batch,
    *,
    tau: float,
    betas: tuple[float, ...] = (0.9, 0.95),
    pair: tuple[int, int] = (0, 1),
    pairs: tuple[tuple[int, int], ...] = ((0, 1), (2, 3)),
    names: tuple[str, ...] = ("one", "two"),
    reference: str | None = "reference",
    clip: float | None = None,
    kind: Literal["hard", "soft"] = "soft",
    colour: Colour = Colour.red,
    on: bool = False,
    free=3,
    power: float | Fn = 1.0,
):
    return tau


def warmup(*, peak: float, steps: int = 10):
    return peak


def adam(*, learning_rate: float | Fn = 1e-3):
    return learning_rate


def source(workspace, seed, *, rows: int = 4, shape: Width = Width(), name: str = "x"):  # it is frozen
    return rows


def job(workspace, *, seed: int = 0, limit: int | None = None):
    return {}


def model() -> Model:
    def nothing(*_):
        return None

    return Model(init=nothing, hidden=nothing, heads={}, read=nothing)


def experiment() -> Experiment:
    return Experiment(
        algorithm=Algorithm(
            experience=OrderedDict(zeta=fn(loss, tau=1.0), alpha=fn(loss, tau=2.0)),
            losses={"pair": fn(loss, tau=0.1)},
            roles={"policy": Role(model(), None, optimizer=fn(adam, learning_rate=fn(warmup, peak=0.5)))},
        ),
        source=fn(source),
        steps=10,
    )


def pipeline() -> Pipeline:
    return Pipeline({"data": fn(job), "sft": experiment(), "self-play": experiment()})


def value_at(config, path: str):
    return {slot.path: slot.value for slot in overrides.slots(config)}[path]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("--steps 20", 20),
        ("--steps=20", 20),
        ("--algorithm.losses.pair.tau 0.5", 0.5),
        ("--algorithm.losses.pair.tau -1e-3", -1e-3),
        ("--algorithm.losses.pair.tau 2", 2.0),
        ("--algorithm.losses.pair.betas 0.8 0.9 0.99", (0.8, 0.9, 0.99)),
        ("--algorithm.losses.pair.betas 0.8,0.9", (0.8, 0.9)),
        ("--algorithm.losses.pair.pair (1,0)", (1, 0)),
        ("--algorithm.losses.pair.pairs 0 1 1 2", ((0, 1), (1, 2))),
        ("--algorithm.losses.pair.names three", ("three",)),
        ("--algorithm.losses.pair.names one,three", ("one", "three")),
        ("--algorithm.losses.pair.reference None", None),
        ("--algorithm.losses.pair.reference other", "other"),
        ("--algorithm.losses.pair.clip none", None),
        ("--algorithm.losses.pair.clip 0.2", 0.2),
        ("--algorithm.losses.pair.kind hard", "hard"),
        ("--algorithm.losses.pair.colour blue", Colour.blue),
        ("--algorithm.losses.pair.on", True),
        ("--algorithm.losses.pair.on true", True),
        ("--algorithm.losses.pair.on False", False),
        ("--algorithm.losses.pair.free 4", 4),
        ("--algorithm.losses.pair.power 2", 2.0),
        ("--algorithm.experience.alpha.tau 7", 7.0),
        ("--algorithm.roles.policy.optimizer.learning_rate.peak 0.1", 0.1),
        ("--algorithm.roles.policy.optimizer.learning-rate.steps 3", 3),
        ("--source.shape.width 16", 16),
        ("--source.name -x", "-x"),
        ("--mesh.fsdp -1", -1),
        ("--mesh.tensor 2", 2),
    ],
)
def test_one_value_changes_and_no_other(line, wanted):
    before = experiment()
    after = overrides.apply(before, line.split())
    path = line.split()[0].partition("=")[0][2:].replace("-", "_")
    assert value_at(after, path) == wanted
    assert type(value_at(after, path)) is type(wanted)
    others = {slot.path: slot.value for slot in overrides.slots(before)}
    changed = {slot.path: slot.value for slot in overrides.slots(after)}
    assert {name for name in others if others[name] != changed[name]} <= {path}
    assert list(others) == list(changed)  # the order of stages too
    assert after.algorithm.roles["policy"].model is before.algorithm.roles["policy"].model


def test_an_override_equals_the_config_written_that_way():
    changed = overrides.apply(experiment(), ["--algorithm.losses.pair.tau", "0.5"])
    assert changed.algorithm.losses["pair"] == fn(loss, tau=0.5)
    # still a pytree with the same structure, so that the compiled program is shared
    assert jax.tree.structure(changed.algorithm.losses) == jax.tree.structure(experiment().algorithm.losses)


def test_the_last_override_wins():
    assert overrides.apply(experiment(), ["--steps", "2", "--steps", "3"]).steps == 3


def test_a_pipeline_path_begins_with_the_step():
    changed = overrides.apply(pipeline(), ["--sft.steps", "3", "--data.limit", "5", "--self-play.seed", "9"])
    assert changed.steps["sft"].steps == 3
    assert changed.steps["self-play"].steps == 10
    assert changed.steps["data"].kwargs["limit"] == 5
    assert changed.steps["self-play"].seed == 9
    assert list(changed.steps) == ["data", "sft", "self-play"]


def test_all_changes_every_step_that_has_the_path():
    changed = overrides.apply(pipeline(), ["--all.seed", "7", "--all.steps", "2"])
    assert [changed.steps[name].seed for name in ("sft", "self-play")] == [7, 7]
    assert changed.steps["data"].kwargs["seed"] == 7
    assert [changed.steps[name].steps for name in ("sft", "self-play")] == [2, 2]


def test_a_pipeline_is_drawn_anew_as_a_whole():
    """Steps with seeds of their own keep them apart: a held-out judge must not become the judge it is to check."""
    config = overrides.apply(pipeline(), ["--sft.seed", "1"])
    seeds = {name: value_at(step, "seed") for name, step in config.steps.items()}
    moved = [overrides.apply(config, ["--seed", str(number)]) for number in (0, 1, 2)]
    found = [{name: value_at(step, "seed") for name, step in one.steps.items()} for one in moved]
    assert found[0] == seeds
    for one in found[1:]:
        assert {name: one[name] - one["data"] for name in one} == {name: seeds[name] - seeds["data"] for name in seeds}
    assert not set(found[1].values()) & set(found[2].values())
    assert overrides.apply(config, ["--seed", "2", "--seed", "1"]) == moved[1]
    with pytest.raises(ConfigError, match=r"data 0, sft 1, self-play 0.*--seed N"):
        overrides.apply(config, ["--all.seed", "3"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--algorithm.losses.pair.tua 1", "Did you mean --algorithm.losses.pair.tau?"),
        ("--algorithm.losses.par.tau 1", "Did you mean --algorithm.losses.pair.tau?"),
        ("--algoritm.losses.pair.tau 1", "Did you mean --algorithm.losses.pair.tau?"),
        ("--tau 1", "--algorithm.losses.pair.tau"),
        ("--stpes 1", "Did you mean --steps?"),
        ("--xyzzy 1", "Known: "),
        ("--steps ten", "--steps got 'ten'; it must be an integer (int)"),
        ("--steps 1.5", "--steps got '1.5'; it must be an integer"),
        ("--steps", "--steps got no value; it must be an integer"),
        ("--steps 1 2", "--steps got '1 2'"),
        ("--steps 0", "--steps 0: Experiment.steps is 0; it must be a whole number from 1 to 2147483647"),
        ("--algorithm.losses.pair.tau much", "--algorithm.losses.pair.tau got 'much'; it must be a number"),
        ("--algorithm.losses.pair.clip much", "got 'much'; it must be float | None"),
        ("--algorithm.losses.pair.kind sfot", "got 'sfot'; it must be one of hard, soft"),
        ("--algorithm.losses.pair.colour green", "got 'green'; it must be one of red, blue"),
        ("--algorithm.losses.pair.pair 1", "it must be tuple[int, int]"),
        ("--algorithm.losses.pair.on maybe", "it must be true or false"),
        ("--source.shape.width 7", "width 7 is not a multiple of 2 layers"),
        ("--algorithm.losses.pair 3", "--algorithm.losses.pair.tau"),
        ("--algorithm.roles.policy.model.width 3", "change it in the config file"),
        ("--steps.more 3", "has no parts"),
        ("20", "'20' stands where an override should"),
    ],
)
def test_mistakes_say_what_to_write(line, message):
    with pytest.raises(ConfigError) as error:
        overrides.apply(experiment(), line.split())
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--stf.steps 1", "Did you mean --sft.steps?"),
        ("--steps 1", "--sft.steps"),
        ("--all.sede 1", "Did you mean 'seed'?"),
        ("--sft.stesp 1", "Did you mean --sft.steps?"),
    ],
)
def test_mistakes_in_a_pipeline(line, message):
    with pytest.raises(ConfigError) as error:
        overrides.apply(pipeline(), line.split())
    assert message in str(error.value)


def test_a_misspelt_flag_of_the_command_is_told_about_the_command():
    with pytest.raises(ConfigError, match=r"no flag --resme\. Did you mean --resume\?"):
        overrides.apply(experiment(), ["--resme"], flags=("resume", "dry-run"))


@pytest.mark.parametrize("make", [experiment, pipeline])
def test_every_slot_accepts_its_own_value(make):
    """What the help shows as the present value can be written back, and changes nothing."""
    config = make()
    for slot in overrides.slots(config):
        again = overrides.override(config, slot.path.replace("self_play", "self-play"), overrides.as_words(slot.value))
        assert value_at(again, slot.path) == slot.value, slot.path


def test_a_tuple_that_may_be_left_out_is_written_with_commas() -> None:
    optional = tuple[int, ...] | None
    assert overrides.parse("stop", ["(5,-7)"], optional) == (5, -7)
    assert overrides.parse("stop", ["5"], optional) == (5,)
    assert overrides.parse("stop", ["None"], optional) is None


ODD = ["1_0", "٣", "\uff11", " 10", "10 ", "\t10", "0x10", "10\n", "1" * 5000, "1e3", "1.0", ""]
ODD_FLOATS = ["1_0.5", "٣.5", "½", " 0.5", "0.5 ", "1e٣", "1e_3", "0x1p3", ".", "e5", "1e", "nano", "infin"]


@pytest.mark.parametrize("word", ODD)
def test_a_whole_number_is_written_in_plain_digits(word: str) -> None:
    for kind in (int, int | None, tuple[int, int]):
        words = [word] if kind is not tuple[int, int] else ["5", word]
        with pytest.raises(ConfigError, match=r"^--steps got"):
            overrides.parse("steps", words, kind)
    with pytest.raises(ValueError, match="is not a whole number in digits"):
        number_of(word, int)


@pytest.mark.parametrize("word", ODD_FLOATS)
def test_a_number_is_written_in_plain_digits(word: str) -> None:
    for kind in (float, float | None):
        with pytest.raises(ConfigError, match=r"^--tau got"):
            overrides.parse("tau", [word], kind)


def test_plain_digits_are_the_number_that_they_say() -> None:
    for word in ("10", "-3", "+4", "007", "0", "1" * 4300):
        assert overrides.parse("steps", [word], int) == int(word)
    for word in ("10", "-3.", ".5", "+1e-3", "1E5", "-2.50e+01", "inf", "-Infinity"):
        assert overrides.parse("tau", [word], float) == float(word)
    assert math.isnan(overrides.parse("tau", ["NaN"], float))


@pytest.mark.parametrize("word", ["1_0", "٣", " 3"])
def test_flags_take_plain_digits_alone(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--n", "--temperature"):
        assert cli.main(["generate", "runs/none", flag, word]) == 2
        said = "a whole number" if flag == "--n" else "a number"
        assert f"is not {said} in digits" in " ".join(capsys.readouterr().err.replace("│", " ").split())
