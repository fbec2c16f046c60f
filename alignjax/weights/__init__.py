"""Merges of models that share an architecture: pure functions merge(models, base=None, key=None, *, ...) over pytrees,
and the same over folders of published weights that are larger than memory."""

from alignjax.weights.averages import (
    karcher as karcher,
    linear as linear,
    model_stock as model_stock,
    p_soups as p_soups,
    slerp as slerp,
)
from alignjax.weights.online_merges import online_dare as online_dare, online_ties as online_ties
from alignjax.weights.task_vectors import (
    dare as dare,
    della as della,
    expo as expo,
    task_arithmetic as task_arithmetic,
    ties as ties,
)
