"""Fused attention is plain attention, forward and gradient: splash attention in interpret mode, and the masks that
cuDNN is given, under XLA's own implementation of the same call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError, Packing
from alignjax.models import TransformerConfig, kernels
from alignjax.models.attention import Joint, Past, masks, positions_of
from alignjax.models.kv_cache import Cache, Segment
from alignjax.models.packing import into_rows, pack, packed_mask
from tests.support import tiny

H, K, SIZE = 4, 2, 8
KERNELS = pytest.mark.parametrize("kernel", ["cudnn", "splash"])


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "flash", functools.partial(kernels.flash, implementation="xla"))


def same(plain: Any, row: Any, shape: tuple[int, int, int], there: Any, softcap: float | None) -> None:
    """That two ways to attend agree on random queries, keys and values [B,N,S] where `there`, and so do gradients."""
    draw = np.random.default_rng(0)
    q, k, v, weight = (draw.normal(size=(*shape, heads, SIZE)).astype(np.float32) for heads in (H, K, K, H))
    weight = weight * np.asarray(there)[..., None, None]

    def summed(past: Any) -> Callable[..., Any]:
        def total(q: Any, k: Any, v: Any) -> Any:
            mixed = past.attend(q, k, v, 0.3, softcap)[1]
            return jnp.sum(mixed * weight), mixed * there[..., None, None]

        return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))

    wanted, found = (summed(past)(q, k, v) for past in (plain, row))
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5)


def joint(window: int | None, batch: Any) -> tuple[Joint, tuple[Any, Any, Any]]:
    """A prompt and its completions, and their masks."""
    prompt, valid = batch.prompt_valid[:, None], batch.valid
    first = positions_of(Cache(), prompt)
    shared = Cache(shared=Segment((), prompt[:, 0], first[:, 0]))
    found = (
        masks(window, Cache(), prompt, first)[1],
        *masks(window, shared, valid, positions_of(shared, valid))[:2],
    )
    return Joint(*found, batch.prompt.shape[1], batch.tokens.shape[1]), found


@pytest.mark.parametrize(
    ("kernel", "window", "softcap"), [("cudnn", 3, None), ("splash", None, None), ("splash", 3, 2.0)]
)
def test_a_prompt_and_its_completions(kernel: str, window: int | None, softcap: float | None) -> None:
    batch = tiny.as_jax(tiny.ragged(1, rows=3, n=2, p=6, t=7))
    plain, found = joint(window, batch)
    kinds = (None, window), [joint(None, batch)[1], found]
    if window is None:
        kinds = (window,), [found]
    row = kernels.joint_row(kernel, *kinds, batch.prompt_valid, batch.valid)
    row = dataclasses.replace(row, local=window and jnp.array(True))  # as in a scan over two kinds of layers
    there = jnp.concatenate([batch.prompt_valid, batch.valid.reshape(3, -1)], axis=1)[:, None]
    same(plain, row, (3, 1, 6 + 2 * 7), there, softcap)


@KERNELS
def test_packed_rows_and_prefill(kernel: str) -> None:
    window = 3
    batch = tiny.as_jax(tiny.ragged(2, rows=4, n=1, p=6, t=7))
    packed = pack(Packing(prompts=2, length=22), batch.prompt_valid, batch.valid)
    first = positions_of(Cache(), batch.prompt_valid[:, None])[:, 0]
    rest = positions_of(Cache(shared=Segment((), batch.prompt_valid, first)), batch.valid)
    mask = packed_mask(packed, into_rows(packed, first, rest), window)
    row = kernels.packed_row(kernel, (window,), [mask], packed, 1)
    same(Past(None, None, None, mask, None), row, (2, 1, 22), packed.filled[:, None], None)

    prompt = batch.prompt_valid[:, None]
    mask = masks(window, Cache(), prompt, positions_of(Cache(), prompt))[1]
    row = kernels.plain_row(kernel, (window,), [mask], prompt)
    same(Past(None, None, None, mask, None), row, (4, 1, 6), prompt, None)


def test_a_model_of_two_kinds_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local and global layers in one scan: log-probs and gradients of a whole model; and the prefill of its sampler."""
    monkeypatch.setattr(kernels, "platform", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    plain, fused = (tiny.model(window=4, local=(True, False), attention=kernel) for kernel in ("xla", "splash"))
    params, batch = tiny.parameters(plain), tiny.as_jax(tiny.ragged(3, rows=2))
    weights = np.random.default_rng(0).normal(size=(2, 2, 7)).astype(np.float32)
    wanted, found = (tiny.gradient(network)(params, batch, weights) for network in (plain, fused))
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5)
    assert tiny.difference(wanted[0], found[0]) < 1e-4
    given = (params, None, batch.prompt[:, None], batch.prompt_valid[:, None])
    states, kept = zip(*(jax.jit(network.extend)(*given)[:2] for network in (plain, fused)), strict=True)
    np.testing.assert_allclose(*(np.asarray(state)[:, 0][batch.prompt_valid] for state in states), atol=2e-5)
    assert jax.tree.map(jnp.shape, kept[0]) == jax.tree.map(jnp.shape, kept[1])


