"""Every loss of the library, once: the list that conformance (one device) and mesh_losses (many) go through.

To add a loss, add a line to the section of its family:

    Case(fn(losses.dpo, beta=0.3)),

Choose hyper-parameters away from their limits, so that every term of the loss is alive. Where it needs more, say so:

    couples_rows   the loss is not a sum over rows (a sort over the batch, two means added)
    order_matters  exchanging rows changes it (completions rolled against prompts)
    fields         batch -> batch: adds or changes what this loss reads, in numpy. `network.full_batch` says what is
                   there already: preference, pair_weight, graded reward, completions["edited"], ...
                   `network.binary_reward` makes thumbs of rewards, `network.with_view` adds a stream
    extra          roles beside "policy" and "reference" (both on network.NETWORK): Role(model, roles.fresh()) or
                   Role(None, roles.value(f)); those with an optimizer are differentiated too
    name           when a loss stands here twice

`test_conformance.py` says what every line is then held to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from alignjax import losses, roles
from alignjax.config import Fn, fn
from alignjax.losses import divergences, logic
from alignjax.types import Batch, Role
from tests.support.network import NETWORK, VOCAB, WIDTH, binary_reward
from tests.support.tiny import sgd


def as_is(batch: Batch) -> Batch:
    return batch


@dataclasses.dataclass(frozen=True)
class Case:
    loss: Fn
    couples_rows: bool = False
    order_matters: bool = False
    fields: Callable[[Batch], Batch] = as_is
    extra: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.loss.name)


PAIRS = ((0, 1), (2, 1), (0, 3))

PAIRWISE = [
    Case(fn(losses.dpo, beta=0.3)),
    Case(fn(losses.dpo, beta=0.3, pairs=PAIRS, normalize="length"), name="dpo_per_token"),
    Case(fn(losses.ipo, tau=0.4)),
    Case(fn(losses.slic, beta=0.3)),
    Case(fn(losses.robust_dpo, beta=0.3, epsilon=0.2)),
    Case(fn(losses.ln_dpo, beta=0.7)),
    Case(fn(losses.h_dpo, beta=0.3, alpha=0.7)),
    Case(fn(losses.discopop, beta=0.3, temperature=0.2)),
    Case(fn(losses.exo, beta=0.3, epsilon=0.1)),
    Case(fn(losses.dpo_positive, beta=0.3, lam=2.0)),
    Case(fn(losses.nca, beta=0.3)),
    Case(fn(losses.sppo_hard, beta=0.2)),
    Case(fn(losses.apo_zero, beta=0.3)),
    Case(fn(losses.apo_down, beta=0.3)),
    Case(fn(losses.cal_dpo, beta=0.2)),
    Case(fn(losses.bco_pair, beta=0.3), couples_rows=True),
    Case(fn(losses.bco_pair, beta=0.3, shift=0.2, pairs=PAIRS), name="bco_pair_fixed"),
    Case(fn(losses.f_dpo, beta=0.3, divergence=fn(divergences.jensen_shannon))),
    Case(
        fn(
            losses.with_divergence,
            loss=fn(losses.ipo, tau=0.4, pairs=PAIRS, normalize="length"),
            divergence=fn(divergences.alpha_divergence, alpha=0.3),
        )
    ),
    Case(fn(losses.cpo, beta=0.3, alpha=0.5)),
    Case(fn(losses.simpo, beta=0.7, gamma=0.3)),
    Case(fn(losses.alpha_po, beta=0.7, gamma=0.3, alpha=0.25)),
    Case(fn(losses.orpo, lam=0.5)),
    Case(fn(losses.slic_hf, gamma=1.5, lam=0.2)),
    Case(fn(losses.aot, beta=0.3, epsilon=0.1, pairs=PAIRS), couples_rows=True),
    Case(fn(losses.aot_unpaired, beta=0.3, epsilon=0.1), couples_rows=True),
    Case(fn(losses.logical, beta=0.3)),
    Case(fn(losses.logical, beta=0.3, core=fn(logic.odds_core), reference=None), name="logical_odds"),
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
    """Thumbs, and how much denser good prompts are than bad ones, some beyond where it is clipped."""
    ratio = np.linspace(0.2, 4, len(batch.tokens)).astype(batch.mask.dtype)
    return binary_reward(batch).replace(prompts={**batch.prompts, "density_ratio": ratio})


def _with_other_instruction(batch: Batch) -> Batch:
    other = {"other": (batch.prompt + 1) % VOCAB, "other_valid": batch.prompt_valid}
    return batch.replace(prompts={**batch.prompts, **other})


def _likely_elsewhere(batch: Batch) -> Batch:
    """Thumbs, on completions that the policy likes more than the reference does under the prompts of other rows, so
    that the estimate of their KL is not clamped."""
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
    Case(fn(losses.act)),
]

ANNOTATORS = {"reliability": Role(None, roles.value(fn(losses.reliability, annotators=2, eta=0.8)))}
NOISE = [
    Case(fn(losses.lcpo, loss=fn(losses.dpo, beta=0.3, pairs=PAIRS)), extra=ANNOTATORS),
    Case(fn(losses.lcpo, loss=fn(losses.ipo, tau=5.0), normalizer=True), extra=ANNOTATORS, name="lcpo_ipo"),
]

SUPERVISED = [
    Case(fn(losses.sft)),
    Case(fn(losses.weighted, loss=fn(losses.sft), weight=0.7)),
    Case(fn(losses.bradley_terry, role="policy")),
    Case(fn(losses.preference_cross_entropy, role="policy")),
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
    Case(fn(losses.inpo, eta=0.4, c=0.3), extra=PREVIOUS),
    Case(fn(losses.mnpo, eta=0.4, c=0.3, weights=(2.0, 1.0), pairs=PAIRS), extra=PAST),
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

CASES = PAIRWISE + TOKEN_LEVEL + UNPAIRED + LISTWISE + NOISE + SUPERVISED + SELF_PLAY
