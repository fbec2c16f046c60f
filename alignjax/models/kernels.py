"""Fused attention: cuDNN on GPU, Pallas splash attention on TPU, for passes over whole rows of tokens.

A row is a prompt alone (prefill), a prompt and its N completions side by side (`attention.Joint`), or packed rows
(`models/packing.py`): one square attention each, under one mask that says what a completion may see of its prompt and
of itself, so that no score matrix is written to memory and gradients need no merging of partial softmaxes. What reads a
cache (decode, completions extended over a shared prompt) is bound by memory, not by scores, and stays in plain XLA.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, check_known
from alignjax.models.packing import Packed
from alignjax.types import Array

Windows: TypeAlias = Sequence[int | None]  # of the kinds of layers
ATTENTION = ("auto", "cudnn", "splash", "xla")
LANES = 128  # rows for splash attention are padded to multiples of it
BLOCKS = (512, 256, 128)
_NEEDS = {"cudnn": "gpu", "splash": "tpu"}


def _obstacle(kernel: str, config: Any) -> str:
    """Why a kernel cannot run a TransformerConfig, or ""."""
    if kernel != "xla" and config.group_chunks > 1:
        return "group_chunks > 1 extends completions over a cache, which no fused kernel here does"
    if kernel != "xla" and config.sinks:
        return "attention sinks are not built for fused kernels"
    if kernel == "cudnn":
        if config.attn_softcap is not None:
            return "cuDNN has no soft cap of attention scores (attn_softcap)"
        if config.dtype not in ("bfloat16", "float16"):
            return f"cuDNN computes in bfloat16 or float16, not in dtype={config.dtype!r}"
        if config.head_dim % 8 or config.head_dim > 256:
            return f"cuDNN needs a head_dim that is a multiple of 8 up to 256, not {config.head_dim}"
    return ""


def check_attention(config: Any) -> None:
    """Checks the `attention` of a TransformerConfig.

    Raises:
        ConfigError: It is unknown, or names a kernel that cannot run the config.
    """
    check_known(config.attention, ATTENTION, f"unknown attention {config.attention!r}")
    if config.attention != "auto" and (obstacle := _obstacle(config.attention, config)):
        raise ConfigError(f"attention={config.attention!r}: {obstacle}; write 'xla', or 'auto' for what can run")


def platform() -> str:
    """Returns the kind of device that kernels are chosen for; off it, a kernel is interpreted."""
    return jax.default_backend()


def choose(config: Any, machine: tuple[str, int] | None = None) -> str:
    """Chooses the attention kernel of a configuration. "auto" is that of the device, where it can run the config.

    Args:
        config: A TransformerConfig.
        machine: (platform, number of devices); by default those of this process.

    Returns:
        "xla", "cudnn" or "splash".

    Raises:
        ConfigError: The config names a kernel of another device, or splash attention on several.
    """
    on, devices = machine or (platform(), jax.device_count())
    if config.attention == "auto":
        fast = next((kernel for kernel, needed in _NEEDS.items() if needed == on), "xla")
        return "xla" if _obstacle(fast, config) or (fast == "splash" and devices > 1) else fast
    needed = _NEEDS.get(config.attention, on)
    if needed != on:
        raise ConfigError(f"attention={config.attention!r} runs on a {needed}; this is a {on}; write 'auto' or 'xla'")
    if config.attention == "splash" and devices > 1:
        raise ConfigError("attention='splash' runs on one device, and its kernel is not partitioned; write 'xla'")
    return config.attention


class Layout(NamedTuple):
    """A row of static shape: `prompt` slots, then n completions of t slots each; `window` is one of positions."""

    prompt: int
    n: int = 0
    t: int = 0
    window: int | None = None

    @property
    def size(self) -> int:
        return self.prompt + self.n * self.t


def _static_mask(layout: Layout, size: int) -> np.ndarray:
    """The slots that each slot sees, [size,size], were all filled: itself and what is in front of it, in the prompt or
    in its own completion. Slots beyond the layout see what is in front of them."""
    slot = np.arange(size)
    inside = slot - layout.prompt
    completion = (inside >= 0) & (slot < layout.size)
    part = np.where(completion, 1 + inside // max(layout.t, 1), 0)
    position = np.where(completion, layout.prompt + inside % max(layout.t, 1), slot)
    see = (slot <= slot[:, None]) & ((part == part[:, None]) | (part == 0))
    if layout.window is not None:
        see &= position[:, None] - position < layout.window
    return see


def _joined_mask(prompt: Array, shared: Array, own: Array) -> Array:
    """Joins the masks of `attention.Joint`, [B,1,1,1,P,P], [B,1,N,1,T,P] and [B,1,N,1,T,T], to one of the row
    [B,S,S]."""
    rows, n, t, p = own.shape[0], own.shape[2], own.shape[4], prompt.shape[-1]
    shared = jnp.broadcast_to(shared[:, 0, :, 0], (rows, n, t, p)).reshape(rows, n * t, p)
    within = own[:, 0, :, 0, :, None] & jnp.eye(n, dtype=bool)[None, :, None, :, None]
    top = jnp.concatenate([prompt[:, 0, 0, 0], jnp.zeros((rows, p, n * t), bool)], axis=2)
    return jnp.concatenate([top, jnp.concatenate([shared, within.reshape(rows, n * t, n * t)], axis=2)], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Row:
    """What the tokens of whole rows see, for a kernel; takes the place of `attention.Past` and `Joint`.

    masks: for cuDNN, [R,S,S] of each kind of layer. ids: for splash attention, [R,S], tokens with different ones do not
    see each other. even: for it, whether the slots are where the static masks take them to be (if not, all is NaN);
    None if nothing depends on that. local: which kind a layer is, None if all are alike. layouts: for splash attention,
    the static masks of the kinds. keep: whether keys and values are to be kept as those of a cache.
    """

    masks: tuple[Array, ...] = ()
    ids: Array | None = None
    even: Array | None = None
    local: Any = None
    layouts: tuple[Layout, ...] = dataclasses.field(default=(), metadata={"static": True})
    keep: bool = dataclasses.field(default=False, metadata={"static": True})

    def attend(
        self, q: Array, k: Array, v: Array, scale: float, softcap: float | None, sinks: Array | None = None
    ) -> tuple[tuple[Array, Array], Array]:
        """See `attention.Past.attend`: q [B,N,S,H,h], k and v [B,N,S,K,h]; sinks are refused where kernels are
        chosen."""
        assert sinks is None
        rows = tuple(x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        if self.ids is None:
            mask = self.masks[0] if len(self.masks) == 1 else jnp.where(self.local, self.masks[1], self.masks[0])
            mixed = flash(rows, mask, scale)
        else:
            mixed = self._splash(rows, self.ids, scale, softcap)
        if self.even is not None:
            mixed = jnp.where(self.even, mixed, jnp.nan)
        cache = tuple(x.transpose(0, 3, 1, 2, 4) if self.keep else x[:, :, :0] for x in (k, v))
        return cache, mixed.reshape(q.shape)  # type: ignore[return-value]

    def _splash(self, rows: tuple[Array, ...], ids: Array, scale: float, softcap: float | None) -> Array:
        """Splash attention under the layout of this layer's kind: known, or branched on where a scan decides."""
        if len(self.layouts) == 1 or isinstance(self.local, bool):
            return _splashed(rows, ids, self.layouts[bool(self.local)], scale, softcap)
        local, everywhere = (
            lambda rows, ids, layout=layout: _splashed(rows, ids, layout, scale, softcap)
            for layout in reversed(self.layouts)
        )
        return jax.lax.cond(self.local, local, everywhere, rows, ids)


