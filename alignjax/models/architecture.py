"""The configuration of a transformer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax

from alignjax.config import ConfigError, nearest
from alignjax.models.attention import RopeScaling
from alignjax.models.kernels import check_attention
from alignjax.types import Array

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and switches of a decoder-only transformer. `huggingface.config_of` fills it in for published weights.

    vocab V, width D, layers, heads (query), kv_heads (0: as many as heads), head_dim (0: width / heads), mlp (gated
    hidden size); tied: the lm head is the embedding; outputs: heads besides "lm", see `heads.SMALL`; classes: numbers
    of the output "classes"; head_bias: whether those heads have one; dtype and param_dtype: compute and storage, by
    name; remat: "none" or "layer"; attention: "xla", "cudnn" (GPU), "splash" (TPU), or "auto", the fastest that can run
    this on the device at hand (see `models/kernels.py`); group_chunks: groups too large for memory are
    extended over their prompt in so many rematerialized pieces.

    window: attend to that many latest tokens, None for all; local: which layers the window holds for, () for all of
    them; rope_scaling: of the rotary frequencies, and local_rope_theta: what local layers turn by instead of rope_theta
    and rope_scaling; query_scale: what attention scores are multiplied with, None for head_dim^-1/2; attn_softcap,
    logit_softcap: caps of attention scores and of the lm head's logits (`soft_cap`); qk_norm: queries and keys are
    normed per head before they are turned; qkv_bias, o_bias, mlp_bias: biases of those products; post_norms: what
    attention and mlp add is normed too; centred_norms: norms multiply by 1 + their scale; embed_scale: embeddings are
    multiplied by sqrt(width); activation: "silu", "gelu" or "gelu_tanh".
    """

    vocab: int
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0
    head_dim: int = 0
    mlp: int = 1024
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    window: int | None = None
    tied: bool = False
    outputs: tuple[str, ...] = ()
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: str = "xla"
    group_chunks: int = 1
    activation: str = "silu"
    local: tuple[bool, ...] = ()
    local_rope_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    query_scale: float | None = None
    attn_softcap: float | None = None
    logit_softcap: float | None = None
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    post_norms: bool = False
    centred_norms: bool = False
    embed_scale: bool = False
    classes: int = 0
    head_bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "head_dim", self.head_dim or self.width // self.heads)
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} is odd; rotary embeddings need pairs")
        if self.remat not in ("none", "layer"):
            raise ConfigError(f"remat={self.remat!r}; it must be 'none' or 'layer'")
        check_attention(self)
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"unknown activation {self.activation!r}.{nearest(self.activation, ACTIVATIONS)}")
        if self.local and (self.window is None or len(self.local) != self.layers or len(set(self.local)) < 2):
            raise ConfigError(
                f"local={self.local}, window={self.window}: local says True or False for each of {self.layers} layers, "
                "some of both, and needs a window; leave it out where the window holds for all layers or none"
            )
        if self.local_rope_theta is not None and not self.local:
            raise ConfigError("local_rope_theta needs local; where all layers are alike, write rope_theta")

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each kind of layers: one for all, or (that of global, that of local layers)."""
        return (None, self.window) if self.local else (self.window,)
