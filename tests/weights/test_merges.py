"""Merges of trees, by their ends, invariances and expectations, and against plain NumPy where that says something
else."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import weights
from alignjax.config import ConfigError
from alignjax.weights.leaves import Leaf, thresholds

KEY = jax.random.key(3)
GIVEN = (0.2, 0.5, 0.8)
OF_ALL = {
    "linear": {"weights": GIVEN}, "karcher": {"weights": GIVEN}, "model_stock": {}, "p_soups": {"preferences": GIVEN},
    "task_arithmetic": {"weights": GIVEN, "scale": 0.7}, "ties": {"weights": GIVEN, "density": (0.3, 0.5, 0.9)},
    "dare": {"weights": GIVEN, "density": 0.6}, "della": {"weights": GIVEN, "density": 0.6, "epsilon": 0.2},
}  # fmt: skip


def trees(dtype: str = "float32") -> list[dict]:
    """A base and three models, of which two went partly the same way."""
    rng = np.random.default_rng(0)
    base = {"w": rng.normal(size=(6, 5)), "b": rng.normal(size=7)}
    way = {name: rng.normal(size=leaf.shape) for name, leaf in base.items()}
    models = [
        {name: leaf + shared * way[name] + 0.3 * rng.normal(size=leaf.shape) for name, leaf in base.items()}
        for shared in (0.0, 0.4, 0.5)
    ]
    return [
        {**{name: jnp.asarray(leaf, dtype) for name, leaf in tree.items()}, "ids": jnp.arange(4)}
        for tree in (base, *models)
    ]


def merged(name: str, models: list[dict], base: dict, **changes) -> dict:
    return getattr(weights, name)(models, base, KEY, **{**OF_ALL[name], **changes})


def assert_close(one, other, tolerance: float = 2e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


@pytest.mark.parametrize("name", OF_ALL)
def test_dtypes_whole_numbers_and_jit(name) -> None:
    base, *models = trees("bfloat16")
    made = merged(name, models, base)
    assert {leaf.dtype for key, leaf in made.items() if key != "ids"} == {jnp.dtype("bfloat16")}
    assert np.array_equal(made["ids"], base["ids"])
    base, *models = trees()
    assert_close(jax.jit(functools.partial(merged, name))(models, base), merged(name, models, base))


@pytest.mark.parametrize("name", sorted(OF_ALL.keys() - {"dare", "della"}))
def test_models_may_stand_in_any_order(name) -> None:
    base, *models = trees()
    order = [2, 0, 1]
    values = {
        key: tuple(value[k] for k in order) if isinstance(value, tuple) else value
        for key, value in OF_ALL[name].items()
    }
    permuted = merged(name, [models[k] for k in order], base, **values)
    assert_close(permuted, merged(name, models, base))


@pytest.mark.parametrize("name", OF_ALL)
def test_equal_models_are_their_own_merge(name) -> None:
    base, model, *_ = trees()
    changes = {"normalize": True, "scale": 1.0} if "weights" in OF_ALL[name] else {}
    changes |= {"density": 1.0} if "density" in OF_ALL[name] else {}
    changes |= {"epsilon": 0.0} if name == "della" else {}
    changes = {} if name == "karcher" else {"normalize": True} if name == "linear" else changes
    assert_close(merged(name, [model] * 3, base, **changes), model, 1e-5)


def test_slerp_has_its_ends_keeps_the_norm_and_halves_the_angle() -> None:
    one, other = ({"w": leaf / jnp.linalg.norm(leaf)} for leaf in (trees()[0]["w"], trees()[1]["w"]))
    assert_close(weights.slerp([one, other], t=0.0), one)
    assert_close(weights.slerp([one, other], t=1.0), other)
    part = weights.slerp([one, other], t=0.3)["w"]
    angle = float(jnp.arccos(jnp.vdot(one["w"], other["w"])))
    assert jnp.linalg.norm(part) == pytest.approx(1, abs=1e-6)
    assert float(jnp.arccos(jnp.vdot(part, one["w"]))) == pytest.approx(0.3 * angle, abs=2e-3 * angle)
    assert_close(weights.karcher([one, other], weights=(0.7, 0.3))["w"], part, 1e-5)
    assert_close(weights.slerp([one, one], t=0.3), one)
    there = weights.slerp([one, {"w": -one["w"]}], t=0.3)["w"]
    assert_close(there, 0.4 * one["w"])


def test_the_karcher_mean_has_no_pull_left() -> None:
    """The tangents towards the models cancel at the mean, of models of very different norms."""
    models = [{"w": scale * tree["w"]} for scale, tree in zip((1.0, 3.0, 0.2), trees()[1:], strict=True)]
    mean = np.asarray(weights.karcher(models, weights=GIVEN, max_iter=50, tol=0.0)["w"], np.float64).ravel()
    norms = [np.linalg.norm(model["w"]) for model in models]
    assert np.linalg.norm(mean) == pytest.approx(np.average(norms, weights=GIVEN), rel=1e-5)
    mean /= np.linalg.norm(mean)
    pull = np.zeros_like(mean)
    for weight, model in zip(GIVEN, models, strict=True):
        unit = np.asarray(model["w"], np.float64).ravel() / np.linalg.norm(model["w"])
        angle = np.arccos(unit @ mean)
        pull += weight * angle / np.sin(angle) * (unit - np.cos(angle) * mean)
    assert np.abs(pull).max() < 1e-5


def test_model_stock_is_perpendicular_from_the_center() -> None:
    """With differences of one length and one mutual angle, the merge is the point of the plane through the models and
    the base's mean line that is nearest to the center of such models: its difference from it is perpendicular."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(40, 4)))[0].T
    base, way, apart = rng.normal(size=40), axes[0], axes[1:]
    models = [base + 0.8 * way + 0.6 * noise for noise in apart]  # cos = 0.64
    made = weights.model_stock(
        [{"w": jnp.asarray(model, jnp.float32)} for model in models], {"w": jnp.asarray(base, jnp.float32)}
    )
    center = base + 0.8 * way
    np.testing.assert_allclose((made["w"] - center) @ (np.mean(models, 0) - base), 0, atol=1e-5)
    opposed = [{"w": jnp.float32([1.0, 2.0])}, {"w": jnp.float32([-1.0, -2.0])}]
    zero = {"w": jnp.zeros(2)}
    assert_close(weights.model_stock(opposed, zero), zero)


