"""A pairwise preference model p(y > y' | x): human summaries against corrupted ones and the SFT policy's own samples.

    alignjax train configs/preference_model.py          # about 3 minutes on 2 CPU cores
    alignjax train configs/preference_model.py:tiny

The model reads both completions and is antisymmetric by construction. Metric: `pair/accuracy`.
"""

from __future__ import annotations

from alignjax.config import Pipeline
from alignjax.pipelines import summarization as parts

MODES = ("full", "tiny")


def get_config(mode: str = "full") -> Pipeline:
    return Pipeline(parts.prepared(parts.sizes_of(mode)))
