"""Losses on single tokens: what they reduce to, and what they may not touch. On real contexts over small networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.losses import reads
from alignjax.types import Array, Batch, Context, Mean
from tests.losses import test_enumeration as enumerable
from tests.support.network import WIDTH, full_batch, parameters
from tests.support.over_tokens import a_policy, answer, distributions, masks_of, now, same, sure_pairs, told
from tests.support.tiny import as_jax, difference

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def policy() -> Any:
    return a_policy()


@pytest.fixture
def batch() -> Batch:
    return sure_pairs()


# ----------------------------------------------------------------------------------------------------------------
# reads


def test_reads_against_written_out_distributions(policy: Any, batch: Batch) -> None:
    reference = as_jax(parameters(2, "float64"))
    p, r = distributions(policy, batch), distributions(reference, batch)
    valid = np.asarray(batch.valid)
    np.testing.assert_allclose(p[valid].sum(-1), 1, rtol=1e-10)
    scored = now(policy).score(("policy", "reference"), batch, read=reads.forward_kl)["forward_kl"]
    np.testing.assert_allclose(scored[valid], entropy(r[valid], p[valid], axis=-1), rtol=1e-9)
    assert not np.any(scored[~valid])
    agree = now(policy).score("policy", batch, read=reads.collision)["collision"]
    np.testing.assert_allclose(agree[valid], np.log((p[valid] ** 2).sum(-1)), rtol=1e-9)
    others = now(policy).score("policy", batch, read=reads.complement)["complement"]
    token = np.take_along_axis(p, np.asarray(batch.tokens)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(others[valid], np.log1p(-token[valid]), rtol=1e-9)


def test_kl_over_tokens_is_the_kl_over_completions() -> None:
    """The chain rule, over all completions that there are: E K(y) = KL(reference to policy), both in expectation over
    the reference."""
    policy, reference = enumerable.init(jax.random.key(0)), enumerable.init(jax.random.key(1))
    batch = enumerable.pairs([(number, number) for number in range(len(enumerable.EVERY))])
    both = enumerable.context_of(enumerable.NETWORK, policy=policy, reference=reference)
    kl = both.score(("policy", "reference"), batch, read=reads.forward_kl)["forward_kl"][:, 0].sum(-1)
    logp, logr = (np.asarray(enumerable.sequence_logps(params)) for params in (policy, reference))
    expected = np.sum(np.exp(logr) * (logr - logp))
    np.testing.assert_allclose(np.sum(np.exp(logr) * kl), expected, rtol=1e-10)
    assert expected > 0.01


def test_complement_of_a_certain_token() -> None:
    """Where 1 - p rounds to 0 its logarithm is still there, and so is the gradient."""
    logits = jnp.array([80.0, 0, 0])
    value, gradient = jax.value_and_grad(lambda x: reads.complement({"p": x}, jnp.array(0))["complement"])(logits)
    np.testing.assert_allclose(value, np.log(2) - 80, rtol=1e-12)
    np.testing.assert_allclose(gradient, [-1, 0.5, 0.5], rtol=1e-12)


def test_kl_where_the_reference_rules_tokens_out() -> None:
    given = {"policy": jnp.array([0.3, -jnp.inf, 0.1]), "reference": jnp.array([1.0, -jnp.inf, 0.0])}

    def kl(logits: Array) -> Array:
        return reads.forward_kl({**given, "policy": logits}, jnp.array(0))["forward_kl"]

    value, gradient = jax.value_and_grad(kl)(given["policy"])
    two = [jax.nn.softmax(given[name][jnp.array([0, 2])]) for name in ("reference", "policy")]
    np.testing.assert_allclose(value, entropy(*two), rtol=1e-10)
    assert np.all(np.isfinite(gradient[jnp.array([0, 2])]))


# ----------------------------------------------------------------------------------------------------------------
# TDPO


@pytest.mark.parametrize("variant", ["tdpo1", "tdpo2"])
def test_tdpo_of_a_policy_that_is_its_reference_is_dpo(variant: Any, policy: Any, batch: Batch) -> None:
    """With log-ratios that are not 0: the filed log-probs of another reference."""
    filed = batch.with_logps(reference=now(policy).score("reference", batch)["reference"])
    tdpo = fn(losses.tdpo, beta=0.3, variant=variant)
    value, _ = answer(tdpo, policy, filed, reference=policy)
    expected, _ = answer(fn(losses.dpo, beta=0.3), policy, filed)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    assert abs(float(value) - np.log(2)) > 0.01
    assert abs(float(answer(tdpo, policy, filed)[0]) - float(value)) > 1e-3


def test_the_kl_of_tdpo_is_that_from_the_reference(policy: Any, batch: Batch) -> None:
    """Its value, from distributions that were written out: the margin less the gap of KL(reference || policy)."""
    reference = as_jax(parameters(2, "float64"))
    p, r = distributions(policy, batch), distributions(reference, batch)
    on = np.asarray(batch.mask)
    token = np.asarray(batch.tokens)[..., None]
    ratio = np.take_along_axis(np.log(p) - np.log(r), token, axis=-1)[..., 0]
    rho = np.where(on != 0, ratio, 0).sum(-1)
    for one, other, sign in ((r, p, 1), (p, r, -1)):
        kl = np.where(on != 0, entropy(one, other, axis=-1), 0).sum(-1)
        gap = (rho[:, 0] - rho[:, 1]) - (kl[:, 1] - kl[:, 0])
        expected = np.logaddexp(0, -0.3 * gap).mean()
        value, _ = answer(fn(losses.tdpo, beta=0.3, variant="tdpo1"), policy, batch)
        assert (abs(float(value) - expected) < 1e-9) == (sign > 0)


def test_tdpo_without_its_kl_is_dpo(policy: Any, batch: Batch) -> None:
    same(fn(losses.tdpo, beta=0.3, alpha=0.0), fn(losses.dpo, beta=0.3), policy, batch)


@pytest.mark.parametrize("label", [1.0, 0.0])
def test_tdpo2_does_not_move_by_the_kl_of_the_winner(label: float, policy: Any, batch: Batch) -> None:
    """A side of no tokens has neither log-ratio nor KL. Beside it, the winner's gradient is that of its log-ratio
    alone, up to a factor; the loser's, and the winner's in TDPO1, is not."""
    batch = batch.replace(preference=jnp.full_like(batch.preference, label).at[:, 1, 0].set(1 - label)).take(
        jnp.array([0])
    )
    winner = int(label == 0)

    def direction(loss: Any, alone: int) -> np.ndarray:
        _, gradient = answer(loss, policy, batch.replace(mask=batch.mask.at[:, 1 - alone].set(0)))
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
        return flat / np.linalg.norm(flat)

    one, two = (fn(losses.tdpo, beta=0.3, variant=variant) for variant in ("tdpo1", "tdpo2"))
    dpo = fn(losses.dpo, beta=0.3)
    np.testing.assert_allclose(direction(two, winner) @ direction(dpo, winner), 1, rtol=1e-12)
    assert direction(one, winner) @ direction(dpo, winner) < 0.999
    assert direction(two, 1 - winner) @ direction(dpo, 1 - winner) < 0.999


def test_variants_of_tdpo_agree_in_value_at_alpha_1(policy: Any, batch: Batch) -> None:
    one, _ = answer(fn(losses.tdpo, variant="tdpo1"), policy, batch)
    two, _ = answer(fn(losses.tdpo, variant="tdpo2", alpha=1.0), policy, batch)
    np.testing.assert_allclose(one, two, rtol=1e-12)
    with pytest.raises(ConfigError, match="variant"):
        fn(losses.tdpo, variant="tdpo3")


# ----------------------------------------------------------------------------------------------------------------
# length and likelihood


def cut_to_the_shorter(batch: Batch) -> Batch:
    """Both sides of pair (0, 1) end where the shorter does, by tokens that count."""
    counted = np.cumsum(np.asarray(batch.mask) != 0, axis=-1)
    shorter = counted[:, :2, -1].min(-1)[:, None, None]
    assert (counted[..., -1] > shorter[..., 0])[:, :2].any()
    return batch.replace(mask=jnp.where(counted <= shorter, batch.mask, 0))


def test_length_desensitisation_between_its_limits(policy: Any, batch: Batch) -> None:
    dpo = fn(losses.dpo, beta=0.3)
    same(fn(losses.ld_dpo, beta=0.3, alpha=1.0), dpo, policy, batch)
    same(fn(losses.ld_dpo, beta=0.3, alpha=0.0), dpo, policy, batch, cut_to_the_shorter(batch))
    even = cut_to_the_shorter(batch)
    same(fn(losses.ld_dpo, beta=0.3, alpha=0.0), dpo, policy, even)  # equal lengths have no tail
    ipo = fn(losses.ipo, tau=0.4, normalize="length")
    same(fn(losses.length_desensitised, loss=ipo, alpha=1.0), ipo, policy, batch)
    swapped = batch.pick(jnp.tile(jnp.array([1, 0]), (len(batch.tokens), 1)))
    same(fn(losses.ld_dpo, beta=0.3), fn(losses.ld_dpo, beta=0.3), policy, batch, swapped)


def test_a_uniform_policy_weighs_every_pair_1(policy: Any, batch: Batch) -> None:
    heads = {**policy["heads"], "lm": 0 * policy["heads"]["lm"]}
    uniform = {**policy, "heads": heads}
    dpo = fn(losses.dpo, beta=0.3, pairs=((0, 1), (2, 3)))
    same(fn(losses.wpo, loss=dpo), dpo, uniform, batch)


def test_weights_are_not_divided_out(policy: Any, batch: Batch) -> None:
    """Of one pair the loss is its weight times the loss, the weight is at most 1 and a constant, and the clamp is on
    the product: a side that is likelier than a draw makes up for one that is not."""
    p = distributions(policy, batch)
    token = np.take_along_axis(p, np.asarray(batch.tokens)[..., None], axis=-1)[..., 0]
    valid = np.asarray(batch.mask) != 0
    surprise = np.where(valid, np.log(np.where(valid, token, 1)) - np.log(np.sum(p**2, axis=-1)), 0)
    c = surprise.sum(-1) / valid.sum(-1)
    assert ((c[:, 0] > 0) != (c[:, 1] > 0)).any()
    dpo = fn(losses.dpo, beta=0.3)
    for row in range(len(c)):
        one = batch.take(jnp.array([row]))
        value, gradient = answer(fn(losses.wpo, loss=dpo), policy, one)
        plain, slope = answer(dpo, policy, one)
        weight = min(1.0, np.exp(c[row, 0] + c[row, 1]))
        np.testing.assert_allclose(value, weight * plain, rtol=1e-9)
        assert difference(gradient, jax.tree.map(lambda leaf, w=weight: w * leaf, slope)) < 1e-9
    whole, _ = answer(fn(losses.wpo, loss=dpo), policy, batch)
    rows = [float(answer(fn(losses.wpo, loss=dpo), policy, batch.take(jnp.array([row])))[0]) for row in range(len(c))]
    np.testing.assert_allclose(whole, np.mean(rows), rtol=1e-10)


# ----------------------------------------------------------------------------------------------------------------
# memory and mistakes

WIDE = 97


def sizes(jaxpr: Any) -> Iterator[int]:
    """Numbers of elements of all arrays in a program, inner programs included."""
    for equation in jaxpr.eqns:
        yield from (out.aval.size for out in equation.outvars if hasattr(out.aval, "size"))
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def largest(loss: Any) -> tuple[int, int]:
    """(elements of the largest array in a loss's gradient, B N T V) for a vocabulary that outgrows all else."""
    draw = np.random.default_rng(0)
    lm = jnp.asarray(draw.normal(size=(WIDTH, WIDE)))
    base = as_jax(full_batch(rows=2)).pick(jnp.tile(jnp.array([0, 1]), (2, 1)))
    base = told(base).replace(completions=base.completions)

    def gradient(params: Any, masks: Any) -> Any:
        def value(params: Any, masks: Any) -> Array:
            return loss(now(params, params, masks), base)[0].value()

        return jax.grad(value, argnums=(0, 1))(params, masks)

    params = as_jax(parameters(1, "float64"))
    params = {**params, "heads": {**params["heads"], "lm": lm}}
    program = jax.make_jaxpr(gradient)(params, masks_of()).jaxpr
    return max(sizes(program)), base.tokens.size * WIDE


EVERY = [
    fn(losses.tdpo), fn(losses.ld_dpo), fn(losses.wpo), fn(losses.dense_dpo), fn(losses.iterpref), fn(losses.figa),
    fn(losses.cut), fn(losses.sparse_po),
]  # fmt: skip


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.name)
def test_no_array_holds_all_logits(loss: Any) -> None:
    found, all_logits = largest(loss)
    assert WIDE < found < all_logits