def test_task_vectors_add_and_expo_extrapolates() -> None:
    base, one, other, _ = trees()
    both = weights.task_arithmetic([one, other], base, weights=(0.4, -0.7), scale=0.5)["w"]
    np.testing.assert_allclose(
        both - base["w"], 0.2 * (one["w"] - base["w"]) - 0.35 * (other["w"] - base["w"]), atol=1e-6
    )
    beyond = weights.expo([one], base, alpha=0.3)
    back = weights.linear([beyond, base], weights=(1 / 1.3, 0.3 / 1.3))
    assert_close(back["w"], one["w"])
    assert_close(weights.expo([one], base, alpha=-1.0)["w"], base["w"])


def test_ties_keeps_disjoint_supports_whole_and_drops_the_outvoted() -> None:
    base = {"w": jnp.zeros(8)}
    models = [{"w": jnp.float32([3, -2, 0, 0, 0, 0, 5, 0.1])}, {"w": jnp.float32([0, 0, 4, 1, 0, 0, -7, 0.2])}]
    made = weights.ties(models, base, weights=(0.5, 2.0), density=0.5)["w"]
    # The last entry is the mean of 0.1 and 0.2 with weights 0.5 and 2; at the one before it 2 (-7) outvotes 0.5 (5).
    assert_close(made, jnp.float32([3, -2, 4, 1, 0, 0, -7, 0.18]))
    raw = weights.ties(models, base, weights=(0.5, 2.0), density=3 / 8, normalize=False, scale=0.5)["w"]
    assert_close(raw, jnp.float32([0.75, -0.5, 4, 1, 0, 0, -7, 0]))


