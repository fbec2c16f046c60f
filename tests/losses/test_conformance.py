"""What every loss of the library is held to, on a real context: one line of `cases.py` gets all of this."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError
from alignjax.losses.decorators.declared import needs_of
from alignjax.types import Batch
from tests.support.cases import CASES, public_losses
from tests.support.loss_case import Case, as_is
from tests.support.network import NETWORK, PROMPT, ROWS, full_batch, parameters
from tests.support.tiny import all_finite, context_of
from tests.support.together import TRACES, Program, alone, extra_state, moving, pack

NAMES = [case.name for case in CASES]
every = pytest.mark.parametrize("case", CASES, ids=NAMES)


def test_every_public_loss_has_a_case_of_its_own_name() -> None:
    assert len(set(NAMES)) == len(NAMES), "two lines of one name"
    assert set(public_losses()) <= {case.loss.name for case in CASES}


# ----------------------------------------------------------------------------------------------------------------
# every case in one program


@functools.cache
def reasons() -> dict[str, Exception]:
    """Cases that cannot be traced and why. They are left out of the program, so that the others can be judged."""
    found = {}
    state = extra_state(CASES)
    for case in CASES:
        try:
            value, _ = alone(case, parameters(1), parameters(2), state, full_batch(dtype=np.float32))
            assert value.shape == (), "a loss is one mean; arrays of means are metrics"
        except Exception as error:  # any failure is the case's own
            found[case.name] = error
    return found


@functools.cache
def program() -> Program:
    """All cases, if they can be traced together; if not, those that can be traced alone, which takes as long again."""
    everything = Program(CASES)
    try:
        with jax.enable_x64(True):
            setting("float64", full_batch(), of=everything).evaluated()
    except Exception:  # of some case: `reasons` finds it, and its tests raise it
        return Program([case for case in CASES if case.name not in reasons()])
    return everything


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where all losses are evaluated: what moves, what does not, and on which batch."""

    moves: Any
    reference: Any
    state: Any
    batch: Batch
    program: Program

    def arguments(self) -> tuple[Any, Any, Any, Batch]:
        return self.moves, self.reference, self.state, self.batch

    def evaluated(self) -> Mapping[str, Any]:
        return self.program.gradients(*self.arguments(), microbatches=2)


def setting(dtype: str, batch: Batch, scale: float = 1.0, of: Program | None = None) -> Setting:
    of = of or program()
    cases = of.cases
    policy = parameters(1, dtype)
    heads = {**policy["heads"], "lm": (scale * policy["heads"]["lm"].astype(np.float32)).astype(policy["turn"].dtype)}
    policy = {**policy, "heads": heads}
    state = extra_state(cases, "float64" if dtype == "float64" else "float32")
    return Setting(moving(cases, policy, state), parameters(2, dtype), state, batch, of)


@pytest.fixture(scope="module")
def plain() -> Callable[[], Any]:
    """Answers in float64 on the full batch, in two microbatches as everywhere below but in the differences."""

    def answers() -> Any:
        with jax.enable_x64(True):
            return setting("float64", full_batch()).evaluated()

    return functools.cache(answers)


def number_of(case: Case) -> int:
    """Its place among the answers of the program."""
    if case not in program().cases:
        raise reasons()[case.name]
    return program().cases.index(case)


def of(case: Case, answers: Mapping[str, Any]) -> tuple[Any, Any]:
    """(value, gradient) of one case."""
    number = number_of(case)
    return answers["value"][number], jax.tree.map(lambda leaf: leaf[number], answers["gradient"])


def assert_equal(one: tuple[Any, Any], other: tuple[Any, Any], tolerance: float) -> None:
    """Values and gradients, relative to the largest number of each."""
    np.testing.assert_allclose(one[0], other[0], rtol=tolerance, atol=tolerance)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one[1]))
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(largest, 1))


@every
def test_the_loss_is_alive(case: Case, plain: Any) -> None:
    """A gradient that is not 0, by the policy and by every other trained role: the checks below can then fail."""
    value, gradient = of(case, plain())
    assert np.isfinite(value)
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient["policy"])) > 1e-4
    for leaf in jax.tree.leaves(gradient.get(case.name, {})):
        assert float(np.abs(leaf).max()) > 0