def test_an_array_of_all_logits_would_be_seen() -> None:
    def careless(context: Context, batch: Batch) -> tuple[Mean, Any]:
        logits = context.score("policy", batch, read=reads.raw_states)["policy"]
        return Mean.of(jax.nn.log_softmax(logits)), {}

    found, all_logits = largest(careless)
    assert found >= all_logits


def test_mistakes_are_named(policy: Any, batch: Batch) -> None:
    bare = batch.replace(completions={}, prompts={}, views={})
    for loss in (losses.dense_dpo, losses.iterpref, losses.figa):
        with pytest.raises(ConfigError, match=r'needs batch\.completions\["edited"\].*fn\(revisions'):
            loss(now(policy), bare)
    with pytest.raises(ConfigError, match="no view 'judged'"):
        losses.cut(now(policy), bare)
    with pytest.raises(ConfigError, match=r'needs batch\.prompts\["judged"\]'):
        losses.cut(now(policy), told(batch).replace(prompts={}))
    short = told(batch)
    short = short.replace(views={"judged": short.views["judged"].pick(jnp.zeros((8, 1), jnp.int32))})
    with pytest.raises(ConfigError, match="must hold the completions of the batch"):
        losses.cut(now(policy), short)
    with pytest.raises(ConfigError, match=r"needs a role 'masks'.*sparse_masks"):
        losses.sparse_po(now(policy), batch)
    with pytest.raises(ConfigError, match=r"fn\(sparse_masks, width=4, layers=2\)"):
        losses.sparse_po(now(policy, masks=masks_of(layers=3)), batch)
    with pytest.raises(ConfigError, match=r"length_desensitised needs a pairwise loss .* not fn\(sft"):
        losses.length_desensitised(now(policy), batch, loss=fn(losses.sft))
    with pytest.raises(ConfigError, match="sft has no pairs"):
        losses.wpo(now(policy), batch, loss=fn(losses.sft))
    with pytest.raises(ConfigError, match=r"pairs=\(\(0, 9\),\) do not fit"):
        losses.figa(now(policy), batch, original=9)
