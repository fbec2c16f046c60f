"""Stages: pure functions (context, batch, key) -> batch that fill what losses read; and the judges among them."""

from alignjax.stages.compose import chain, in_view
from alignjax.stages.generate import generate, logprobs, values
from alignjax.stages.host import host
from alignjax.stages.judge import bernoulli, flipped, prefer, preference_model, query_budget, reward_difference
from alignjax.stages.relabel import prefer_first
from alignjax.stages.reward import reward

__all__ = [
    "bernoulli",
    "chain",
    "flipped",
    "generate",
    "host",
    "in_view",
    "logprobs",
    "prefer",
    "prefer_first",
    "preference_model",
    "query_budget",
    "reward",
    "reward_difference",
    "values",
]
