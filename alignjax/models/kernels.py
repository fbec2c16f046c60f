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

from alignjax.config import ConfigError, nearest
from alignjax.models.packing import Packed
from alignjax.types import Array

Windows: TypeAlias = Sequence[int | None]  # of the kinds of layers
ATTENTION = ("auto", "cudnn", "splash", "xla")
LANES = 128  # rows for splash attention are padded to multiples of it
BLOCKS = (512, 256, 128)
_NEEDS = {"cudnn": "gpu", "splash": "tpu"}


def cannot(kernel: str, config: Any) -> str:
    """Why a kernel cannot run a TransformerConfig, or ''."""
    if kernel != "xla" and config.group_chunks > 1:
        return "group_chunks > 1 extends completions over a cache, which no fused kernel here does"
    if kernel == "cudnn":
        if config.attn_softcap is not None:
            return "cuDNN has no soft cap of attention scores (attn_softcap)"
        if config.dtype not in ("bfloat16", "float16"):
            return f"cuDNN computes in bfloat16 or float16, not in dtype={config.dtype!r}"
        if config.head_dim % 8 or config.head_dim > 256:
            return f"cuDNN needs a head_dim that is a multiple of 8 up to 256, not {config.head_dim}"
    return ""


def check_attention(config: Any) -> None:
    """Raises ConfigError if config.attention is unknown, or names a kernel that cannot run the config."""
    if config.attention not in ATTENTION:
        raise ConfigError(f"unknown attention {config.attention!r}.{nearest(config.attention, ATTENTION)}")
    if config.attention != "auto" and (why := cannot(config.attention, config)):
        raise ConfigError(f"attention={config.attention!r}: {why}; write 'xla', or 'auto' for what can run")


