"""The problems that every side is given, and what they cost on paper. No imports beyond the standard library: each side
runs in an environment of its own."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A Llama-like decoder with as many key heads as query heads, an untied head and full-length rows.

    `pairs` prompts have two completions each in an update, `rows` prompts one each in sampling, `online` prompts two
    each in an online step, `groups` prompts `samples` each in a GRPO step. Prompts and completions are `prompt` and
    `completion` tokens long, never shorter. dtype: of weights, activations and optimizer alike. row_seconds: after that
    long a row of the table is given no further round.
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
    groups: int = 4
    samples: int = 4
    dtype: str = "float32"
    learning_rate: float = 1e-5
    beta: float = 0.1
    row_seconds: float = 16.0

    @property
    def block_weights(self) -> int:
        """Weights of all matrices in the blocks: query, key, value and output, then gate, up and down."""
        return self.layers * (4 * self.width * self.width + 3 * self.width * self.mlp)

    @property
    def head_weights(self) -> int:
        return self.width * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights: blocks, embedding, head and the norms' scales."""
        return self.block_weights + 2 * self.head_weights + (2 * self.layers + 1) * self.width

    @property
    def item_bytes(self) -> int:
        return {"float32": 4, "bfloat16": 2}[self.dtype]

    def attention_flops(self, queries: int, before: int) -> int:
        """Scores and weighted values, all layers, for `queries` causal tokens with `before` tokens in front of them."""
        seen = queries * before + queries * (queries + 1) // 2
        return self.layers * 4 * self.width * seen

    def trunk_flops(self, completions: int, shared: bool) -> int:
        """One prompt and its completions, without a head. `shared`: the prompt is run once, otherwise once for each
        completion. A multiply-add is two."""
        prompts = 1 if shared else completions
        tokens = prompts * self.prompt + completions * self.completion
        attention = prompts * self.attention_flops(self.prompt, 0)
        attention += completions * self.attention_flops(self.completion, self.prompt)
        return 2 * self.block_weights * tokens + attention

    def forward_flops(self, completions: int, shared: bool) -> int:
        """The same with the head at completion positions only."""
        return self.trunk_flops(completions, shared) + 2 * self.head_weights * completions * self.completion

    def flops(self, work: str, shared: bool) -> int:
        """Model FLOPs of a work. A forward and a backward are three forwards, the reference is one, sampling is one
        (its decode steps together are a forward). Recomputation and the optimizer are not counted."""
        if work in ("dpo_update", "ipo_update"):
            return 4 * self.pairs * self.forward_flops(2, shared)
        if work == "dpo_update_precomputed":
            return 3 * self.pairs * self.forward_flops(2, shared)
        if work == "reward_step":
            return 3 * self.pairs * self.trunk_flops(2, shared)
        if work == "sampling":
            return self.rows * self.forward_flops(1, shared)
        if work == "online_step":
            return 5 * self.online * self.forward_flops(2, shared)
        if work == "grpo_step":
            return 5 * self.groups * self.forward_flops(self.samples, shared)
        raise ValueError(f"no count for {work!r}")

    def tokens(self, work: str) -> int:
        """Completion tokens that a work makes, or learns from: the same number on every side."""
        rows = {"sampling": self.rows, "online_step": 2 * self.online, "grpo_step": self.groups * self.samples}
        return rows.get(work, 2 * self.pairs) * self.completion

    def decode_bytes(self) -> float:
        """Bytes that a decode step of `rows` rows must read: every weight once, and the mean filled part of the
        caches."""
        filled = self.prompt + (self.completion + 1) / 2
        cached = 2 * self.layers * self.rows * filled * self.width
        return self.item_bytes * (self.block_weights + self.head_weights + cached)


SIZES = {
    "tiny": Sizes(16, 2, 2, 24, 64, 4, 4, 2, 2, 2, 2, 2, row_seconds=1.0),  # for tests: it measures nothing
    "small": Sizes(),
    "medium": Sizes(768, 12, 12, 2048, 16384, completion=32, pairs=2, rows=4, online=2, groups=1, row_seconds=50.0),
    "large": Sizes(  # for an accelerator
        1536, 20, 12, 4096, 32768, 256, 256, pairs=16, rows=64, online=16, groups=8, samples=8, row_seconds=30.0
    ),
}
