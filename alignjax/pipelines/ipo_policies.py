"""Offline IPO, online IPO and IPO-MD (arXiv:2403.08635) from one start, with equally many labels: steps and players."""

from __future__ import annotations

from typing import Any

from alignjax import algorithms
from alignjax.config import Experiment, fn
from alignjax.evaluate.tournament import Player
from alignjax.ranges import Fraction, Positive
from alignjax.sampling import mixture


def ipo_policies(
    parts: Any, sizes: Any, *, tau: Positive, beta: Fraction
) -> tuple[dict[str, Experiment], tuple[Player, ...]]:
    """Returns the steps "pairs", "offline_ipo", "online_ipo" and "ipo_md", and the players that they make: the three
    policies, and the mixture that IPO-MD samples from, whose equilibrium is what it learns.

    Args:
        parts: The module of the task: `exact_study`, `summarization`.
        sizes: Its `Sizes`.
        tau: The strength of the regularization towards the SFT policy.
        beta: The weight of the reference in IPO-MD's mixture.
    """
    model, judged, optimizer = parts.policy_model(sizes), parts.judged(sizes), parts.policy_optimizer(sizes)
    offline = algorithms.ipo(model, tau=tau, start=judged["start"], n=judged["n"], optimizer=optimizer)
    online = algorithms.online_ipo(model, tau=tau, optimizer=optimizer, **judged)
    mixed = algorithms.ipo_md(model, tau=tau, beta=beta, optimizer=optimizer, **judged)
    steps = {
        "pairs": parts.sampled_pairs(sizes),
        "offline_ipo": parts.offline(sizes, offline),
        "online_ipo": parts.online(sizes, online),
        "ipo_md": parts.online(sizes, mixed),
    }
    players = (
        Player("offline_ipo", "offline_ipo", label="offline IPO", note="IPO on labeled pairs of SFT samples"),
        Player("online_ipo", "online_ipo", label="online IPO", note="self-play on its own samples"),
        Player("ipo_md", "ipo_md", label="IPO-MD", note=f"self-play on the mixture, beta = {beta}"),
        Player("ipo_md_mixture", "ipo_md", label="IPO-MD, mixture", behaviour=fn(mixture, beta=beta)),
    )
    return steps, players
