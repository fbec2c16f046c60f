"""Losses: pure functions (context, batch) -> (Mean, metrics). `losses.ipo.per_pair(margin, preference, tau=0.1)` is the
bare maths of a pairwise one."""

from alignjax.losses.combine import on, weighted
from alignjax.losses.pairwise import dpo, ipo, pairwise, slic  # the decorator, which hides the module of its name
from alignjax.losses.supervised import bradley_terry, preference_cross_entropy, sft

__all__ = ["bradley_terry", "dpo", "ipo", "on", "pairwise", "preference_cross_entropy", "sft", "slic", "weighted"]
