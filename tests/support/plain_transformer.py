"""A transformer written for clarity, in NumPy and float64: one unpadded sequence, no cache, no batch, heads repeated.
The oracle for `models.transformer`."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignjax.models import TransformerConfig


def norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * scale


def rope(x: np.ndarray, theta: float) -> np.ndarray:
    """[L,h]: pair (i, i + h/2) of position t as a complex number, turned by t / theta^(2i/h)."""
    length, size = x.shape
    half = size // 2
    turn = np.exp(1j * np.arange(length)[:, None] * theta ** (-2.0 * np.arange(half) / size))
    turned = (x[:, :half] + 1j * x[:, half:]) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)


def hidden(params: Any, config: TransformerConfig, tokens: list[int]) -> np.ndarray:
    """The final states [L,D] of one sequence."""
    c = config
    p = {name: np.asarray(params[name], np.float64) for name in ("embed", "norm")}
    x = p["embed"][np.asarray(tokens, int)]
    length = len(tokens)
    distance = np.arange(length)[:, None] - np.arange(length)
    seen = (distance >= 0) & (distance < (c.window or length))
    for number in range(c.layers):
        w = {name: np.asarray(leaf[number], np.float64) for name, leaf in params["layers"].items()}
        h = norm(x, w["attn_norm"], c.norm_eps)
        q, k, v = h @ w["q"], h @ w["k"], h @ w["v"]
        out = []
        for head in range(c.heads):
            at, size = head // (c.heads // c.kv_heads), c.head_dim
            mine = rope(q[:, head * size : (head + 1) * size], c.rope_theta)
            theirs = rope(k[:, at * size : (at + 1) * size], c.rope_theta)
            scores = np.where(seen, mine @ theirs.T / np.sqrt(size), -np.inf)
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            out.append(weight / weight.sum(-1, keepdims=True) @ v[:, at * size : (at + 1) * size])
        x = x + np.concatenate(out, axis=-1) @ w["o"]
        h = norm(x, w["mlp_norm"], c.norm_eps)
        gate = h @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
    return norm(x, p["norm"], c.norm_eps)


def token_logps(params: Any, config: TransformerConfig, prompt: list[int], completion: list[int]) -> np.ndarray:
    """log p of every token of the completion after the prompt."""
    states = hidden(params, config, [*prompt, *completion])
    kernel = params["embed"].T if config.tied else params["heads"]["lm"]["kernel"]
    logits = states @ np.asarray(kernel, np.float64)
    logits -= logits.max(-1, keepdims=True)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.array([logps[len(prompt) + i - 1, token] for i, token in enumerate(completion)])
