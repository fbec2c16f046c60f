"""Losses that know which tokens are at fault: because an edit marks them, or because a judgement of the response makes
them likelier."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses import reads
from alignjax.losses.combine import view_of
from alignjax.losses.decorators.pairwise import mask_of, pair_fields, pair_indices, pair_labels, pair_metrics
from alignjax.losses.margin import dpo
from alignjax.losses.masks import edited_of, normalized, span_mask
from alignjax.types import Batch, Context, Mean, Metrics

__all__ = ["cut", "dense_dpo", "figa", "iterpref"]

Pairs = tuple[tuple[int, int], ...]


def dense_dpo(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    gamma: float = 5.0,
    role: str = "policy",
    reference: str | None = "reference",
    pairs: Pairs = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """Dense DPO of RLHF-V: -log S(beta h) of scores (sum of unchanged tokens + gamma sum of edited tokens) / (number
    unchanged + gamma number edited), for policy and reference alike (arXiv:2312.00849).

    Nats per pair; margins are in nats per token. completions["edited"] [B,N,T] marks the tokens that the correction
    changed. beta: inverse temperature, of means and so larger than DPO's would be; gamma: weight of an edited token;
    gamma = 1 is DPO of per-token means. Minimised at a margin of logit(p) / beta. The formula and the default of gamma
    are from memory of the paper; our defaults fit text alone.

    Raises ConfigError if the batch has no completions["edited"].
    """
    weighted = batch.replace(mask=normalized(span_mask(batch, edited=gamma, rest=1.0)))
    return dpo(context, weighted, beta=beta, role=role, reference=reference, pairs=pairs)


def iterpref(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    anchor: float = 1.0,
    role: str = "policy",
    reference: str | None = "reference",
    pairs: Pairs = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """Focal DPO of IterPref: -log S(beta (rho_w - rho_l on its edited tokens)) - anchor lp_w / len(w)
    (arXiv:2503.02783).

    Nats. The winner counts whole, the loser only where completions["edited"] marks what its repair took out (for code,
    lines: `revisions(..., level="line")`). beta: inverse temperature; anchor: weight of the winners' mean negative
    log-likelihood, one mean over all their tokens, a second mean beside that over pairs. A soft label p mixes both
    orders, in both terms. A loser without an edited token counts nothing, and only the winner moves. As in the authors'
    code, but for its negative log-likelihood, which drops tokens with the id 0.

    Raises ConfigError if the batch has no completions["edited"].
    """
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    mask = mask_of(batch).astype(float)
    faulty = mask * edited_of(batch).astype(mask.dtype)
    who = {"role": role, "reference": reference}
    whole = pair_fields(context, batch, i, j, **who)
    focal = pair_fields(context, batch, i, j, **who, masks=(faulty[:, i], faulty[:, j]))
    label = label.astype(whole["margin"].dtype)
    forth = -jax.nn.log_sigmoid(beta * (whole["ratio_i"] - focal["ratio_j"]))
    back = -jax.nn.log_sigmoid(beta * (whole["ratio_j"] - focal["ratio_i"]))
    loss = Mean.of(label * forth + (1 - label) * back, weight)
    won = jnp.stack([weight * label, weight * (1 - label)])  # [2,B,K]: how much either side is the winner
    logps, length = (jnp.stack([whole[f"{name}_i"], whole[f"{name}_j"]]) for name in ("logps", "length"))
    nll = Mean(-jnp.sum(jnp.where(won != 0, logps, 0) * won), jnp.sum(length * won))
    metrics = pair_metrics(whole, label, weight) | {"anchor": nll}
    return Mean(loss.total + anchor * nll.value() * loss.weight, loss.weight), metrics


def figa(
    context: Context,
    batch: Batch,
    *,
    inserted: float = 1.0,
    deleted: float = 0.5,
    likely: float = 0.6,
    role: str = "policy",
    revised: int = 0,
    original: int = 1,
) -> tuple[Mean, Metrics]:
    """Fine-grained imitation of a revision: (inserted sum of -log pi on the tokens that the revision brought in -
    deleted sum of -log pi on those it took out of the original, where -log pi <= likely) / number of such tokens
    (arXiv:2311.04072).

    Nats per token; completions["edited"] [B,N,T] marks the tokens on both sides, `revised` and `original` say which
    completion is which. inserted, deleted: the weights of the two kinds; likely: a token of the original that the
    policy finds less likely than exp(-likely) is left alone, which is what bounds the loss. No reference and no labels.
    With all of a revision marked and nothing of the original it is supervised fine-tuning on the revision. The gate and
    the division are the authors' code's; one state of it also counts the revision's end token always and lets tokens
    with -log pi in [likely, 1] alone through the gate. Its weights are arguments: the defaults are ours.

    Raises ConfigError if the batch has no completions["edited"] or not the completions named.
    """
    pair_indices(batch, ((revised, original),))
    (logps,) = context.score(role, batch).values()
    touched = mask_of(batch) * edited_of(batch)
    new, old = -logps[:, revised], -logps[:, original]
    kept = touched[:, original] * (jax.lax.stop_gradient(old) <= likely)
    gain, loss = Mean.of(inserted * new, touched[:, revised]), Mean.of(-deleted * old, kept)
    metrics = {
        "nats_inserted": Mean.of(new, touched[:, revised]),
        "nats_deleted": Mean.of(old, touched[:, original]),
        "deleted_share": Mean.of(jax.lax.stop_gradient(old) <= likely, touched[:, original]),
    }
    return Mean(gain.total + loss.total, gain.weight + loss.weight), metrics


def cut(
    context: Context,
    batch: Batch,
    *,
    lambda_: float = 1.1,
    alpha: float = 1.0,
    role: str = "policy",
    view: str = "judged",
) -> tuple[Mean, Metrics]:
    """Contrastive unlikelihood from judgements: 1/2 [-log pi(y_t; x, j) + (-log pi(y_t; x), or -alpha log(1 - pi(y_t;
    x)) where sg(pi(y_t; x, j) / pi(y_t; x)) > lambda_)], mean over tokens; the first term alone, whole, where nothing
    was judged wrong (arXiv:2312.14591).

    Nats per token. batch.views[view] holds the same completions under a prompt with the judgement j (the source
    `judgements` makes it), and prompts["judged"] [B] is 1 where a judgement finds fault. Tokens that the judgement
    makes lambda_ times likelier are taken for the fault and unlearned with weight alpha; lambda_ = inf takes none. Two
    forward passes, no reference. log(1 - pi) is exact, where the authors' code adds 1e-5. The code adds two means, over
    all rows and over the judged; we take one mean in which each row keeps its own form, the same for a batch of one.

    Raises ConfigError if the view or prompts["judged"] is missing, or the view's completions have another shape.
    """
    judged = view_of(batch, view)
    if "judged" not in batch.prompts:
        raise ConfigError('cut needs batch.prompts["judged"] [B], 1 where a judgement finds fault; see fn(judgements)')
    assert batch.tokens is not None
    if judged.tokens is None or judged.tokens.shape != batch.tokens.shape:
        raise ConfigError(f"the view {view!r} must hold the completions of the batch, in the same places")
    (given,) = context.score(role, judged).values()
    (plain,) = context.score(role, batch).values()
    unlike = context.score(role, batch, read=reads.complement)["complement"]
    faulty = jax.lax.stop_gradient(given - plain) > jnp.log(lambda_)
    told = (batch.prompts["judged"] != 0)[:, None, None]
    second = jnp.where(faulty, -alpha * unlike, -plain)
    mask = mask_of(batch)
    at_fault = mask * told
    metrics = {
        "nats_judged": Mean.of(-given, mask),
        "faulty_share": Mean.of(faulty, at_fault),
        "nats_faulty": Mean.of(-plain, at_fault * faulty),
    }
    return Mean.of(jnp.where(told, (second - given) / 2, -given), mask), metrics