def joint_row(kernel: str, windows: Windows, masks: Sequence[Any], prompt_valid: Array, valid: Array) -> Row:
    """Makes the row of a prompt and its completions.

    Splash attention takes windows by slot, which are those by position where prompts are left-padded and completions
    right-padded, without gaps.

    Args:
        kernel: "cudnn" or "splash".
        windows: Those of the kinds of layers.
        masks: The three masks of `attention.Joint`, of each kind.
        prompt_valid: [B,P] bool.
        valid: [B,N,T] bool.

    Returns:
        A row of P + N*T tokens for each prompt.
    """
    rows, n, t = valid.shape
    if kernel == "cudnn":
        return Row(masks=tuple(_joined_mask(*kind) for kind in masks))
    ids = jnp.concatenate([prompt_valid, valid.reshape(rows, n * t)], axis=1).astype(jnp.int32)
    layouts = tuple(Layout(prompt_valid.shape[1], n, t, window) for window in windows)
    even = jnp.all(prompt_valid[:, :-1] <= prompt_valid[:, 1:]) & jnp.all(valid[..., :-1] >= valid[..., 1:])
    return Row(ids=ids, layouts=layouts, even=_if_windowed(windows, even))


def plain_row(kernel: str, windows: Windows, masks: Sequence[Any], valid: Array) -> Row:
    """Makes rows of tokens each of which sees all in front of it: prefill.

    Args:
        kernel: "cudnn" or "splash".
        windows: Those of the kinds of layers.
        masks: [B,1,N,1,S,S], of each kind.
        valid: [B,N,S] bool.

    Returns:
        Rows whose keys and values are kept.
    """
    rows, n, size = valid.shape
    if kernel == "cudnn":
        return Row(masks=tuple(mask[:, 0, :, 0].reshape(rows * n, size, size) for mask in masks), keep=True)
    even = jnp.all(valid[..., :-1] <= valid[..., 1:])
    ids = valid.reshape(rows * n, size).astype(jnp.int32)
    layouts = tuple(Layout(size, window=window) for window in windows)
    return Row(ids=ids, layouts=layouts, even=_if_windowed(windows, even), keep=True)


