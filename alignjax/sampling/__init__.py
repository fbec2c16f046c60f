"""Sampling: behaviors (how streams combine), filters (what is truncated), and `generate`."""

from alignjax.sampling.behaviors import History as History, mixture as mixture, own as own
from alignjax.sampling.combined_logits import (
    contrastive as contrastive,
    dera as dera,
    genarm as genarm,
    linear_alignment as linear_alignment,
    mod as mod,
    proxy_tuning as proxy_tuning,
)
from alignjax.sampling.combined_model import combined_model as combined_model
from alignjax.sampling.decode import generate as generate
from alignjax.sampling.engine_client import EngineError as EngineError
from alignjax.sampling.filters import (
    Filters as Filters,
    draw as draw,
    min_p as min_p,
    temper as temper,
    top_k as top_k,
    top_p as top_p,
)
from alignjax.sampling.following_history import pluralistic as pluralistic, weak_to_strong as weak_to_strong
from alignjax.sampling.logit_streams import (
    Sampled as Sampled,
    Sampling as Sampling,
    Stream as Stream,
)
