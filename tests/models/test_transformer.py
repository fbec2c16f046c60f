"""One function scores ragged prompts and completions: against a plain transformer, one row per completion, and itself
under every change that must not matter."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError
from alignjax.models import TransformerConfig, parameter_count, transformer, unrolled
from alignjax.types import Array, Batch
from tests.support.plain_transformer import token_logps
from tests.support.tiny import (
    SIZES,
    all_finite,
    as_jax,
    context_of,
    difference,
    gradient,
    model,
    parameters,
    ragged,
    scorer,
)

BATCH = as_jax(ragged(seed=1, n=3, gaps=True))
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=BATCH.tokens.shape), jnp.float32)


def scored(window: int | None, batch: Batch = BATCH, weights: Array = WEIGHTS, **changes: Any) -> tuple[Array, Any]:
    """Log-probs, and the gradient of their weighted sum."""
    network = model(window=window, **changes)
    params = parameters(model(window=window))
    grad, logps = gradient(network)(params, batch, weights)
    return logps, grad


@pytest.fixture(scope="module", params=[None, 5], ids=["all", "window5"])
def plain(request: pytest.FixtureRequest) -> tuple[int | None, Array, Any]:
    return request.param, *scored(request.param)


def rows_of(batch: Batch) -> Batch:
    """One row per completion, each with a prompt of its own."""
    b, n, t = batch.tokens.shape
    apart = {name: getattr(batch, name).reshape(b * n, 1, t) for name in ("tokens", "valid")}
    return Batch(prompt=jnp.repeat(batch.prompt, n, 0), prompt_valid=jnp.repeat(batch.prompt_valid, n, 0), **apart)


def repadded(batch: Batch, prompts: int, completions: int, side: str) -> Batch:
    """The same texts with `prompts` and `completions` more padding, the prompts' on the given side."""
    batch = jax.tree.map(np.asarray, batch)
    width = batch.prompt.shape[1] + prompts
    prompt, on = np.full((len(batch.prompt), width), 7, np.int32), np.zeros((len(batch.prompt), width), bool)
    for row, (tokens, valid) in enumerate(zip(batch.prompt, batch.prompt_valid, strict=True)):
        length = valid.sum()
        where = slice(0, length) if side == "right" else slice(width - length, width)
        prompt[row, where], on[row, where] = tokens[valid], True
    grow = lambda leaf, fill: np.pad(leaf, [(0, 0), (0, 0), (0, completions)], constant_values=fill)  # noqa: E731
    return as_jax(Batch(prompt=prompt, prompt_valid=on, tokens=grow(batch.tokens, 9), valid=grow(batch.valid, False)))


def test_against_a_plain_transformer(plain: tuple[int | None, Array, Any]) -> None:
    """Ragged left-padded prompts, gaps inside completions, grouped queries, windows: all at once."""
    window, logps, _ = plain
    params = jax.tree.map(np.asarray, parameters(model(window=window)))
    for b in range(4):
        prompt = np.asarray(BATCH.prompt[b])[np.asarray(BATCH.prompt_valid[b])].tolist()
        for n in range(3):
            valid = np.asarray(BATCH.valid[b, n])
            completion = np.asarray(BATCH.tokens[b, n])[valid].tolist()
            expected = token_logps(params, model(window=window).config, prompt, completion)
            np.testing.assert_allclose(np.asarray(logps[b, n])[valid], expected, atol=1e-5)
            assert not np.any(np.asarray(logps[b, n])[~valid])


def test_one_row_per_completion_is_the_same(plain: tuple[int | None, Array, Any]) -> None:
    window, logps, grad = plain
    b, n, t = BATCH.tokens.shape
    apart, apart_grad = scored(window, rows_of(BATCH), WEIGHTS.reshape(b * n, 1, t))
    np.testing.assert_allclose(logps, apart.reshape(b, n, t), atol=1e-5)
    assert difference(grad, apart_grad) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_number(side: str, plain: tuple[int | None, Array, Any]) -> None:
    window, logps, grad = plain
    weights = jnp.pad(WEIGHTS, [(0, 0), (0, 0), (0, 4)])
    padded, padded_grad = scored(window, repadded(BATCH, 3, 4, side), weights)
    np.testing.assert_allclose(logps, padded[..., :-4], atol=1e-5)
    assert not np.any(padded[..., -4:])
    assert difference(grad, padded_grad) < 1e-5


def test_gaps_change_no_number(plain: tuple[int | None, Array, Any]) -> None:
    """Closing the gaps inside completions moves log-probs to other slots and changes none."""
    window, logps, _ = plain
    order = jnp.argsort(~BATCH.valid, axis=-1, stable=True)
    assert np.any(np.asarray(order) != np.arange(order.shape[-1]))
    closed = BATCH.replace(
        tokens=jnp.take_along_axis(BATCH.tokens, order, -1), valid=jnp.take_along_axis(BATCH.valid, order, -1)
    )
    network = model(window=window)
    moved = jnp.take_along_axis(logps, order, -1)
    np.testing.assert_allclose(moved, scorer(network)(parameters(network), closed), atol=1e-5)


@pytest.mark.parametrize("changes", [{"remat": "layer"}, {"group_chunks": 3}], ids=str)  # fmt: skip
def test_memory_savers_change_no_number(changes: dict[str, Any]) -> None:
    logps, grad = scored(None)  # compiled once for all tests
    saved, saved_grad = scored(None, **changes)
    np.testing.assert_allclose(logps, saved, atol=1e-5)
    assert difference(grad, saved_grad) < 1e-5