def test_thresholds_are_those_of_a_sort_in_any_blocks() -> None:
    rng = np.random.default_rng(2)
    numbers = (rng.normal(size=(3, 500, 4)) * 10.0 ** rng.integers(-30, 5, (3, 500, 4))).astype(np.float32)
    numbers[1, :300] = 0
    rows = [jnp.zeros((500, 4)), *map(jnp.asarray, numbers)]
    blocks = [(start, tuple(row[start : start + 100] for row in rows)) for start in range(0, 500, 100)]
    found = thresholds(Leaf(lambda: blocks, 2000, 3), jnp.float32([0.05, 0.5, 1.0]))
    for k, count in enumerate((100, 1000, 2000)):
        assert found[k] == np.sort(np.abs(numbers[k]).ravel())[-count]


@pytest.mark.parametrize("name", ["dare", "della"])
def test_random_masks_change_nothing_in_expectation_and_are_drawn_apart(name) -> None:
    rng = np.random.default_rng(4)
    base = {"w": jnp.zeros((4000, 6))}
    row = rng.normal(size=(2, 6))
    models = [{"w": jnp.asarray(np.tile(each, (4000, 1)), jnp.float32)} for each in row]
    values = {**OF_ALL[name], "weights": (0.4, 0.9), "consensus": False, "normalize": False}
    made = np.asarray(getattr(weights, name)(models, base, KEY, **values)["w"])
    meant, error = np.array([0.4, 0.9]) @ row, made.std(0) / 4000**0.5
    assert (np.abs(made.mean(0) - meant) < 4.5 * error).all(), (made.mean(0), meant, error)
    alone = getattr(weights, name)(models[:1], base, KEY, **{**values, "weights": (1.0,)})["w"]
    kept = np.mean(np.asarray(alone) != 0, axis=0)
    order = np.argsort(np.abs(row[0]))
    expected = 0.6 + (0.2 * np.linspace(-1, 1, 6) if name == "della" else np.zeros(6))
    np.testing.assert_allclose(kept[order], expected, atol=4.5 * 0.5 / 4000**0.5)
    masks = [np.asarray(getattr(weights, name)([model], base, key, **{**values, "weights": (1.0,)})["w"]) != 0
             for model, key in ((models[0], KEY), (models[0], jax.random.key(8)))]  # fmt: skip
    assert 0.2 < np.mean(masks[0] != masks[1]) < 0.6


def test_what_a_merge_needs_is_said() -> None:
    base, one, other, third = trees()
    for call, words in (
        (lambda: weights.ties([one, other], weights=(1.0, 1.0)), "give base="),
        (lambda: weights.dare([one], base, weights=(1.0,)), "give key="),
        (lambda: weights.linear([one, other], weights=(1.0,)), "1 numbers for 2 models"),
        (lambda: weights.slerp([one, other, third], t=0.5), "karcher takes more"),
        (lambda: weights.linear([one], weights=(1.0,)), "nothing to merge"),
        (lambda: weights.linear([one, {"w": one["w"]}], weights=(1.0, 2.0)), "of one model"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()


@pytest.mark.parametrize("name", sorted(OF_ALL.keys() - {"model_stock"}))
def test_weights_that_add_up_to_0_are_no_shares(name) -> None:
    """Nothing is divided by 0: refused where numbers are known, and not looked at where they are traced."""
    base, *models = trees()
    option = "preferences" if name == "p_soups" else "weights"
    share = {} if name in ("linear", "karcher", "p_soups") else {"normalize": True}
    for numbers in ((0.1, 0.2, -0.3), (0.0, 0.0, 0.0)):
        with pytest.raises(ConfigError, match="add up to 0 and cannot be normalized"):
            merged(name, models, base, **{option: numbers}, **share)
    if name == "linear":
        zero = merged(name, models, base, weights=(0.1, 0.2, -0.3), normalize=False)
        assert np.isfinite(zero["w"]).all()
        assert np.isnan(jax.jit(lambda k: merged(name, models, base, weights=(k, 1.0, -1.0)))(0.0)["w"]).any()
