"""Sampling: behaviours (how streams combine), filters (what is truncated), and `generate`."""

from alignjax.sampling.behaviors import History, mixture, own
from alignjax.sampling.decode import generate
from alignjax.sampling.engine_client import EngineError
from alignjax.sampling.filters import draw, min_p, temper, top_k, top_p
from alignjax.sampling.logit_streams import Filters, Sampled, Stream

__all__ = [
    "EngineError",
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
