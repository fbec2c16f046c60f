"""Stages: pure functions (context, batch, key) -> batch that fill what losses read; and the judges among them."""

from alignjax.stages.annotate import annotator, overlap
from alignjax.stages.completions import generate, logprobs, values
from alignjax.stages.compose import chain, in_view, into_view
from alignjax.stages.condition import condition_on, condition_on_reward, configured_pairs, goal_pairs, hindsight
from alignjax.stages.constraints import constraint_rate, forbidden_token, in_order, length_within, required_token
from alignjax.stages.density import density_ratio
from alignjax.stages.explore import active_pairs, bootstrap
from alignjax.stages.external import engine, engine_logps
from alignjax.stages.host import host
from alignjax.stages.judge import bernoulli, flipped, prefer, preference_model, query_budget, reward_difference
from alignjax.stages.opponents import prefer_by_reward, win_rate_against
from alignjax.stages.relabel import prefer_first, thumbs, verdict, worst_first
from alignjax.stages.replay import recall
from alignjax.stages.reward import reward
from alignjax.stages.route import prefer_configured, route_pairs, route_targets
from alignjax.stages.select import best_and_worst, gap_weights, ranked, regenerate, regret, rewrite, select_prompts

__all__ = [
    "active_pairs",
    "annotator",
    "bernoulli",
    "best_and_worst",
    "bootstrap",
    "chain",
    "condition_on",
    "condition_on_reward",
    "configured_pairs",
    "constraint_rate",
    "density_ratio",
    "engine",
    "engine_logps",
    "flipped",
    "forbidden_token",
    "gap_weights",
    "generate",
    "goal_pairs",
    "hindsight",
    "host",
    "in_order",
    "in_view",
    "into_view",
    "length_within",
    "logprobs",
    "overlap",
    "prefer",
    "prefer_by_reward",
    "prefer_configured",
    "prefer_first",
    "preference_model",
    "query_budget",
    "ranked",
    "recall",
    "regenerate",
    "regret",
    "required_token",
    "reward",
    "reward_difference",
    "rewrite",
    "route_pairs",
    "route_targets",
    "select_prompts",
    "thumbs",
    "values",
    "verdict",
    "win_rate_against",
    "worst_first",
]
