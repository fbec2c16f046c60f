"""A pairwise preference model p(y > y' | x) of drawn labels, on the sorting task of configs/quickstart.py.

    alignjax train configs/preference_model.py          # about 3 CPU minutes
    alignjax train configs/preference_model.py:tiny

Labels are drawn with the gold judge's probabilities on pairs of SFT samples. The model reads both completions and is
antisymmetric by construction. Metric: `pair/accuracy`, the agreement with the labels that it learns from.
"""

from __future__ import annotations

from alignjax.config import Pipeline
from alignjax.pipelines import exact_study as parts

MODES = ("full", "tiny")


def get_config(mode: str = "full") -> Pipeline:
    return Pipeline(parts.prepared(parts.sizes_of(mode)))
