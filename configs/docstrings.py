"""Online IPO and IPO-MD (arXiv:2403.08635) on real text, the docstrings of the Python packages installed here.

    alignjax train configs/docstrings.py            # above 10 CPU minutes and those of a second SFT run
    alignjax train configs/docstrings.py:tiny       # the same pipeline in a few steps, for tests

A post is the body of a docstring, the human TL;DR its summary line. Two preference models are trained on human
summaries against corrupted ones and samples, one to train against and one held out.

Read its numbers with care. A million parameters and a minute of SFT do not summarize, and the judges are at chance on
whether a summary belongs to its post: they tell well-formed lines from broken ones, and are called so. The held-out
judge starts from an SFT policy of its own and learns to reject that policy's samples, not those of the SFT policy that
is played. What is not held out from it: the packages, the human summaries and the rules that corrupt them, which both
judges learn from in another order, and the architecture. The tournament draws one completion a post and player, on
four times as many posts as other configs on docstrings, or all that there are: of as many completions, several a post
tell less, since posts differ too. Without training, a lower temperature or the best of four samples do as well as any
policy, so these controls play too. Samples have more room than the data (32 tokens for summaries of 24), for a text
that is cut off loses, and the report has the share that ended. What can be shown at this size is in
configs/quickstart.py. TAU was chosen when there was no split of packages to choose it on; a next choice belongs on the
split "dev", which no number here comes from.
"""

from __future__ import annotations

import dataclasses

from alignjax.config import Experiment, Pipeline
from alignjax.pipelines import summarization as parts
from alignjax.pipelines.ipo_policies import ipo_policies

MODES = ("full", "tiny")
TAU = 0.05  # strength of the regularization towards the SFT policy
BETA = 0.125  # weight of the reference in IPO-MD's mixture
DEV = 0.1  # share of the packages that nobody is trained or judged on, for choosing hyper-parameters


def held_out(sizes: parts.Sizes) -> dict[str, Experiment]:
    """The judge that decides, and the SFT policy that it starts from and learns to reject."""
    other = dataclasses.replace(parts.sft(sizes), seed=3)
    return {"other_sft": other, "held_out": parts.judge(sizes, seed=2, sft_step="other_sft")}


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.sizes_of(mode)
    data = dataclasses.replace(sizes.dataset, dev_fraction=DEV)
    sizes = dataclasses.replace(sizes, dataset=data, eval_batches=4 * sizes.eval_batches)
    steps, players = ipo_policies(parts, sizes, tau=TAU, beta=BETA)
    title = "Online IPO and IPO-MD on docstring summaries"
    return parts.compared(sizes, steps, *players, title=title, held_out=held_out(sizes))