def packed_row(kernel: str, windows: Windows, masks: Sequence[Any], packed: Packed, n: int) -> Row:
    """Makes packed rows.

    Args:
        kernel: "cudnn" or "splash".
        windows: Those of the kinds of layers.
        masks: What `packed_mask` gives, of each kind.
        packed: The layout of the rows [R,L].
        n: How many completions a prompt has.

    Returns:
        The rows.

    Raises:
        ConfigError: Splash attention over several completions of a prompt, whose mask is not known when the program is
            compiled.
    """
    if kernel == "cudnn":
        return Row(masks=tuple(mask[:, 0, 0, 0] for mask in masks))
    if n > 1:
        raise ConfigError(
            f"packing with {n} completions a prompt does not go with attention='splash'; write attention='xla', or "
            "leave packing out (with one completion, as in supervised fine-tuning, the two go together)"
        )
    ids = jnp.where(packed.filled, 1 + packed.prompt, 0)
    return Row(ids=ids, layouts=tuple(Layout(ids.shape[1], window=window) for window in windows))


def _if_windowed(windows: Windows, even: Array) -> Array | None:
    return None if all(window is None for window in windows) else even


def flash(qkv: tuple[Array, ...], mask: Array, scale: float, implementation: Any = "cudnn") -> Array:
    """Attends with cuDNN, with float32 sums inside.

    Args:
        qkv: q [R,S,H,h], k and v [R,S,K,h].
        mask: [R,S,S] bool.
        scale: What scores are multiplied by.
        implementation: What jax.nn.dot_product_attention is to use.

    Returns:
        [R,S,H,h].
    """
    size = mask.shape[1]
    room = -size % 8  # cuDNN's gradient under a mask wants even lengths
    q, k, v = (jnp.pad(x, [(0, 0), (0, room), (0, 0), (0, 0)]) for x in qkv)
    mask = jnp.pad(mask, [(0, 0), (0, room), (0, room)])[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation=implementation)[:, :size]


def _splashed(qkv: tuple[Array, ...], ids: Array, layout: Layout, scale: float, softcap: float | None = None) -> Array:
    """Splash attention of q [R,S,H,h] over k, v [R,S,K,h] under the static mask of a layout, between tokens of the same
    id [R,S] -> [R,S,H,h]."""
    # Rows are padded to whole blocks, with the id 0 that padding has too. Blocks in which the static mask lets nobody
    # see anything are never computed. Off a TPU the kernel is interpreted, which is for tests.
    splash = importlib.import_module("jax.experimental.pallas.ops.tpu.splash_attention")  # slow, and few need it
    q, k, v = qkv
    size, heads = q.shape[1], q.shape[2]
    room = -size % LANES
    full = size + room
    block = next(block for block in BLOCKS if full % block == 0)
    mask = splash.MultiHeadMask([splash.NumpyMask(_static_mask(layout, full))] * heads)
    blocks = {f"block_{name}": block for name in ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute")}
    sizes = splash.BlockSizes(**blocks, block_q_dq=block, block_kv_dq=block)
    kernel = splash.make_splash_mha(
        mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        interpret=jax.default_backend() != "tpu",
    )
    q, k, v = (
        jnp.pad(x, [(0, 0), (0, room), (0, 0), (0, 0)]).transpose(0, 2, 1, 3)
        for x in (q * jnp.asarray(scale, q.dtype), k, v)
    )
    ids = jnp.pad(ids, [(0, 0), (0, room)])
    mixed = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, splash.SegmentIds(ids, ids)))(q, k, v, ids)
    return mixed.transpose(0, 2, 1, 3)[:, :size].astype(q.dtype)
