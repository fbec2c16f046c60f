"""Low-rank adapters over frozen weights: the same numbers as the merged weights, and no gradient of a whole matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError
from alignjax.models import Adapted, lora, quantize, unrolled
from alignjax.types import Params
from tests.support.tiny import as_jax, difference, gradient, model, parameters, ragged, scorer

NETWORK = model(layers=2)
BATCH = as_jax(ragged(seed=1))
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=BATCH.tokens.shape), jnp.float32)
KEY = jax.random.key(0)
ALPHA = 5.0


def adapters(seed: int = 0, **options: Any) -> Params:
    """Adapters that have learned something: b is not 0."""
    fresh = lora.init(jax.random.key(seed), parameters(NETWORK), **{"rank": 3, **options})
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(seed + 1), leaf.shape), fresh)


def adapted(small: Params, base: Params | None = None) -> Params:
    return lora.adapt(parameters(NETWORK) if base is None else base, small, alpha=ALPHA)


def test_an_adapter_that_is_new_changes_no_bit() -> None:
    params = parameters(NETWORK)
    fresh = lora.adapt(params, lora.init(KEY, params, rank=3), alpha=ALPHA)
    np.testing.assert_array_equal(scorer(NETWORK)(fresh, BATCH), scorer(NETWORK)(params, BATCH))


def test_adapters_are_small_and_born_as_they_should_be() -> None:
    params = parameters(NETWORK)
    small = lora.init(KEY, params, rank=3, targets="q|down")
    shapes = jax.tree.map(lambda leaf: leaf.shape, small)
    assert shapes == {"layers": {"q": {"a": (2, 16, 3), "b": (2, 3, 16)}, "down": {"a": (2, 24, 3), "b": (2, 3, 16)}}}
    for name, width in (("q", 16), ("down", 24)):
        a = np.asarray(lora.init(KEY, params, rank=200, targets=name)["layers"][name]["a"])
        # uniform: no number above the bound, and the variance of a uniform one, 1 / (3 D)
        assert np.abs(a).max() <= width**-0.5
        np.testing.assert_allclose(a.var(), 1 / (3 * width), rtol=0.05)
        assert not np.allclose(a[0], a[1])
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(lora.init(KEY, half))} == {jnp.dtype("float32")}


def test_adapters_over_weights_are_the_merged_weights() -> None:
    """Scores, and gradients by the chain rule from those of the merged weights W + s a b: s dW b^T and s a^T dW."""
    small = adapters()
    merged = lora.merged(adapted(small))
    assert jax.tree.structure(merged) == jax.tree.structure(parameters(NETWORK))

    def weighted(small: Params) -> Any:
        scores = scorer(NETWORK)(adapted(small), BATCH)
        return jnp.sum(scores * WEIGHTS), scores

    by_merged, expected_scores = gradient(NETWORK)(merged, BATCH, WEIGHTS)
    by_small, scores = jax.jit(jax.grad(weighted, has_aux=True))(small)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-5)
    for name, found in by_small["layers"].items():
        whole, parts = by_merged["layers"][name], small["layers"][name]
        expected = {
            "a": ALPHA / 3 * jnp.einsum("ldf,lrf->ldr", whole, parts["b"]),
            "b": ALPHA / 3 * jnp.einsum("ldr,ldf->lrf", parts["a"], whole),
        }
        assert difference(expected, found) < 1e-4, name


def test_layers_one_by_one_over_4_bits() -> None:
    """What decode runs, of adapters over a quantized base (QLoRA)."""
    whole = adapted(adapters(), quantize(parameters(NETWORK), bits=4))
    _, expected = gradient(NETWORK)(lora.merged(whole), BATCH, WEIGHTS)
    np.testing.assert_allclose(scorer(NETWORK)(unrolled(whole), BATCH), expected, atol=3e-5)


def test_scales() -> None:
    small = {"layers": {"q": {"a": jnp.ones((1, 2, 4)), "b": jnp.ones((1, 4, 2))}}}
    zeros = {"layers": {"q": jnp.zeros((1, 2, 2))}}
    plain = lora.merged(lora.adapt(zeros, small, alpha=8.0))["layers"]["q"]
    stabilised = lora.merged(lora.adapt(zeros, small, alpha=8.0, rank_stabilised=True))["layers"]["q"]
    np.testing.assert_allclose(plain, 8 / 4 * 4)
    np.testing.assert_allclose(stabilised, 8 / 2 * 4)


def test_a_mixture_adds_what_adapters_stand_for() -> None:
    """base + 0.25 (A - base) + 0.75 (B - base), of the merged weights: exact, though of rank 6."""
    own = {"weights": jnp.array([0.25, 0.75])}
    trees = {"one": adapted(adapters(0)), "two": adapted(adapters(7))}
    mixed = lora.mixed(own, trees.__getitem__, of=("one", "two"))
    assert mixed["layers"]["q"].a.shape == (2, 16, 6)
    assert mixed["embed"] is parameters(NETWORK)["embed"]
    one, two = (lora.merged(tree) for tree in trees.values())
    either = {"base": parameters(NETWORK), **trees}
    halved = lora.mixed({"weights": jnp.array([0.5, 0.5])}, either.__getitem__, of=("base", "one"))
    assert difference(jax.tree.map(lambda a, b: (a + b) / 2, parameters(NETWORK), one), lora.merged(halved)) < 1e-5
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, one, two)
    assert difference(expected, lora.merged(mixed)) < 1e-5


def products(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of the results of all matrix products in a program, and in those inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.shape
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(item, "eqns"):
                    yield from products(item)


@pytest.mark.parametrize("changes", [{}, {"remat": "layer"}, {"bits": 4}], ids=str)
def test_no_gradient_of_a_whole_matrix_is_made(changes: dict[str, Any]) -> None:
    """In the gradient by the weights there are products of the shape of each; in that by adapters there are none, of
    the matrices that have adapters as of those that have not, nor of the head."""
    changes = dict(changes)
    bits = changes.pop("bits", None)
    network = model(**changes, layers=2)
    params = parameters(NETWORK)
    base = params if bits is None else quantize(params, bits=bits)
    score = scorer(network)

    def by(function: Any, tree: Params) -> set[tuple[int, ...]]:
        program = jax.make_jaxpr(jax.grad(lambda tree: jnp.sum(score(function(tree), BATCH))))(tree)
        return {shape for shape in products(program.jaxpr) if len(shape) == 2}

    small = lora.init(KEY, params, rank=3, targets="q|down")
    matrices = {(16, 16), (16, 8), (16, 24), (24, 16), (16, 23)}
    assert matrices <= by(lambda tree: tree, params)
    assert by(lambda tree: lora.adapt(base, tree, alpha=ALPHA), small) == {(16, 3), (3, 16), (24, 3)}


def test_what_is_named_is_trained_whole() -> None:
    """Small heads by default: a value head beside the adapters of its trunk."""
    network = model(layers=1, outputs=("value",))
    params = parameters(network)
    small = lora.init(KEY, params, rank=2, targets="q")
    assert set(small["heads"]) == {"value"}
    np.testing.assert_array_equal(small["heads"]["value"]["kernel"], params["heads"]["value"]["kernel"])
    moved = jax.tree.map(lambda leaf: leaf + 1, small)
    made = lora.adapt(params, moved, alpha=ALPHA)
    assert isinstance(made["layers"]["q"], Adapted)
    np.testing.assert_array_equal(made["heads"]["value"]["bias"], params["heads"]["value"]["bias"] + 1)
    assert made["heads"]["lm"]["kernel"] is params["heads"]["lm"]["kernel"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"targets": "q_proj"}, "called 'q_proj'; there are: .*gate"),
        ({"targets": "norm"}, "no"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lora.init(KEY, parameters(NETWORK), **options)