# ----------------------------------------------------------------------------------------------------------------
# gradients


def slope_of(gradient: Any, direction: Any) -> tuple[float, float]:
    """The derivative along a direction, and the size of its terms."""
    terms = jax.tree.leaves(jax.tree.map(lambda g, d: float(np.sum(g * d)), gradient, direction))
    return sum(terms), sum(map(abs, terms))


@pytest.fixture(scope="module")
def slopes(plain: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """(values, central differences of every loss along a random direction, the direction; values once more): in one
    microbatch, the reference's log-probs as a source stores them; once more with NaN in them where nothing counts.

    Where the gradient is not the slope of a loss, there are constants in it: the differences of these losses, in a
    program of their own, are taken with all that is under a stop_gradient held fixed."""
    with jax.enable_x64(True):
        given = setting("float64", full_batch())
        score = jax.jit(lambda params, batch: context_of(NETWORK, reference=params).score("reference", batch))
        stored = np.asarray(score(given.reference, given.batch)["reference"])
        draw = np.random.default_rng(8)
        direction = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), given.moves)
        h = 1e-5
        moved = {
            s: jax.tree.map(lambda leaf, d, s=s: np.asarray(leaf) + s * h * d, given.moves, direction) for s in (1, -1)
        }

        def values(moves: Any, logps: np.ndarray) -> np.ndarray:
            return program().values(moves, given.reference, given.state, given.batch.with_logps(reference=logps))

        differences = (values(moved[1], stored) - values(moved[-1], stored)) / (2 * h)
        off = []
        for number, case in enumerate(program().cases):
            slope, size = slope_of(of(case, plain())[1], direction)
            if not abs(slope - differences[number]) < 1e-6 * (size + abs(plain()["value"][number]) + 1e-3):
                off.append(number)
        frozen = Program([program().cases[number] for number in off])
        constant = given.moves, given.reference, given.state, given.batch.with_logps(reference=stored)
        ends = [frozen.values_with_constants_of(moved[sign], *constant) for sign in (1, -1)]
        differences[off] = (ends[0] - ends[1]) / (2 * h)
        unseen = np.where(given.batch.mask != 0, stored, np.nan)
        return values(given.moves, stored), differences, direction, values(given.moves, unseen)


@every
def test_gradient_against_finite_differences(case: Case, plain: Any, slopes: Any) -> None:
    """What a loss puts under stop_gradient is held fixed in the differences too. They are taken in one microbatch with
    a stored reference, the gradient in two with one that is scored: neither changes a loss."""
    value, gradient = of(case, plain())
    number = program().cases.index(case)
    values, expected, direction, values_with_nan = slopes
    assert values[number] == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert values_with_nan[number] == pytest.approx(value, rel=1e-12, abs=1e-12)
    slope, size = slope_of(gradient, direction)
    assert abs(slope - expected[number]) < 1e-6 * (size + abs(float(value)) + 1e-3)


# ----------------------------------------------------------------------------------------------------------------
# what must not matter, and what must


@functools.cache
def permuted() -> Mapping[str, Any]:
    """Rows in another order, in the batch and in all of its views."""
    order = np.random.default_rng(3).permutation(ROWS)
    given = setting("float64", full_batch())
    layout, arrays = pack(program().cases, given.batch)
    arrays = [array[order] if np.shape(array)[:1] == (ROWS,) else array for array in arrays]
    return program().packed(given.moves, given.reference, given.state, layout, arrays, microbatches=2)


@every
def test_the_order_of_rows(case: Case, plain: Any, float64: None) -> None:
    one, other = of(case, plain()), of(case, permuted())
    if case.order_matters:
        assert abs(one[0] - other[0]) > 1e-6, "cases.py says that the order of rows matters; it does not"
    else:
        assert_equal(one, other, 1e-12)


