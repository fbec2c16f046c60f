"""A pairwise preference model p(y > y' | x): human summaries against spoilt ones and the SFT policy's own samples.

    alignjax train configs/preference_model.py          # about 3 minutes on 2 CPU cores
    alignjax train configs/preference_model.py:tiny

The model reads both completions and is antisymmetric by construction. Metric: `pair/accuracy`.
"""

from __future__ import annotations

import summarisation as parts

from alignjax.config import Pipeline, fn
from alignjax.data import Docstrings, prepare

MODES = ("full", "tiny")


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.tiny(Docstrings()) if mode == "tiny" else parts.Sizes()
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": parts.sft(sizes),
            "preference": parts.judge(sizes, seed=1),
        }
    )
