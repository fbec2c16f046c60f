"""Losses: pure functions (context, batch) -> (Mean, metrics). `losses.ipo.per_pair(margin, preference, tau=0.1)` is the
bare maths of a pairwise one."""

from alignjax.losses.anchored import apo_down, apo_zero, bco_pair, cal_dpo, dpo_positive, nca, sppo_hard
from alignjax.losses.binary_feedback import apo_zero_unpaired, bco, d2o, kto, pointwise_dpo, prompt_classifier, ulma
from alignjax.losses.combine import on, weighted
from alignjax.losses.decorators.listwise import lambda_loss, list_mle, listwise, pairwise_logistic, softmax_listwise
from alignjax.losses.divergences import f_dpo, with_divergence
from alignjax.losses.exploration_bonus import bootstrapped, borda, selm, vpo, xpo
from alignjax.losses.fine_grained import cut, dense_dpo, figa, iterpref
from alignjax.losses.imitation import filtered_mle, hir, reward_weighted_regression
from alignjax.losses.logic import logical
from alignjax.losses.margin import discopop, dpo, exo, h_dpo, ipo, ln_dpo, pairwise, robust_dpo, slic
from alignjax.losses.noisy_labels import lcpo, reliability, reliability_average
from alignjax.losses.optimal_transport import aot, aot_unpaired
from alignjax.losses.policy_gradient import reinforce
from alignjax.losses.ranking import act, clha, knowpat, lipo, plackett_luce, pro, rrhf, stable_alignment
from alignjax.losses.reference_free import alpha_po, cpo, orpo, simpo, slic_hf
from alignjax.losses.self_play import egpo, inpo, mnpo, sppo
from alignjax.losses.supervised import bradley_terry, preference_cross_entropy, score_regression, sft
from alignjax.losses.token_level import ld_dpo, length_desensitised, sparse_masks, sparse_po, tdpo, wpo

__all__ = [
    "act",
    "alpha_po",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "apo_zero_unpaired",
    "bco",
    "bco_pair",
    "bootstrapped",
    "borda",
    "bradley_terry",
    "cal_dpo",
    "clha",
    "cpo",
    "cut",
    "d2o",
    "dense_dpo",
    "discopop",
    "dpo",
    "dpo_positive",
    "egpo",
    "exo",
    "f_dpo",
    "figa",
    "filtered_mle",
    "h_dpo",
    "hir",
    "inpo",
    "ipo",
    "iterpref",
    "knowpat",
    "kto",
    "lambda_loss",
    "lcpo",
    "ld_dpo",
    "length_desensitised",
    "lipo",
    "list_mle",
    "listwise",
    "ln_dpo",
    "logical",
    "mnpo",
    "nca",
    "on",
    "orpo",
    "pairwise",
    "pairwise_logistic",
    "plackett_luce",
    "pointwise_dpo",
    "preference_cross_entropy",
    "pro",
    "prompt_classifier",
    "reinforce",
    "reliability",
    "reliability_average",
    "reward_weighted_regression",
    "robust_dpo",
    "rrhf",
    "score_regression",
    "selm",
    "sft",
    "simpo",
    "slic",
    "slic_hf",
    "softmax_listwise",
    "sparse_masks",
    "sparse_po",
    "sppo",
    "sppo_hard",
    "stable_alignment",
    "tdpo",
    "ulma",
    "vpo",
    "weighted",
    "with_divergence",
    "wpo",
    "xpo",
]