def platform() -> str:
    """What the default device is: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()


def chosen(config: Any, machine: tuple[str, int] | None = None) -> str:
    """The kernel for a config on a machine (its platform and number of devices; by default this one): "xla", "cudnn" or
    "splash". "auto" is that of the device where it can run the config. Raises ConfigError for a kernel of another
    device."""
    here, devices = machine or (platform(), jax.device_count())
    if config.attention == "auto":
        fast = next((kernel for kernel, needed in _NEEDS.items() if needed == here), "xla")
        return "xla" if cannot(fast, config) or (fast == "splash" and devices > 1) else fast
    needed = _NEEDS.get(config.attention, here)
    if needed != here:
        raise ConfigError(f"attention={config.attention!r} runs on a {needed}; this is a {here}; write 'auto' or 'xla'")
    if config.attention == "splash" and devices > 1:
        raise ConfigError("attention='splash' runs on one device, and its kernel is not partitioned; write 'xla'")
    return config.attention


class Layout(NamedTuple):
    """What is in a row of static shape: `prompt` slots, then n completions of t slots each; window: of positions."""

    prompt: int
    n: int = 0
    t: int = 0
    window: int | None = None

    @property
    def size(self) -> int:
        return self.prompt + self.n * self.t


def static_mask(layout: Layout, size: int) -> np.ndarray:
    """Which slot sees which, [size,size], were all slots filled: itself and what is in front of it, in the prompt or in
    its own completion. Slots beyond the layout see what is in front of them."""
    slot = np.arange(size)
    inside = slot - layout.prompt
    completion = (inside >= 0) & (slot < layout.size)
    part = np.where(completion, 1 + inside // max(layout.t, 1), 0)
    position = np.where(completion, layout.prompt + inside % max(layout.t, 1), slot)
    see = (slot <= slot[:, None]) & ((part == part[:, None]) | (part == 0))
    if layout.window is not None:
        see &= position[:, None] - position < layout.window
    return see


def joined(prompt: Array, shared: Array, own: Array) -> Array:
    """The masks of `attention.Joint`, [B,1,1,1,P,P], [B,1,N,1,T,P] and [B,1,N,1,T,T], as one of the row [B,S,S]."""
    rows, n, t, p = own.shape[0], own.shape[2], own.shape[4], prompt.shape[-1]
    shared = jnp.broadcast_to(shared[:, 0, :, 0], (rows, n, t, p)).reshape(rows, n * t, p)
    mine = own[:, 0, :, 0, :, None] & jnp.eye(n, dtype=bool)[:, None, :, None]
    top = jnp.concatenate([prompt[:, 0, 0, 0], jnp.zeros((rows, p, n * t), bool)], axis=2)
    return jnp.concatenate([top, jnp.concatenate([shared, mine.reshape(rows, n * t, n * t)], axis=2)], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Row:
    """What the tokens of whole rows see, for a kernel; takes the place of `attention.Past` and `Joint`.

    masks: for cuDNN, [R,S,S] of each kind of layer; ids: for splash attention, [R,S], tokens with different ones do not
    see each other; layouts: for it, the static masks of the kinds; even: for it, whether the slots are where the static
    masks take them to be (all is NaN if not), None if nothing depends on that; local: which kind a layer is, None if
    all are alike; keep: whether keys and values are to be kept as a cache's.
    """

    masks: tuple[Array, ...] = ()
    ids: Array | None = None
    even: Array | None = None
    local: Any = None
    layouts: tuple[Layout, ...] = dataclasses.field(default=(), metadata={"static": True})
    keep: bool = dataclasses.field(default=False, metadata={"static": True})

    def attend(
        self, q: Array, k: Array, v: Array, scale: float, softcap: float | None
    ) -> tuple[tuple[Array, Array], Array]:
        """See `attention.Past.attend`: q [B,N,S,H,h], k and v [B,N,S,K,h]."""
        rows = tuple(x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        if self.ids is None:
            kinds = self.masks
            mask = kinds[0] if len(kinds) == 1 else jnp.where(self.local, kinds[1], kinds[0])
            mixed = flash(rows, mask, scale)
        elif len(self.layouts) == 1 or isinstance(self.local, bool):
            mixed = splashed(rows, self.ids, self.layouts[bool(self.local)], scale, softcap)
        else:
            layers = [
                lambda rows, ids, layout=layout: splashed(rows, ids, layout, scale, softcap)
                for layout in reversed(self.layouts)
            ]
            mixed = jax.lax.cond(self.local, *layers, rows, self.ids)
        if self.even is not None:
            mixed = jnp.where(self.even, mixed, jnp.nan)
        kept = tuple(x.transpose(0, 3, 1, 2, 4) if self.keep else x[:, :, :0] for x in (k, v))
        return kept, mixed.reshape(q.shape)  # type: ignore[return-value]


def joint_row(kernel: str, windows: Windows, masks: Sequence[Any], prompt_valid: Array, valid: Array) -> Row:
    """The row of a prompt [B,P] and its completions [B,N,T]; masks: those of `attention.Joint`, of each kind of layer.

    Splash attention takes windows by slot, which are those by position where prompts are left-padded and completions
    right-padded, without gaps.
    """
    rows, n, t = valid.shape
    if kernel == "cudnn":
        return Row(masks=tuple(joined(*kind) for kind in masks))
    ids = jnp.concatenate([prompt_valid, valid.reshape(rows, n * t)], axis=1).astype(jnp.int32)
    layouts = tuple(Layout(prompt_valid.shape[1], n, t, window) for window in windows)
    even = jnp.all(prompt_valid[:, :-1] <= prompt_valid[:, 1:]) & jnp.all(valid[..., :-1] >= valid[..., 1:])
    return Row(ids=ids, layouts=layouts, even=_if_windowed(windows, even))


def plain_row(kernel: str, windows: Windows, masks: Sequence[Any], valid: Array) -> Row:
    """Rows of valid [B,N,S] tokens each of which sees all in front of it (prefill); masks [B,1,N,1,S,S]."""
    rows, n, size = valid.shape
    if kernel == "cudnn":
        return Row(masks=tuple(mask[:, 0, :, 0].reshape(rows * n, size, size) for mask in masks), keep=True)
    even = jnp.all(valid[..., :-1] <= valid[..., 1:])
    ids = valid.reshape(rows * n, size).astype(jnp.int32)
    layouts = tuple(Layout(size, window=window) for window in windows)
    return Row(ids=ids, layouts=layouts, even=_if_windowed(windows, even), keep=True)


def packed_row(kernel: str, windows: Windows, masks: Sequence[Any], packed: Packed, n: int) -> Row:
    """Packed rows [R,L]; masks: `packed_mask` of each kind. Raises ConfigError for splash attention over rows with
    several completions of a prompt, whose mask is not known when the program is compiled."""
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
    """cuDNN attention of q [R,S,H,h] over k, v [R,S,K,h] under mask [R,S,S] -> [R,S,H,h]; float32 sums inside."""
    size = mask.shape[1]
    room = -size % 8  # cuDNN's gradient under a mask wants even lengths
    q, k, v = (jnp.pad(x, [(0, 0), (0, room), (0, 0), (0, 0)]) for x in qkv)
    mask = jnp.pad(mask, [(0, 0), (0, room), (0, room)])[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation=implementation)[:, :size]


def splashed(qkv: tuple[Array, ...], ids: Array, layout: Layout, scale: float, softcap: float | None = None) -> Array:
    """Splash attention of q [R,S,H,h] over k, v [R,S,K,h] under the static mask of a layout, between tokens of the same
    id [R,S] -> [R,S,H,h]. Blocks in which the mask lets nobody see anything are never computed."""
    splash = importlib.import_module("jax.experimental.pallas.ops.tpu.splash_attention")  # slow, and few need it
    q, k, v = qkv
    size, heads = q.shape[1], q.shape[2]
    room = -size % LANES
    full = size + room
    block = next(block for block in BLOCKS if full % block == 0)
    mask = splash.MultiHeadMask([splash.NumpyMask(static_mask(layout, full))] * heads)
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
