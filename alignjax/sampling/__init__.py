"""Sampling: behaviours (how streams combine), filters (what is truncated), and `generate`."""

from alignjax.sampling.behaviours import History, mixture, own
from alignjax.sampling.decode import Filters, Sampled, Stream, generate
from alignjax.sampling.filters import draw, min_p, temper, top_k, top_p

__all__ = [
    "Filters",
    "History",
    "Sampled",
    "Stream",
    "draw",
    "generate",
    "min_p",
    "mixture",
    "own",
    "temper",
    "top_k",
    "top_p",
]
