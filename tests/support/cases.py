"""Every loss of the library, once: the list that all tests of losses go through.

A public loss that is not named here has a case of its own already, with its defaults (`default_case`). Write a line in
the section of its family where those do not do:

    Case(fn(losses.dpo, beta=0.3)),

Choose hyper-parameters away from their limits, so that every term of the loss is alive. Where it needs more, say so:

    couples_rows   the loss is not a sum over rows (a sort over the batch, two means added)
    order_matters  exchanging rows changes it (completions rolled against prompts)
    fields         batch -> batch: adds or changes what this loss reads, in numpy. `network.full_batch` says what is
                   there already: preference, pair_weight, graded reward, completions["edited"], ...
                   `network.binary_reward` makes binary feedback of rewards, `network.with_view` adds a stream
    extra          roles beside "policy" and "reference" (both on network.NETWORK): Role(model, roles.fresh()) or
                   Role(None, roles.value(f)); those with an optimizer are differentiated too
    name           when a loss stands here twice
    pair           what is known in closed form of a loss of single pairs

`test_conformance.py` says what every line is then held to, `test_margin.py` what those with `pair` are, and
`mesh_losses.py` takes one line of each loss to meshes of devices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alignjax import losses, roles
from alignjax.cli import catalogue
from alignjax.config import ConfigError, fn
from alignjax.losses import divergences, logic
from alignjax.losses.decorators.declared import is_loss, kind_of
from alignjax.types import Batch, Role
from tests.support.loss_case import (
    EPS,
    LOG2,
    Case,
    Pair,
    as_is,
    cal_dpo_minimum,
    discopop_minimum,
    f_dpo_case,
    logical_case,
    logit,
    orpo_minimum,
    simpo_minimum,
    softplus,
    up_and_down,
)
from tests.support.network import NETWORK, VOCAB, WIDTH, binary_reward
from tests.support.tiny import sgd
from tests.support.user_cases import USERS

PAIRS = ((0, 1), (2, 1), (0, 3))
TRANSPORT = Pair(LOG2, lambda p: math.copysign(logit(0.9) / 0.3, p - 0.5), coupled=True)

PAIRWISE = [
    Case(fn(losses.dpo, beta=0.3), pair=Pair(LOG2, lambda p: logit(p) / 0.3)),
    Case(fn(losses.dpo, beta=0.3, pairs=PAIRS, normalize="length"), name="dpo_per_token"),
    Case(fn(losses.ipo, tau=0.7), pair=Pair(1 / (4 * 0.7**2), lambda p: (2 * p - 1) / 1.4)),
    Case(fn(losses.slic, beta=0.3), pair=Pair(1.0, lambda p: math.copysign(1 / 0.3, p - 0.5))),
    Case(
        fn(losses.robust_dpo, beta=0.3, epsilon=0.02), pair=Pair(LOG2, lambda p: logit((p - 0.02) / 0.96) / 0.3)
    ),
    Case(fn(losses.ln_dpo, beta=1.3), pair=Pair(LOG2, lambda p: 2 * logit(p) / 1.3)),  # two tokens
    Case(fn(losses.h_dpo, beta=0.3, alpha=0.7), pair=Pair(LOG2, lambda p: logit(p) / 0.21, absolute=True)),
    Case(
        fn(losses.discopop, beta=0.5, temperature=0.05), pair=Pair(LOG2 / 2 + 0.5, lambda p: discopop_minimum(p) / 0.5)
    ),
    Case(
        fn(losses.exo, beta=0.3, epsilon=0.1),
        pair=Pair((math.log(5 / 9) + math.log(5)) / 2, lambda p: logit(0.9 * p + 0.1 * (1 - p)) / 0.3),
    ),
    Case(fn(losses.dpo_positive, beta=0.3, lam=50.0), pair=Pair(LOG2, lambda p: max(logit(p), 0) / 0.3)),
    Case(
        fn(losses.nca, beta=0.3), pair=Pair(2 * LOG2, lambda p: (math.log(2 * p) / 0.3, math.log(2 - 2 * p) / 0.3))
    ),
    Case(fn(losses.sppo_hard, beta=0.1), pair=Pair(25.0, lambda p: ((p - 0.5) / 0.1, (0.5 - p) / 0.1))),
    Case(fn(losses.apo_zero, beta=0.3), pair=Pair(1.0, slopes=up_and_down)),
    Case(
        fn(losses.apo_down, beta=0.3),
        pair=Pair(1.0, slopes=lambda w, other: (math.copysign(1, abs(w - other) - abs(w)), 1)),
    ),
    Case(fn(losses.cal_dpo, beta=0.1), pair=Pair(LOG2 + 25, lambda p: cal_dpo_minimum(p, 0.1))),
    Case(
        fn(losses.bco_pair, beta=0.3), couples_rows=True,
        pair=Pair(2 * LOG2, lambda p: 2 * logit(p) / 0.3, coupled=True),
    ),
    Case(
        fn(losses.bco_pair, beta=0.3, shift=0.5), name="bco_pair_fixed",
        pair=Pair(softplus(0.5) + softplus(-0.5), lambda p: ((0.5 + logit(p)) / 0.3, (0.5 - logit(p)) / 0.3)),
    ),
    f_dpo_case("f_dpo", fn(divergences.jensen_shannon), lambda score: logit(math.exp(score) / 2)),
    f_dpo_case("f_dpo_forward_kl", fn(divergences.forward_kl), lambda score: -math.log(1 - score)),
    Case(
        fn(
            losses.with_divergence,
            loss=fn(losses.ipo, tau=0.4, pairs=PAIRS, normalize="length"),
            divergence=fn(divergences.alpha_divergence, alpha=0.3),
        )
    ),
    Case(
        fn(losses.cpo, beta=0.3, alpha=0.02),
        pair=Pair(LOG2, lambda p: logit(p * (1 + 0.02 / 0.3)) / 0.3, absolute=True),
    ),
    Case(fn(losses.autoregressive_reward, beta=0.3), pair=Pair(LOG2, lambda p: logit(p) / 0.3, absolute=True)),
    Case(
        fn(losses.simpo, beta=2.0, gamma=0.7), pair=Pair(softplus(0.7), lambda p: simpo_minimum(p, 0.7), absolute=True)
    ),
    Case(
        fn(losses.alpha_po, beta=2.0, gamma=0.7, alpha=0.25),
        pair=Pair(softplus(0.7), lambda p: -8 * math.log(1 - simpo_minimum(p, 0.7) / 8), absolute=True),
    ),
    Case(fn(losses.orpo, lam=0.5), pair=Pair(LOG2 / 2, lambda p: orpo_minimum(p, 0.5), absolute=True, base=-2.0)),
    Case(
        fn(losses.slic_hf, gamma=1.5, lam=0.05),
        pair=Pair(1.5, lambda p: math.copysign(1.5, p - 0.5), absolute=True),
    ),
    Case(fn(losses.aot, beta=0.3, epsilon=0.1, pairs=PAIRS), couples_rows=True),
    Case(fn(losses.aot_unpaired, beta=0.3, epsilon=0.1), couples_rows=True, pair=TRANSPORT),
    logical_case(logic.dpo_core, "reference", minimiser=lambda p: logit(p) / 0.3, base=-50.0),
    logical_case(logic.cpo_core, minimiser=lambda p: logit(p) / 0.3, base=-50.0),
    logical_case(
        logic.odds_core, base=-2.0, minimiser=lambda p: 2 - softplus(-logit(p) / 0.3 - logit(math.exp(-2)))
    ),
    logical_case(
        logic.unconstrained_core, at_zero=softplus(0.3 * math.log(EPS)), slopes=up_and_down, base=-4.0
    ),
]  # fmt: skip
# The same losses once more, for what is known of them elsewhere.
CLOSED_FORMS = [
    Case(fn(losses.aot, beta=0.3, epsilon=0.1), name="aot_of_one", pair=TRANSPORT),
    Case(fn(losses.ipo, tau=0.1), name="ipo_small", pair=Pair(25.0, lambda p: (2 * p - 1) / 0.2)),
    f_dpo_case("f_dpo_reverse_kl", fn(divergences.reverse_kl), lambda score: score),
    f_dpo_case("f_dpo_alpha", fn(divergences.alpha_divergence, alpha=0.5), lambda score: -2 * math.log(1 - score / 2)),
]


def judged(batch: Batch) -> Batch:
    """The same completions under prompts with a judgement in them, which half of the rows have."""
    rows = np.arange(len(batch.tokens))
    words = (rows[:, None] + np.arange(batch.prompt.shape[1])) % VOCAB
    longer = np.concatenate([batch.prompt, words.astype(np.int32)], axis=1)
    told = rows % 2 == 0
    valid = np.concatenate([batch.prompt_valid, np.broadcast_to(told[:, None], batch.prompt.shape)], axis=1)
    view = Batch(prompt=longer, prompt_valid=valid, tokens=batch.tokens, valid=batch.valid, mask=batch.mask)
    prompts = {**batch.prompts, "judged": told.astype(np.float32)}
    return batch.replace(prompts=prompts, views={**batch.views, "judged": view})


MASKS = fn(losses.sparse_masks, width=WIDTH, layers=2, scale=0.5)
TOKEN_LEVEL = [
    Case(fn(losses.tdpo, beta=0.3)),
    Case(fn(losses.tdpo, beta=0.3, variant="tdpo1", pairs=PAIRS), name="tdpo1"),
    Case(fn(losses.ld_dpo, beta=0.3)),
    Case(fn(losses.length_desensitised, loss=fn(losses.ipo, tau=0.4, pairs=PAIRS, normalize="length"))),
    Case(fn(losses.wpo, loss=fn(losses.dpo, beta=0.3, pairs=PAIRS))),
    Case(fn(losses.dense_dpo, beta=0.3)),
    Case(fn(losses.iterpref, beta=0.3, pairs=PAIRS), couples_rows=True),
    Case(fn(losses.figa, likely=2.0)),
    Case(fn(losses.cut), fields=judged),
    Case(
        fn(losses.sparse_po, beta=0.3, l1_reward=0.01, l1_kl=0.02),
        extra={"masks": Role(None, roles.value(MASKS), fn(sgd))},
    ),
    Case(
        fn(losses.sparse_po, beta=0.3, l1_kl=0.02, sites=("block", "embed")),
        extra={"masks": Role(None, roles.value(MASKS.replace(layers=3, independent=True)), fn(sgd))},
        name="sparse_po_apart",
    ),
]


def _with_density_ratio(batch: Batch) -> Batch:
    """Binary feedback, and how much denser good prompts are than bad ones, some beyond where it is clipped."""
    ratio = np.linspace(0.2, 4, len(batch.tokens)).astype(batch.mask.dtype)
    return binary_reward(batch).replace(prompts={**batch.prompts, "density_ratio": ratio})


def _with_other_instruction(batch: Batch) -> Batch:
    other = {"other": (batch.prompt + 1) % VOCAB, "other_valid": batch.prompt_valid}
    return batch.replace(prompts={**batch.prompts, **other})


def _likely_elsewhere(batch: Batch) -> Batch:
    """Binary feedback, on completions that the policy likes more than the reference does under the prompts of other
    rows, so that the estimate of their KL is not clamped."""
    return binary_reward(batch).replace(tokens=(batch.tokens + 2) % VOCAB, logps={})


_SHIFT = {"shift": Role(None, roles.zero_means("ratio_good", "ratio_bad"))}

UNPAIRED = [
    Case(fn(losses.kto, beta=0.3, lam_desirable=1.5), order_matters=True, fields=_likely_elsewhere),
    Case(fn(losses.bco, beta=0.3), couples_rows=True, fields=_with_density_ratio, extra=_SHIFT),
    Case(fn(losses.bco, shift=None, pooled=True), couples_rows=True, fields=binary_reward, name="bco_pooled"),
    Case(fn(losses.apo_zero_unpaired, beta=0.3, lam_undesirable=0.7), fields=binary_reward),
    Case(fn(losses.pointwise_dpo, beta=0.3, shift=0.2), fields=binary_reward),
    Case(fn(losses.prompt_classifier, output="policy:value"), fields=binary_reward),
    Case(fn(losses.ulma, beta=0.3, shift=0.2), couples_rows=True, fields=binary_reward),
    Case(fn(losses.ulma, beta=0.3, pooled=True, normalize="none"), fields=binary_reward, name="ulma_pooled"),
    Case(fn(losses.d2o, beta=0.3, alpha=0.2)),
    Case(fn(losses.filtered_mle, threshold=0.53)),  # 1 % more leaves one completion out
    Case(fn(losses.filtered_mle, fraction=0.405), couples_rows=True, name="filtered_mle_fraction"),
    Case(fn(losses.reward_weighted_regression, beta=0.7), couples_rows=True),
    Case(fn(losses.hir), couples_rows=True, fields=_with_other_instruction),
]

LISTWISE = [
    Case(fn(losses.plackett_luce, beta=0.3)),
    Case(fn(losses.lipo, beta=0.3)),
    Case(fn(losses.lipo, beta=0.3, objective=fn(losses.list_mle), normalize="length"), name="lipo_list_mle"),
    Case(fn(losses.lipo, beta=0.3, objective=fn(losses.pairwise_logistic)), name="lipo_pairwise"),
    Case(fn(losses.lipo, beta=0.3, objective=fn(losses.softmax_listwise)), name="lipo_softmax"),
    Case(fn(losses.pro, weight=0.3)),
    Case(fn(losses.pro, temperatures=False), name="pro_unit_temperature"),
    Case(fn(losses.rrhf, weight=0.3)),
    Case(fn(losses.clha, gamma=0.7, gap=0.5)),
    Case(fn(losses.knowpat, weight=2.0)),
    Case(fn(losses.stable_alignment)),
    Case(fn(losses.stable_alignment, hardest=True), name="stable_alignment_hardest"),
]

ANNOTATORS = {"reliability": Role(None, roles.value(fn(losses.reliability, annotators=2, eta=0.8)))}
NOISE = [
    Case(fn(losses.lcpo, loss=fn(losses.ipo, tau=5.0, pairs=PAIRS)), extra=ANNOTATORS),
    Case(fn(losses.lcpo, loss=fn(losses.ipo, tau=5.0), normalizer=False), extra=ANNOTATORS, name="lcpo_unnormalized"),
]


def with_margin(batch: Batch) -> Batch:
    """Rows with a margin; one has none."""
    margin = np.linspace(-0.2, 1.7, len(batch.tokens)).astype(batch.mask.dtype)
    margin[1] = np.nan
    return batch.replace(prompts={**batch.prompts, "margin": margin})


def with_missing_quality(batch: Batch) -> Batch:
    """Completions with a score that is given, but of some."""
    known = (np.arange(batch.reward.size) % 5 != 1).reshape(batch.reward.shape)
    return batch.replace(completions={**batch.completions, "quality": np.where(known, np.tanh(batch.reward), np.nan)})


def with_safety(batch: Batch) -> Batch:
    """Completions that are safe, harmful, somewhat safe, or of which it is not known."""
    labels = np.resize([1.0, 0.0, np.nan, 0.3, 1.0], batch.reward.shape).astype(batch.mask.dtype)
    return batch.replace(completions={**batch.completions, "safe": labels})


SUPERVISED = [
    *USERS,
    Case(fn(losses.weighted, loss=fn(losses.sft), weight=0.7)),
    Case(fn(losses.bradley_terry, role="policy")),
    Case(
        fn(losses.bradley_terry, role="policy", pairs=PAIRS, center_rewards_coefficient=0.3),
        fields=with_margin,
        name="bradley_terry_margin",
    ),
    Case(fn(losses.cost_model, role="policy", pairs=PAIRS, weight=0.7), fields=with_safety),
    Case(fn(losses.davidson, role="policy", pairs=PAIRS, nu=0.7)),
    Case(fn(losses.plackett_luce_reward, role="policy")),
    Case(fn(losses.process_supervision, role="policy", separators=(2, 3)), fields=binary_reward),
    Case(fn(losses.attribute_regression, output="policy:reward"), fields=with_missing_quality),
    Case(fn(losses.preference_cross_entropy, role="policy", separator=3)),
]


def with_values(batch: Batch) -> Batch:
    """Completions with the values that a critic gave, some so far from its present ones that the clip binds."""
    values = np.random.default_rng(9).normal(size=batch.tokens.shape).astype(batch.mask.dtype)
    return batch.replace(completions={**batch.completions, "values": values})


CRITIC = [
    Case(fn(losses.entropy_target, target=2.5, weight=0.3), couples_rows=True),
    Case(fn(losses.value_loss, output="policy:value", clip=0.7), fields=with_values),
    Case(fn(losses.value_loss, output="policy:value"), fields=with_values, name="value_loss_open"),
]
# States of the network's two layers of width 4, taken for the logits of a router of 4 experts.
BALANCE = fn(losses.load_balancing, experts_per_token=2, site="block")
ROUTED = [
    Case(BALANCE, couples_rows=True),
    Case(BALANCE.replace(by_layer=True), couples_rows=True, name="load_balancing_by_layer"),
]

PAST = {name: Role(NETWORK, roles.fresh()) for name in ("past1", "past2")}
PREVIOUS = {"previous": Role(NETWORK, roles.fresh())}


def resampled(batch: Batch) -> Batch:
    """Prompts with bootstrap weights of two members of an ensemble."""
    weights = np.random.default_rng(8).exponential(size=(len(batch.tokens), 2)).astype(batch.mask.dtype)
    return batch.replace(prompts={**batch.prompts, "bootstrap": weights})


def with_quality(batch: Batch) -> Batch:
    """Completions with a score that is given."""
    return batch.replace(completions={**batch.completions, "quality": np.tanh(batch.reward)})


def with_optimistic(batch: Batch) -> Batch:
    """Prompts that say which completion met a random rival."""
    return batch.replace(prompts={**batch.prompts, "optimistic": np.arange(len(batch.tokens), dtype=np.int32) % 3})


SELF_PLAY = [
    Case(fn(losses.reinforce, tau=0.3, baseline=0.2)),
    Case(fn(losses.reinforce, tau=0.3, leave_one_out=True, kl="token"), name="reinforce_left_out"),
    Case(fn(losses.steerlm, prior="past1", proposal="past2"), extra=PAST),
    Case(fn(losses.inpo, eta=0.4, c=0.3), extra=PREVIOUS),
    Case(fn(losses.mnpo, eta=0.4, c=0.3, weights=(2.0, 1.0), pairs=PAIRS), extra=PAST),
    Case(fn(losses.sequential_dpo, beta=0.3, earlier=("past1", "past2"), alphas=(0.4, 1.3), pairs=PAIRS), extra=PAST),
    Case(fn(losses.sppo, eta=2.0), extra=PREVIOUS),
    Case(fn(losses.sppo, eta=2.0, completions="all", reference="reference"), name="sppo_all"),
    Case(fn(losses.egpo, tau=0.3, pairs=PAIRS)),
    Case(fn(losses.xpo, loss=fn(losses.dpo, beta=0.3), alpha=0.2), couples_rows=True),
    Case(fn(losses.selm, beta=0.3, alpha=0.5), couples_rows=True),
    Case(fn(losses.vpo, beta=0.3, alpha=0.5, explored=(1, 3)), couples_rows=True),
    Case(fn(losses.vpo, beta=0.3, alpha=0.5, optimistic=False, pairs=PAIRS), name="vpo_offline"),
    Case(fn(losses.score_regression, output="policy:reward"), fields=with_quality),
    Case(fn(losses.borda, beta=0.3), fields=with_optimistic),
    Case(fn(losses.bootstrapped, loss=fn(losses.dpo, beta=0.3, pairs=PAIRS), member=1), fields=resampled),
]


def sampled_before(batch: Batch) -> Batch:
    """Completions with the log-probs of a sampler that is not the policy."""
    draw = np.random.default_rng(9)
    old = np.where(batch.mask != 0, -3 * draw.random(batch.mask.shape), np.nan).astype(batch.mask.dtype)
    return batch.with_logps(sampler=old)


def surrogate_case(name: str, couples_rows: bool = False, **choices: Any) -> Case:
    return Case(fn(losses.surrogate, **choices), couples_rows=couples_rows, fields=sampled_before, name=name)


# Every choice once; they go with each other in any way.
SURROGATES = [
    surrogate_case("surrogate"),
    surrogate_case(
        "surrogate_grpo", reduction=fn(losses.sequence_mean),
        bound=fn(losses.ppo_clip, epsilon=0.3, epsilon_high=0.5, delta=2.0), kl=fn(losses.k3, weighted=True),
    ),
    surrogate_case(
        "surrogate_cispo", ratio=fn(losses.sequence_ratio), bound=fn(losses.cispo_clip, low=0.2, high=2.0),
        reduction=fn(losses.constant_length, length=7), kl=fn(losses.k1),
    ),
    surrogate_case(
        "surrogate_sapo", ratio=fn(losses.sequence_ratio_of_tokens), bound=fn(losses.sapo_gate),
        reduction=fn(losses.prompt_mean), kl=fn(losses.k2),
    ),
    surrogate_case("surrogate_vespo", bound=fn(losses.vespo_kernel, k_pos=0.5, lambda_pos=0.3)),
    surrogate_case(
        "surrogate_dppo", bound=fn(losses.dppo_mask, threshold=0.3), reduction=fn(losses.sequence_sum),
        filters=(fn(losses.off_policy_mask, threshold=0.1),), kl=fn(losses.k3),
    ),
    surrogate_case("surrogate_dppo_kl", bound=fn(losses.dppo_mask, divergence="kl"), behaviour=None, kl=fn(losses.k2)),
    surrogate_case(
        "surrogate_top_entropy", couples_rows=True, ratio=fn(losses.no_ratio), bound=fn(losses.no_bound),
        filters=(fn(losses.top_entropy, share=0.4),), kl=fn(losses.k1),
    ),
    Case(fn(losses.entropy_bonus, coefficient=0.3)),
    Case(fn(losses.gkd, beta=0.3, teacher="reference")),
    Case(fn(losses.minillm, teacher="reference")),
    Case(fn(losses.entropy_bonus, share=0.4, of_all=True), couples_rows=True, name="entropy_bonus_top"),
]  # fmt: skip

BY_HAND = SURROGATES + PAIRWISE + TOKEN_LEVEL + UNPAIRED + LISTWISE + NOISE + SUPERVISED + CRITIC + ROUTED + SELF_PLAY


def default_case(loss: Any) -> Case:
    """A loss with its defaults, on what its kind reads."""
    fields = binary_reward if kind_of(loss) == "unpaired" else as_is
    try:
        return Case(fn(loss), fields=fields, pair=Pair() if hasattr(loss, "per_pair") else None)
    except ConfigError as error:
        raise ConfigError(f"{error}. It has no default, so write its line in tests/support/cases.py") from error


def public_losses() -> dict[str, Any]:
    """Public functions (context, batch, *, hyper-parameters) by name; no decorators, rules or makers of losses."""
    return {name: function for name, function in catalogue.public(losses).items() if is_loss(function)}


NAMED = {case.loss.name for case in BY_HAND}
CASES = BY_HAND + [default_case(loss) for name, loss in public_losses().items() if name not in NAMED]
