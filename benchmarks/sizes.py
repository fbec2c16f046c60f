"""The one problem that every side is given, and what it costs on paper. No imports beyond the standard library: each
side runs in an environment of its own."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A Llama-like decoder in float32 with as many key heads as query heads, an untied head and full-length rows.

    `pairs` prompts have two completions each in an update, `rows` prompts one each in sampling, `online` prompts two
    each in an online step. Prompts and completions are `prompt` and `completion` tokens long, never shorter.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    mlp: int = 1024
    vocabulary: int = 8192
    prompt: int = 64
    completion: int = 64
    pairs: int = 8
    rows: int = 16
    online: int = 8
    learning_rate: float = 1e-5
    beta: float = 0.1

    @property
    def block_weights(self) -> int:
        """Weights of all matrices in the blocks: query, key, value and output, then gate, up and down."""
        return self.layers * (4 * self.width * self.width + 3 * self.width * self.mlp)

    @property
    def head_weights(self) -> int:
        return self.width * self.vocabulary

    def attention_flops(self, queries: int, before: int) -> int:
        """Scores and weighted values, all layers, for `queries` causal tokens with `before` tokens in front of them."""
        seen = queries * before + queries * (queries + 1) // 2
        return self.layers * 4 * self.width * seen

    def forward_flops(self, completions: int, shared: bool) -> int:
        """One prompt and its completions, the head at completion positions only. `shared`: the prompt is run once,
        otherwise once for each completion. A multiply-add is two."""
        prompts = 1 if shared else completions
        tokens = prompts * self.prompt + completions * self.completion
        attention = prompts * self.attention_flops(self.prompt, 0)
        attention += completions * self.attention_flops(self.completion, self.prompt)
        return 2 * self.block_weights * tokens + attention + 2 * self.head_weights * completions * self.completion

    def update_flops(self, shared: bool, reference: bool = True) -> int:
        """Model FLOPs of a DPO update of `pairs` pairs: forward and backward (three forwards) of the policy and one
        forward of the reference. Recomputation and the optimizer are not counted."""
        return self.pairs * self.forward_flops(2, shared) * (4 if reference else 3)

    def decode_bytes(self) -> float:
        """Bytes that a decode step of `rows` rows must read: every weight once, and the mean filled part of the
        caches."""
        filled = self.prompt + (self.completion + 1) / 2
        return 4 * (self.block_weights + self.head_weights + 2 * self.layers * self.rows * filled * self.width)


SIZES = Sizes()
