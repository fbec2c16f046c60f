"""The configuration of a transformer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax

from alignjax.config import ConfigError, check_known, check_ranges, unsaid
from alignjax.models.attention import RopeScaling
from alignjax.models.kernels import check_attention
from alignjax.ranges import Count, Natural, Positive
from alignjax.types import Array

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and switches of a decoder-only transformer. `huggingface.config_of` fills it in for published weights.

    Attributes:
        vocab: V, the number of tokens.
        width: D.
        layers: The number of layers.
        heads: Query heads.
        kv_heads: Key-value heads; 0 means as many as heads.
        head_dim: h; 0 means width / heads.
        mlp: The hidden size of the gated MLP.
        rope_theta: The base of rotary frequencies.
        norm_eps: What norms add to the mean square.
        window: Tokens attend to that many latest ones; None means to all.
        tied: The lm head is the embedding.
        outputs: Heads besides "lm", see `heads.SMALL`.
        dtype: What is computed in, by name.
        param_dtype: What is stored, by name.
        remat: "none", or "layer" to compute each layer again in the backward pass.
        attention: "xla", "cudnn" (GPU), "splash" (TPU), or "auto", the fastest that can run this on the device at hand
            (see `models/kernels.py`).
        group_chunks: Groups too large for memory are extended over their prompt in so many rematerialized pieces.
        activation: "silu", "gelu" or "gelu_tanh".
        local: The layers that the window holds for; () means all of them.
        local_rope_theta: What local layers turn by in the place of rope_theta and rope_scaling.
        rope_scaling: Of the rotary frequencies.
        query_scale: What attention scores are multiplied by; None means head_dim^-1/2.
        attn_softcap: A soft cap of attention scores, see `attention.soft_cap`.
        logit_softcap: A soft cap of the lm head's logits.
        qk_norm: Queries and keys are normed per head before they are turned.
        qkv_bias: The products q, k and v have biases.
        o_bias: The product o has a bias.
        mlp_bias: The products of the MLP have biases, of experts those of each and of the router.
        post_norms: What attention and MLP add is normed too.
        centred_norms: Norms multiply by 1 + their scale.
        embed_scale: Embeddings are multiplied by sqrt(width).
        classes: How many numbers the output "classes" has.
        head_bias: The heads in outputs have biases.
        norm: "rms", or "layer", which takes the mean away too.
        norm_bias: Norms of layers and the last one add a bias.
        pre_norms: Attention and MLP read the normed states; without, they read the states as they are (OLMo 2).
        qk_norm_whole: With qk_norm: over all heads together, before they are parted.
        parallel: The MLP reads what attention reads, not what it added to it.
        shared_norm: With parallel: both read the same normed states.
        gated: The MLP has a gate; without, it is down(activation(up(x))).
        positions: The length of a table of learned positions; 0: positions are rotary.
        rotary_dim: How many numbers of a head turn, the first ones; 0: all.
        rope_layers: The layers whose queries and keys turn at all; (): all of them.
        embed_multiplier: What embeddings are multiplied by.
        residual_multiplier: What attention and MLP add is multiplied by.
        logit_multiplier: What the lm head's logits are multiplied by.
        experts: E, the MLPs of a layer among which a router chooses; 0: one for all tokens. `mlp` is the size of each.
        experts_per_token: How many of them a token goes to.
        renormalized: The shares of the experts that were chosen are divided by their sum.
        sinks: Each head has a number that takes part in the softmax of its scores, and mixes no value.
        swiglu_limit: Of experts: gates are at most this, and what they multiply within plus and minus this, plus 1.
        swiglu_alpha: With swiglu_limit: a gate x becomes x sigmoid(alpha x), whatever `activation` says.
    """

    vocab: Count
    width: Count = 256
    layers: Count = 4
    heads: Count = 4
    kv_heads: Natural = 0
    head_dim: Natural = 0
    mlp: Count = 1024
    rope_theta: Positive = 10_000.0
    norm_eps: Positive = 1e-6
    window: Count | None = None
    tied: bool = False
    outputs: tuple[str, ...] = ()
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    attention: str = "xla"
    group_chunks: Count = 1
    activation: str = "silu"
    local: tuple[bool, ...] = ()
    local_rope_theta: Positive | None = None
    rope_scaling: RopeScaling | None = None
    query_scale: Positive | None = None
    attn_softcap: Positive | None = None
    logit_softcap: Positive | None = None
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    post_norms: bool = False
    centred_norms: bool = False
    embed_scale: bool = False
    classes: Natural = 0
    head_bias: bool = True
    norm: str = unsaid("rms")
    norm_bias: bool = unsaid(False)
    pre_norms: bool = unsaid(True)
    qk_norm_whole: bool = unsaid(False)
    parallel: bool = unsaid(False)
    shared_norm: bool = unsaid(False)
    gated: bool = unsaid(True)
    positions: Natural = unsaid(0)
    rotary_dim: Natural = unsaid(0)
    rope_layers: tuple[bool, ...] = unsaid(())
    embed_multiplier: Positive = unsaid(1.0)
    residual_multiplier: Positive = unsaid(1.0)
    logit_multiplier: Positive = unsaid(1.0)
    experts: Natural = unsaid(0)
    experts_per_token: Natural = unsaid(0)
    renormalized: bool = unsaid(False)
    sinks: bool = unsaid(False)
    swiglu_limit: Positive | None = unsaid(None)
    swiglu_alpha: Positive = unsaid(1.702)

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "head_dim", self.head_dim or self.width // self.heads)
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.head_dim < 1:
            raise ConfigError(f"width={self.width} is less than heads={self.heads}, and no head_dim is given")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} is odd; rotary embeddings need pairs")
        if self.remat not in ("none", "layer"):
            raise ConfigError(f"remat={self.remat!r}; it must be 'none' or 'layer'")
        check_attention(self)
        check_known(self.activation, ACTIVATIONS, f"unknown activation {self.activation!r}")
        if self.local and (self.window is None or len(self.local) != self.layers or len(set(self.local)) < 2):
            raise ConfigError(
                f"local={self.local}, window={self.window}: local says True or False for each of {self.layers} layers, "
                "some of both, and needs a window; leave it out where the window holds for all layers or none"
            )
        if self.local_rope_theta is not None and not self.local:
            raise ConfigError("local_rope_theta needs local; where all layers are alike, write rope_theta")
        self._check_switches()

    def _check_switches(self) -> None:
        """Raises ConfigError for switches that say nothing together, or that contradict each other."""
        # A table of what must not hold and what is said then; the first that holds is raised.
        turned = self.rotary_dim or self.head_dim
        rotary = self.rotary_dim or self.rope_layers or self.rope_scaling or self.local_rope_theta
        some = len(self.rope_layers) == self.layers and len(set(self.rope_layers)) == 2
        routed = min(self.experts, 1) <= self.experts_per_token <= self.experts
        wrong = (
            (self.norm not in ("rms", "layer"), f"norm={self.norm!r}; it must be 'rms' or 'layer'"),
            (self.centred_norms and self.norm != "rms", "centred_norms are RMS norms; leave out norm='layer'"),
            (not (self.pre_norms or self.post_norms), "without pre_norms, post_norms are needed; set one of them"),
            (self.parallel and not self.pre_norms, "parallel needs pre_norms"),
            (self.shared_norm and not self.parallel, "shared_norm needs parallel"),
            (self.qk_norm_whole and not self.qk_norm, "qk_norm_whole needs qk_norm"),
            (turned % 2 or turned > self.head_dim, f"rotary_dim={turned} must be even, at most {self.head_dim}"),
            (
                self.rope_layers and not some,
                f"rope_layers={self.rope_layers} must say True or False for each of {self.layers} layers, "
                "some of both; leave it out where all turn",
            ),
            (
                self.positions and rotary,
                "positions are learned and nothing turns beside them; leave out what is rotary",
            ),
            (
                not routed,
                f"experts={self.experts} and experts_per_token={self.experts_per_token}: a token goes to at least one, "
                "at most to all",
            ),
            (self.experts and not self.gated, "experts have a gate; leave out gated=False"),
            (self.swiglu_limit and not self.experts, "swiglu_limit is of experts; leave it out"),
        )
        for message in (message for holds, message in wrong if holds):
            raise ConfigError(message)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each kind of layers: one for all, or (that of global, that of local layers)."""
        return (None, self.window) if self.local else (self.window,)
