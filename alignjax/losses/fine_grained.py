"""Losses that know which tokens are at fault: because an edit marks them, or because a judgment of the response makes
them likelier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses import reads
from alignjax.losses.combine import view_of
from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.pairwise import pair_indices, score_pairs
from alignjax.losses.decorators.sequences import mask_of, scored
from alignjax.losses.margin import dpo
from alignjax.losses.masks import edited_of, normalized, span_mask
from alignjax.ranges import Natural, NonNegative, Number, Positive, Threshold
from alignjax.types import Batch, Context, Mean, Metrics


@needs("preference", "completions")
@shared("role", "reference", "pairs")
def dense_dpo(
    context: Context, batch: Batch, *, beta: Positive = 0.5, gamma: NonNegative = 5.0, **where: Any
) -> tuple[Mean, Metrics]:
    """Dense DPO of RLHF-V: -log S(beta h) of scores (sum of unchanged tokens + gamma sum of edited tokens) / (number
    unchanged + gamma number edited), for policy and reference alike (arXiv:2312.00849).

    gamma = 1 is DPO of per-token means. Minimized at a margin of logit(p) / beta. Means, beta and gamma are the paper's
    as we remember it. The authors' later code (RLAIF-V) also has beta 0.5, with gamma 3 and weighted sums in the place
    of means unless asked; `dpo` on a batch of such masks is that.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N]; completions["edited"] [B,N,T] marks the tokens that the
            correction changed.
        beta: Inverse temperature, of means and so larger than DPO's would be.
        gamma: Weight of an edited token.
        **where: role, reference and pairs, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs, whose margins are in nats per token.

    Raises:
        ConfigError: If the batch has no completions["edited"] or no preference.
    """
    weighted = batch.replace(mask=normalized(span_mask(batch, edited=gamma, rest=1.0)))
    return dpo(context, weighted, beta=beta, **where)


@needs("preference", "completions")
@shared("role", "reference", "pairs")
def iterpref(
    context: Context, batch: Batch, *, beta: Positive = 0.1, anchor: NonNegative = 1.0, **where: Any
) -> tuple[Mean, Metrics]:
    """Focal DPO of IterPref: -log S(beta (rho_w - rho_l on its edited tokens)) - anchor lp_w / len(w)
    (arXiv:2503.02783).

    The winner counts whole, the loser only where its repair took something out. A soft label p mixes both orders, in
    both terms. A loser without an edited token counts nothing, and only the winner moves. Both sides are as in eq. 4 to
    8, beta and anchor too. The likelihood is a mean over tokens as in the authors' code (which drops tokens with the id
    0 from it), where the paper's eq. 7 is a sum: multiply `anchor` by the length for that.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N]; completions["edited"] [B,N,T] marks what the repair took
            out (for code, lines: `revisions(..., level="line")`).
        beta: Inverse temperature of the log-ratio.
        anchor: Weight of the winners' mean negative log-likelihood, one mean over all their tokens, beside that over
            pairs.
        **where: role, reference and pairs, see `declared.shared`.

    Returns:
        The sum of the two means in nats, and the metrics of pairs with `anchor`: the winners' nats per token.

    Raises:
        ConfigError: If the batch has no completions["edited"] or no preference.
    """
    # The pairs are scored twice, whole and on their edited tokens, because either side may be the loser: with a soft
    # label both orders are needed, and each takes its winner from the first scoring and its loser from the second.
    mask = mask_of(batch).astype(float)
    faulty = mask * edited_of(batch).astype(mask.dtype)
    pair = score_pairs(context, batch, **where)
    whole, weight = pair.fields, pair.weight
    masks = faulty[:, pair.i], faulty[:, pair.j]
    focal = score_pairs(context, batch, **where, masks=masks).fields
    forth = -jax.nn.log_sigmoid(beta * (whole["ratio_i"] - focal["ratio_j"]))
    back = -jax.nn.log_sigmoid(beta * (whole["ratio_j"] - focal["ratio_i"]))
    loss = pair.mean(pair.mix(forth, back))
    won = jnp.stack([weight * pair.label, weight * (1 - pair.label)])  # [2,B,K]: how much either side is the winner
    logps, length = (jnp.stack([whole[f"{name}_i"], whole[f"{name}_j"]]) for name in ("logps", "length"))
    nll = Mean(-jnp.sum(jnp.where(won != 0, logps, 0) * won), jnp.sum(length * won))
    return Mean(loss.total + anchor * nll.value() * loss.weight, loss.weight), pair.metrics(anchor=nll)


@needs("completions")
def figa(
    context: Context,
    batch: Batch,
    *,
    inserted: NonNegative = 1.0,
    deleted: NonNegative = 0.5,
    likely: Number = 0.6,
    role: str = "policy",
    revised: Natural = 0,
    original: Natural = 1,
) -> tuple[Mean, Metrics]:
    """Fine-grained imitation of a revision: (inserted sum of -log pi on the tokens that the revision brought in -
    deleted sum of -log pi on those it took out of the original, where -log pi <= likely) / number of such tokens
    (arXiv:2311.04072).

    No reference and no labels. With all of a revision marked and nothing of the original it is supervised fine-tuning
    on the revision. The gate and the division are the authors' code's; one state of it also counts the revision's end
    token always and lets tokens with -log pi in [likely, 1] alone through the gate. It takes the weights as arguments;
    1 and 0.5 are the paper's as we remember it.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T]; completions["edited"] [B,N,T] marks the tokens on both sides.
        inserted: Weight of the tokens that were brought in.
        deleted: Weight of those that were taken out.
        likely: In nats: a token of the original that the policy finds less likely than exp(-likely) is left alone,
            which is what bounds the loss.
        role: What is trained.
        revised: The number of the revision.
        original: The number of the original.

    Returns:
        The mean over tokens in nats; `nats_inserted`, `nats_deleted`, and `deleted_share`, the share of the deleted
        tokens that pass the gate.

    Raises:
        ConfigError: If the batch has no completions["edited"] or not the completions named.
    """
    # The two sides are summed apart and divided by one count, so the weights `inserted` and `deleted` compare tokens
    # with tokens, however many of each the edit has.
    pair_indices(batch, ((revised, original),))
    logps = scored(context, batch, role)
    touched = mask_of(batch) * edited_of(batch)
    new, old = -logps[:, revised], -logps[:, original]
    passes = old <= likely
    gain = Mean.of(inserted * new, touched[:, revised])
    loss = Mean.of(-deleted * old, touched[:, original] * passes)
    metrics = {
        "nats_inserted": Mean.of(new, touched[:, revised]),
        "nats_deleted": Mean.of(old, touched[:, original]),
        "deleted_share": Mean.of(passes, touched[:, original]),
    }
    return Mean(gain.total + loss.total, gain.weight + loss.weight), metrics


@needs("prompts", "views")
def cut(
    context: Context,
    batch: Batch,
    *,
    lambda_: Threshold = 1.1,
    alpha: NonNegative = 1.0,
    role: str = "policy",
    view: str = "judged",
) -> tuple[Mean, Metrics]:
    """Contrastive unlikelihood from judgments: 1/2 [-log pi(y_t; x, j) + (-log pi(y_t; x), or -alpha log(1 - pi(y_t;
    x)) where sg(pi(y_t; x, j) / pi(y_t; x)) > lambda_)], mean over tokens; the first term alone, whole, where nothing
    was judged wrong (arXiv:2312.14591).

    Tokens that the judgment makes lambda_ times likelier are taken for the fault and unlearned. Two forward passes, no
    reference. log(1 - pi) is exact, where the authors' code adds 1e-5. The code adds two means, over all rows and over
    the judged; we take one mean in which each row keeps its own form, the same for a batch of one. lambda_ and alpha
    are those of the code's offline script. The paper's unlikelihood carries a further factor pi(y_t; x)^gamma, as we
    remember it; the code has none, nor have we.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T]; views[view] holds the same completions under a prompt with the judgment j (the
            source `judgements` makes it), and prompts["judged"] [B] is 1 where a judgment finds fault.
        lambda_: How much likelier a faulty token is; inf takes none.
        alpha: Weight of unlearning.
        role: What is trained.
        view: The name of the view.

    Returns:
        The mean over tokens in nats; `nats_judged`, `faulty_share` of the judged tokens, and `nats_faulty`.

    Raises:
        ConfigError: If the view or prompts["judged"] is missing, or the view's completions have another shape.
    """
    # The same tokens are scored under two prompts, and the gate on their ratio is a comparison, without a gradient: it
    # says where the fault is, and cannot be learned away.
    judged, is_faulty = view_of(batch, view), batch.need("prompts", "judged", of="cut")
    if judged.tokens is None or judged.tokens.shape != batch.need("tokens", of="cut").shape:
        raise ConfigError(f"the view {view!r} must hold the completions of the batch, in the same places")
    under_judgment, plain = scored(context, judged, role), scored(context, batch, role)
    unlike = context.score(role, batch, read=reads.complement)["complement"]
    faulty = under_judgment - plain > jnp.log(lambda_)
    is_judged = (is_faulty != 0)[:, None, None]
    second = jnp.where(faulty, -alpha * unlike, -plain)
    mask = mask_of(batch)
    at_fault = mask * is_judged
    metrics = {
        "nats_judged": Mean.of(-under_judgment, mask),
        "faulty_share": Mean.of(faulty, at_fault),
        "nats_faulty": Mean.of(-plain, at_fault * faulty),
    }
    return Mean.of(jnp.where(is_judged, (second - under_judgment) / 2, -under_judgment), mask), metrics