def test_a_window_over_gaps_is_not_answered_wrongly() -> None:
    """Splash attention counts slots where the model counts tokens."""
    batch = tiny.as_jax(tiny.ragged(1, rows=3, gaps=True))
    valid = [x.reshape(3, 1, -1, 1, 1) for x in (batch.prompt_valid, batch.valid)]
    q = jnp.concatenate(valid, axis=2) * jnp.ones((1, 1, 1, H, SIZE))
    for window, broken in ((None, False), (3, True)):
        row = kernels.joint_row("splash", (window,), [], batch.prompt_valid, batch.valid)
        mixed = row.attend(q, q[..., :K, :], q[..., :K, :], 1.0, None)[1]
        assert bool(jnp.isnan(mixed).all()) == broken


def test_kernels_are_chosen_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    small = functools.partial(TransformerConfig, vocab=8, width=32, heads=4)
    capped = dataclasses.replace(small(dtype="bfloat16"), attn_softcap=30.0)
    wanted = {
        ("cpu", 1): ("xla", "xla", "xla"),
        ("gpu", 8): ("cudnn", "xla", "xla"),
        ("tpu", 1): ("splash", "splash", "splash"),
        ("tpu", 8): ("xla", "xla", "xla"),
    }
    for (device, count), kernels_ in wanted.items():
        monkeypatch.setattr(kernels, "platform", lambda device=device: device)
        monkeypatch.setattr(jax, "device_count", lambda count=count: count)
        configs = (small(dtype="bfloat16"), small(), capped)
        assert tuple(kernels.choose(dataclasses.replace(one, attention="auto")) for one in configs) == kernels_
    with pytest.raises(ConfigError, match="attention='cudnn' runs on a gpu; this is a tpu"):
        kernels.choose(small(dtype="bfloat16", attention="cudnn"))
    with pytest.raises(ConfigError, match="runs on one device"):
        kernels.choose(small(attention="splash"))


def test_auto_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """To plain attention, where the device's kernel can run neither the config nor the rows."""
    monkeypatch.setattr(kernels, "platform", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert kernels.choose(TransformerConfig(vocab=8, width=32, attention="auto", group_chunks=2)) == "xla"
    batch = tiny.as_jax(tiny.ragged(1, rows=4))
    plain, auto = (tiny.model(layers=1, attention=attention) for attention in ("xla", "auto"))
    params = tiny.parameters(plain)

    def rows(network: Any) -> str:
        return str(jax.make_jaxpr(lambda: network.hidden(params, batch, (), Packing(prompts=4, length=56)))())

    assert rows(auto) == rows(plain)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": "cudn"}, "Did you mean 'cudnn'"),
        ({"attention": "cudnn"}, "bfloat16 or float16"),
        ({"attention": "cudnn", "dtype": "bfloat16", "attn_softcap": 50.0}, "soft cap"),
        ({"attention": "cudnn", "dtype": "bfloat16", "head_dim": 12}, "head_dim"),
        ({"attention": "splash", "group_chunks": 2}, "group_chunks"),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TransformerConfig(vocab=8, width=32, **changes)


def test_splash_attention_refuses_packed_groups() -> None:
    batch = tiny.as_jax(tiny.ragged(1, rows=4))
    packed = pack(Packing(prompts=4, length=56), batch.prompt_valid, batch.valid)
    with pytest.raises(ConfigError, match="2 completions a prompt does not go with attention='splash'"):
        kernels.packed_row("splash", (None,), [], packed, 2)
