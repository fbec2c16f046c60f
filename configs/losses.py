"""Every offline loss of the library, a mode each, on the sorting task of configs/quickstart.py (docs/overview.md says
how to pick one).

    alignjax train configs/losses.py:dpo            # about 4 CPU minutes
    alignjax train configs/losses.py:dpo-tiny       # a few steps, to see that it runs

All start from the same SFT policy, and all but the losses of edits learn from the same samples of it, labeled by a
preference model; the gold judge says what each was worth. Losses of edits learn from lazy demonstrations and what is
wrong with them. A loss that is public in `alignjax.losses` is a mode by itself, with its defaults and what its kind
learns from; where those do not do, a line in LOSSES says with which hyper-parameters, and on what, it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import losses, stages
from alignjax.config import Fn, Pipeline, fn
from alignjax.losses import divergences, logic
from alignjax.pipelines import exact_study as parts
from alignjax.pipelines.loss_families import (
    EDITS,
    LISTS,
    PAIRS,
    SOFT,
    THUMBS,
    Family,
    pipeline,
    sizes_of,
    with_defaults,
)
from alignjax.pipelines.summarization import judged_summaries
from alignjax.roles import restored, running_mean, value, zero_means
from alignjax.types import Role

GOOD, BAD = (3,), (3, 3)  # prompts that say what their completion is like: one separator token, or two
ALPHA = fn(divergences.alpha_divergence, alpha=0.5)


def running_shift(sizes: parts.Sizes) -> Mapping[str, Role]:
    means = zero_means("ratio_good", "ratio_bad")
    return {"shift": Role(None, means, rule=fn(running_mean, of="bco", decay=0.9))}


def annotators(sizes: parts.Sizes) -> Mapping[str, Role]:
    return {"reliability": Role(None, value(fn(losses.reliability)), rule=fn(losses.reliability_average))}


def prompt_classifier(sizes: parts.Sizes) -> Mapping[str, Role]:
    start = restored("sft", "policy", grow=True)
    return {"classifier": Role(parts.classifier_model(sizes), start, parts.policy_optimizer(sizes))}


def token_masks(sizes: parts.Sizes) -> Mapping[str, Role]:
    start = value(fn(losses.sparse_masks, width=sizes.width, layers=sizes.layers))
    return {"masks": Role(None, start, parts.policy_optimizer(sizes))}


# What the defaults of a loss and the family of its kind do not say; `with_defaults` adds all other offline losses.
# Temperatures are 0.1 wherever log-ratios are sums over a completion; other numbers are the field's defaults.
LOSSES: dict[str, tuple[Fn, Family]] = with_defaults(
    {
        # of pairs
        "dpo": (fn(losses.dpo, beta=0.1), PAIRS),
        "dpo_soft": (fn(losses.dpo, beta=0.1), SOFT),  # the judge's probabilities as labels; all losses of pairs do
        "ipo": (fn(losses.ipo, tau=0.1), PAIRS),
        "ipo_soft": (fn(losses.ipo, tau=0.1), SOFT),
        "slic": (fn(losses.slic, beta=0.1), PAIRS),
        "discopop": (fn(losses.discopop, beta=0.1), PAIRS),
        "dpo_positive": (fn(losses.dpo_positive, beta=0.1), PAIRS),
        "cal_dpo": (fn(losses.cal_dpo, beta=0.1), PAIRS),
        "sppo_hard": (fn(losses.sppo_hard, beta=0.1), PAIRS),
        "f_dpo": (fn(losses.f_dpo, divergence=fn(divergences.jensen_shannon)), PAIRS),
        "logical": (fn(losses.logical, core=fn(logic.unconstrained_core), reference=None, normalize="length"), PAIRS),
        # round a loss of pairs
        "length_desensitised": (fn(losses.length_desensitised, loss=fn(losses.ipo, tau=0.1)), PAIRS),
        "with_divergence": (fn(losses.with_divergence, loss=fn(losses.slic, beta=0.1), divergence=ALPHA), PAIRS),
        "wpo": (fn(losses.wpo), PAIRS),
        # of pairs whose labels may be wrong, or whose tokens do not all count
        "lcpo": (fn(losses.lcpo, loss=fn(losses.dpo, beta=0.1)), PAIRS.but(roles=annotators)),
        "sparse_po": (fn(losses.sparse_po), PAIRS.but(roles=token_masks)),
        # of lists; their rewards are win rates, so gaps are small numbers
        "clha": (fn(losses.clha, gamma=0.1, gap=0.05), LISTS),
        "stable_alignment": (fn(losses.stable_alignment, scale=1.0), LISTS),
        "filtered_mle": (fn(losses.filtered_mle, fraction=0.25), LISTS),
        "reward_weighted_regression": (fn(losses.reward_weighted_regression, beta=0.1), LISTS),
        "d2o": (fn(losses.d2o), LISTS.but(stages={"order": fn(stages.worst_first)})),
        "hir": (fn(losses.hir), LISTS.but(stages={"relabel": fn(stages.hindsight, edges=(0.5,), goals=(BAD, GOOD))})),
        # of single completions
        "kto": (fn(losses.kto), THUMBS),
        "ulma": (fn(losses.ulma), THUMBS),
        "bco": (fn(losses.bco), THUMBS.but(roles=running_shift)),
        "bco_weighted": (
            fn(losses.bco),
            THUMBS.but(
                stages={"density": fn(stages.density_ratio)},
                roles=lambda sizes: {**running_shift(sizes), **prompt_classifier(sizes)},
                beside={"prompt_classifier": fn(losses.prompt_classifier)},
            ),
        ),
        # of texts whose faults are marked, or told
        "dense_dpo": (fn(losses.dense_dpo), EDITS),
        "iterpref": (fn(losses.iterpref), EDITS),
        "figa": (fn(losses.figa), EDITS),
        "cut": (fn(losses.cut), EDITS.but(stages={"judgement": fn(judged_summaries, judgement=BAD)})),
    }
)
TINY = "-tiny"
MODES = (*LOSSES, *(name + TINY for name in LOSSES))


def get_config(mode: str = "dpo") -> Pipeline:
    name = mode.removesuffix(TINY)
    return pipeline(sizes_of(mode), name, *LOSSES[name])