def test_layers_one_by_one_are_layers_scanned() -> None:
    logps, grad = scored(None)
    network = model()
    apart, apart_logps = gradient(network)(unrolled(parameters(network)), BATCH, WEIGHTS)
    np.testing.assert_allclose(logps, apart_logps, atol=2e-6)
    stacked = {**apart, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart["layers"])}
    assert difference(grad, stacked) < 2e-6


def test_group_chunks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="3 completions do not split into group_chunks=2"):
        scorer(model(group_chunks=2))(parameters(model()), BATCH)


@pytest.mark.parametrize(("param_dtype", "tied"), [("float32", False), ("bfloat16", True)])
def test_bfloat16(param_dtype: str, tied: bool) -> None:
    """Half precision stays within its rounding of float32, log-probs come out in float32 and gradients in the params'
    dtype."""
    network = model(dtype="bfloat16", param_dtype=param_dtype, tied=tied)
    params = parameters(network)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(param_dtype)}
    grad, logps = gradient(network)(params, BATCH, WEIGHTS)
    assert logps.dtype == jnp.float32
    assert all_finite(grad)
    assert {leaf.dtype for leaf in jax.tree.leaves(grad)} == {jnp.dtype(param_dtype)}
    exact = scorer(model(tied=tied))(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), BATCH)
    assert 0 < float(jnp.abs(logps - exact).max()) < 0.15


def test_an_empty_completion_and_an_empty_prompt_are_finite() -> None:
    batch = BATCH.replace(valid=BATCH.valid.at[0].set(False), prompt_valid=BATCH.prompt_valid.at[1].set(False))
    logps, grad = scored(None, batch)
    assert all_finite((logps, grad))
    assert not np.any(logps[0])


def test_a_token_sees_no_later_one() -> None:
    network, t = model(), 3
    params = parameters(network)
    full = BATCH.replace(valid=jnp.ones_like(BATCH.valid))
    logps = scorer(network)(params, full)
    other = scorer(network)(params, full.replace(tokens=full.tokens.at[..., t].set(5).at[..., t + 1 :].set(6)))
    np.testing.assert_array_equal(logps[..., :t], other[..., :t])
    assert np.all(np.abs(np.asarray(logps - other)[..., t + 1]) > 0)


def test_heads_read_before_or_after_a_token() -> None:
    """A value knows what was before its token; a reward and a preference know the token too."""
    network = model(outputs=("value", "reward", "preference"))
    params = parameters(network)
    full = BATCH.replace(valid=jnp.ones_like(BATCH.valid))
    changed = full.replace(tokens=full.tokens.at[..., 2].set((full.tokens[..., 2] + 1) % SIZES["vocab"]))
    first_to_differ = {"value": 3, "reward": 2, "preference": 2}
    outputs = tuple(f"policy:{head}" for head in first_to_differ)
    score = jax.jit(lambda batch: context_of(network, policy=params).score(outputs, batch))
    answers = score(full), score(changed)
    for head, first in first_to_differ.items():
        one, other = (answer[f"policy:{head}"] for answer in answers)
        assert one.shape == full.tokens.shape
        differs = np.abs(np.asarray(one - other)).max(axis=(0, 1)) > 0
        assert differs.tolist() == [slot >= first for slot in range(full.tokens.shape[2])], head


def test_edits_in_and_states_out() -> None:
    """An edit at a site is added there and nowhere else; zeros change nothing."""
    network = model()
    params = parameters(network)
    width, layers = SIZES["width"], SIZES["layers"]
    hidden = jax.jit(network.hidden, static_argnums=2)
    plain = hidden(params, BATCH, ("block", "embed"))
    assert plain.states["block"].shape == (*BATCH.tokens.shape, layers, width)
    zero = {"edits": {"block": jnp.zeros((layers, width)), "embed": jnp.zeros(width)}}
    np.testing.assert_array_equal(hidden({**params, **zero}, BATCH, ("block", "embed")).after, plain.after)
    push = jnp.zeros((layers, width)).at[1].set(2.0)
    edited = hidden({**params, "edits": {"block": push, "embed": jnp.zeros(width)}}, BATCH, ("block", "embed"))
    np.testing.assert_array_equal(edited.states["block"][..., 0, :], plain.states["block"][..., 0, :])
    np.testing.assert_allclose(edited.states["block"][..., 1, :], plain.states["block"][..., 1, :] + 2, atol=1e-5)
    with pytest.raises(ConfigError, match=r"no site 'blok'; .*Did you mean 'block'"):
        network.hidden({**params, "edits": {"blok": push}}, BATCH)
    with pytest.raises(ConfigError, match="no site 'head'"):
        network.hidden(params, BATCH, ("head",))


def test_one_model_per_configuration() -> None:
    config = TransformerConfig(**SIZES)
    assert transformer(config) is transformer(dataclasses.replace(config))
    params = parameters(transformer(config))
    axes = transformer(config).axes
    assert parameter_count(transformer(config)) == sum(leaf.size for leaf in jax.tree.leaves(params))
    jax.tree.map(lambda leaf, names: np.testing.assert_equal(leaf.ndim, len(names)), params, axes)
    layers = params["layers"]["q"]
    assert not np.array_equal(layers[0], layers[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 4, "kv_heads": 3}, "heads=4 is not a multiple of kv_heads=3"),
        ({"head_dim": 5}, "head_dim=5 is odd"),
        ({"remat": "all"}, "remat='all'"),
        ({"outputs": ("valeu",)}, "unknown model output 'valeu'. Did you mean 'value'"),
    ],
)
def test_impossible_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        transformer(TransformerConfig(**{**SIZES, **changes}))