@functools.cache
def halves() -> list[Mapping[str, Any]]:
    """The two halves of the rows, each alone (rows of the other half are repeated without a share in the mean)."""
    given = setting("float64", full_batch())
    layout, arrays = pack(program().cases, given.batch)
    found = []
    for rows in (np.tile(np.arange(ROWS // 2), 2), np.tile(np.arange(ROWS // 2, ROWS), 2)):
        half = [array[rows] if np.shape(array)[:1] == (ROWS,) else array for array in arrays]
        found.append(program().packed(given.moves, given.reference, given.state, layout, half, microbatches=2))
    return found


@every
def test_a_loss_is_one_mean_over_rows(case: Case, plain: Any, float64: None) -> None:
    """Sums and weights of two halves add up to those of the whole, unless the loss looks across rows."""
    if case not in program().cases:
        raise reasons()[case.name]
    number = program().cases.index(case)
    totals = [answers["value"][number] * answers["weight"][number] for answers in (plain(), *halves())]
    weights = [answers["weight"][number] for answers in (plain(), *halves())]
    # each half stands there twice
    apart = abs(totals[0] - sum(totals[1:]) / 2) + abs(weights[0] - sum(weights[1:]) / 2)
    if case.couples_rows or case.order_matters:
        assert apart > 1e-9, "cases.py says that rows are coupled; they are not"
    else:
        assert apart < 1e-10


def noisy(batch: Batch) -> Batch:
    """Other numbers in the padding of prompts and completions."""
    draw = np.random.default_rng(77)
    other = jax.tree.map(lambda leaf: np.where(batch.valid, leaf, 7.5), batch.completions)
    return batch.replace(
        tokens=np.where(batch.valid, batch.tokens, draw.integers(0, 6, batch.tokens.shape)).astype(np.int32),
        prompt=np.where(batch.prompt_valid, batch.prompt, draw.integers(0, 6, batch.prompt.shape)).astype(np.int32),
        advantage=np.where(batch.mask != 0, batch.advantage, 1e3),
        returns=np.where(batch.mask != 0, batch.returns, 1e3),
        preference=np.where(batch.pair_weight != 0, batch.preference, 0.123),
        completions=other,
    )


@functools.cache
def with_noise() -> Mapping[str, Any]:
    return setting("float64", noisy(full_batch())).evaluated()


@every
def test_padding_has_no_say(case: Case, plain: Any, float64: None) -> None:
    assert_equal(of(case, plain()), of(case, with_noise()), 1e-12)


# ----------------------------------------------------------------------------------------------------------------
# extremes, in float32 with params in bfloat16


def emptied(batch: Batch, where: Any) -> Batch:
    """Completions [B,N] of no tokens."""
    keep = ~np.broadcast_to(where, batch.tokens.shape[:2])[..., None]
    return batch.replace(valid=batch.valid & keep, mask=batch.mask * keep)


EXTREMES = (  # their names stand here since a trace of every loss is too long for a collection of tests
    "plain", "huge", "huge_other_way", "empty_completions", "empty_rows", "nothing", "nothing_counted", "reward_ties",
)  # fmt: skip


@functools.cache
def extremes() -> dict[str, Setting]:
    batch = full_batch(dtype=np.float32)
    draw = np.random.default_rng(5)
    half = np.triu(draw.choice([0, 0.5, 1], batch.preference.shape), 1)
    sure = (half + np.tril(1 - half.swapaxes(1, 2), -1) + np.eye(half.shape[1]) / 2).astype(np.float32)
    rows = np.arange(ROWS)[:, None]
    some = draw.random(batch.tokens.shape[:2]) < 0.4
    no_prompts = batch.replace(prompt_valid=batch.prompt_valid & (rows > 1))
    none = emptied(batch, True)
    return {
        "plain": setting("bfloat16", batch),
        "huge": setting("bfloat16", batch.replace(preference=sure), scale=3000.0),
        "huge_other_way": setting("bfloat16", batch.replace(preference=sure), scale=-3000.0),
        "empty_completions": setting("bfloat16", emptied(batch, some)),
        "empty_rows": setting("bfloat16", emptied(no_prompts, rows < 3)),
        "nothing": setting("bfloat16", none.replace(prompt_valid=np.zeros((ROWS, PROMPT), bool))),
        "nothing_counted": setting("bfloat16", none.replace(pair_weight=np.zeros_like(batch.pair_weight))),
        "reward_ties": setting("bfloat16", batch.replace(reward=np.ones_like(batch.reward))),
    }  # fmt: skip


@pytest.fixture(scope="module")
def far() -> Callable[[str], Mapping[str, Any]]:
    """Values and metrics of each loss, and the gradient of their sum."""

    def answers(name: str) -> Mapping[str, Any]:
        given = extremes()[name]
        return program().totals(*given.arguments(), microbatches=2, metrics=True)

    return functools.cache(answers)


one_by_one = functools.cache(lambda name: extremes()[name].evaluated())  # tells whose a sum's fault is


def test_extremes_are_extreme() -> None:
    """Margins of 1e4 and more, both ways."""
    assert tuple(extremes()) == EXTREMES
    reached = []
    for name in ("huge", "huge_other_way"):
        given = extremes()[name]
        score = jax.jit(lambda params, batch: context_of(NETWORK, p=params).score("p", batch)["p"])
        logps = np.asarray(score(given.moves["policy"], given.batch) * given.batch.mask).sum(-1)
        reached += [*(logps[:, 0] - logps[:, 1])]
    assert max(reached) > 1e4
    assert min(reached) < -1e4


@every
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_are_finite(case: Case, name: str, far: Any) -> None:
    assert np.isfinite(far(name)["value"][number_of(case)])
    if not all_finite(far(name)["gradient"]):
        assert all_finite(of(case, one_by_one(name))[1])
    broken = {key: number for key, number in far(name)["metrics"][case.name].items() if not np.all(np.isfinite(number))}
    assert not broken


@every
def test_where_nothing_counts_there_is_no_loss(case: Case, far: Any) -> None:
    assert far("nothing_counted")["value"][number_of(case)] == 0
    if any(np.any(leaf) for leaf in jax.tree.leaves(far("nothing_counted")["gradient"])):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(of(case, one_by_one("nothing_counted"))[1]))


@every
def test_bfloat16_params_give_the_loss_up_to_their_rounding(case: Case, plain: Any, far: Any) -> None:
    value = far("plain")["value"][number_of(case)]
    assert value == pytest.approx(of(case, plain())[0], rel=0.1, abs=0.1)


# ----------------------------------------------------------------------------------------------------------------
# hyper-parameters and errors


def test_float_hyperparameters_do_not_recompile(plain: Any, float64: None) -> None:
    """All of them changed at once: every loss that has one changes, and nothing is traced again."""
    before = plain()
    given = setting("float64", full_batch())
    layout, arrays = pack(program().cases, given.batch)
    changed = jax.tree.map(lambda leaf: leaf * 1.01, program().functions)
    traces = TRACES["gradients"]
    after = program().packed(
        given.moves, given.reference, given.state, layout, arrays, microbatches=2, functions=changed
    )
    assert TRACES["gradients"] == traces
    dead = [
        case.name
        for number, case in enumerate(program().cases)
        if any(leaf * 1.01 != leaf for leaf in jax.tree.leaves(case.loss))
        and before["value"][number] == after["value"][number]
    ]
    assert not dead


OPTIONAL = ("preference", "pair_weight", "reward", "advantage", "returns", "mask", "completions", "prompts", "views")


def without(batch: Batch, field: str) -> Batch:
    return batch.replace(**{field: {} if isinstance(getattr(batch, field), Mapping) else None})


@every
def test_a_loss_needs_the_fields_that_it_declares_and_no_others(case: Case) -> None:
    """It runs on a batch without all others, and says in a ConfigError which of its own is missing. So without a mask
    all valid tokens count, and without pair weights every pair counts 1: no loss declares those."""
    declared = needs_of(case.loss)
    assert declared <= {*OPTIONAL} - {"mask", "pair_weight"}
    case_as_is, batch = dataclasses.replace(case, fields=as_is), case.fields(full_batch(dtype=np.float32))
    arguments = parameters(1), parameters(2), extra_state([case])
    alone(case_as_is, *arguments, functools.reduce(without, {*OPTIONAL} - declared, batch))
    for field in declared:
        with pytest.raises(ConfigError, match=field.removesuffix("s")) as error:
            alone(case_as_is, *arguments, without(batch, field))
        assert len(str(error.value)) > 20


def test_jax_is_as_it_was() -> None:
    """The differences replace stop_gradient for a while."""
    assert not jnp.any(jax.grad(lambda x: jax.lax.stop_gradient(x) ** 2)(2.0))
