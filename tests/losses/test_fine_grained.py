"""Losses on edited and judged completions, and learned masks: what they reduce to, and what they may not touch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import losses, roles
from alignjax.config import fn
from alignjax.models.kv_cache import default_read
from alignjax.train.state import create_state
from alignjax.train.step import make_update
from alignjax.types import Algorithm, Array, Batch, Context, Head, Hidden, Mean, Model, Role
from alignjax.workspace import Workspace
from tests.support.network import parameters
from tests.support.over_tokens import a_policy, answer, distributions, masks_of, now, same, sure_pairs, told
from tests.support.tiny import as_jax, difference, sgd

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def policy() -> Any:
    return a_policy()


@pytest.fixture
def batch() -> Batch:
    return sure_pairs()


# ----------------------------------------------------------------------------------------------------------------
# edits


def marked(batch: Batch, edited: Any) -> Batch:
    return batch.replace(completions={"edited": jnp.broadcast_to(jnp.asarray(edited, float), batch.tokens.shape)})


def test_dense_dpo_between_its_limits(policy: Any, batch: Batch) -> None:
    per_token = fn(losses.dpo, beta=0.3, normalize="length")
    same(fn(losses.dense_dpo, beta=0.3, gamma=1.0), per_token, policy, batch)
    same(fn(losses.dense_dpo, beta=0.3), per_token, policy, marked(batch, 0.0))
    same(fn(losses.dense_dpo, beta=0.3, gamma=0.02), per_token, policy, marked(batch, 1.0))  # weights far below 1
    unchanged = batch.replace(mask=batch.mask * (batch.completions["edited"] == 0))
    same(fn(losses.dense_dpo, beta=0.3, gamma=0.0), per_token, policy, batch, unchanged)


def test_iterpref_with_all_marked_is_dpo_and_likelihood(policy: Any, batch: Batch) -> None:
    every = marked(batch, 1.0)
    winners = batch.pick(jnp.zeros((len(batch.tokens), 1), jnp.int32))

    def parts(context: Context, batch: Batch) -> tuple[Mean, Any]:
        value = losses.dpo(context, batch, beta=0.3)[0].value() + 0.7 * losses.sft(context, winners)[0].value()
        return Mean(value, jnp.ones(())), {}

    same(fn(losses.iterpref, beta=0.3, anchor=0.7), parts, policy, every)


def test_iterpref_without_a_mark_moves_the_winner_alone(policy: Any, batch: Batch) -> None:
    loser_unmarked = marked(batch, jnp.zeros_like(batch.completions["edited"]).at[:, 0].set(1))
    without_loser = batch.replace(mask=batch.mask.at[:, 1].set(0))
    same(fn(losses.iterpref, beta=0.3, anchor=0.0), fn(losses.dpo, beta=0.3), policy, loser_unmarked, without_loser)


def test_figa_on_a_revision_that_is_all_new_is_sft(policy: Any, batch: Batch) -> None:
    new = marked(batch, jnp.zeros_like(batch.completions["edited"]).at[:, 0].set(1))
    winners = batch.pick(jnp.zeros((len(batch.tokens), 1), jnp.int32))
    same(fn(losses.figa), fn(losses.sft), policy, new, winners)


def test_figa_leaves_alone_what_the_policy_finds_unlikely(policy: Any, batch: Batch) -> None:
    """A gate of 0 forgets the original altogether; one that is wide open is unlikelihood on all that was taken out."""
    closed = batch.replace(mask=batch.mask.at[:, 1].set(0))
    same(fn(losses.figa, likely=-1.0), fn(losses.figa), policy, batch, closed)
    old = marked(batch, jnp.zeros_like(batch.completions["edited"]).at[:, 1].set(1))
    losers = batch.pick(jnp.ones((len(batch.tokens), 1), jnp.int32))
    unlearn = fn(losses.weighted, loss=fn(losses.sft), weight=-0.5)
    same(fn(losses.figa, likely=1e9), unlearn, policy, old, losers)
    nats = -np.asarray(now(policy).score("policy", losers)["policy"])[np.asarray(losers.mask) > 0]
    metrics = losses.figa(now(policy), old, likely=float(np.median(nats)) + 1e-9)[1]
    np.testing.assert_allclose(metrics["deleted_share"].value(), np.mean(nats <= np.median(nats) + 1e-9), rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------------
# judgements


def test_cut_that_finds_no_fault_is_the_mean_of_two_likelihoods(policy: Any, batch: Batch) -> None:
    def both(context: Context, batch: Batch) -> tuple[Mean, Any]:
        views = (losses.sft(context, view)[0].value() for view in (batch, batch.views["judged"]))
        return Mean(sum(views), jnp.asarray(2.0)), {}

    given = told(batch)
    same(fn(losses.cut, lambda_=float("inf")), both, policy, given)
    same(fn(losses.cut, lambda_=0.0), losses.on("judged", fn(losses.sft)), policy, told(batch, 0.0))


def test_cut_unlearns_what_the_judgement_makes_likelier(policy: Any, batch: Batch) -> None:
    given = told(batch)
    p, judged = distributions(policy, batch), distributions(policy, given.views["judged"])
    token = np.asarray(batch.tokens)[..., None]
    p, judged = (np.take_along_axis(values, token, axis=-1)[..., 0] for values in (p, judged))
    on = np.asarray(batch.mask) > 0
    faulty = judged / p > 1.1
    assert 0.2 < faulty[on].mean() < 0.8
    second = np.where(faulty, -0.7 * np.log1p(-np.where(on, p, 0.5)), -np.log(p))
    value, _ = answer(fn(losses.cut, alpha=0.7), policy, given)
    np.testing.assert_allclose(value, np.mean((second - np.log(judged))[on]) / 2, rtol=1e-9)
    _, metrics = losses.cut(now(policy), given)
    np.testing.assert_allclose(metrics["faulty_share"].value(), faulty[on].mean(), rtol=1e-6)


def test_rows_of_a_view_stay_with_their_batch_in_minibatches() -> None:
    """What CUT compares token by token must be the same rows, however they are shuffled."""
    seen = Batch(prompt=jnp.arange(8)[:, None], views={"judged": Batch(prompt=jnp.arange(8)[:, None])})

    def apart(context: Context, batch: Batch) -> tuple[Mean, Any]:
        gap = jnp.abs(batch.prompt - batch.views["judged"].prompt).astype(float)
        return Mean.of(gap * context.params("policy")), {"gap": Mean.of(gap)}

    policy = Role(None, roles.value(lambda key: jnp.ones(())), fn(sgd))
    algorithm = Algorithm(losses={"a": fn(apart)}, roles={"policy": policy}, epochs=2, minibatches=4)
    state = create_state(algorithm, 0, Workspace.__new__(Workspace))
    _, metrics = make_update(algorithm)(state, seen)
    assert float(metrics["a/gap"]) == 0


# ----------------------------------------------------------------------------------------------------------------
# learned masks


@pytest.mark.parametrize("independent", [False, True])
def test_sparse_po_with_masks_of_1_is_tdpo1(independent: bool, policy: Any, batch: Batch) -> None:
    masks = masks_of(scale=0.0, independent=independent)
    given = answer(fn(losses.sparse_po, beta=0.3), policy, batch, masks=masks)
    expected = answer(fn(losses.tdpo, beta=0.3, variant="tdpo1"), policy, batch)
    np.testing.assert_allclose(given[0], expected[0], rtol=1e-10)
    assert difference(given[1], expected[1]) < 1e-10
    lengths = np.asarray(batch.mask)[:, :2].sum((1, 2)).mean()
    paid, _ = answer(fn(losses.sparse_po, beta=0.3, l1_reward=0.03, l1_kl=0.05), policy, batch, masks=masks)
    np.testing.assert_allclose(paid - given[0], 0.08 * lengths, rtol=1e-9)


def test_each_mask_weighs_its_own_term(policy: Any, batch: Batch) -> None:
    """With a reward mask of 1 and a KL mask of 0 the loss is DPO."""
    masks = masks_of(scale=0.0, independent=True)
    masks = {**masks, "kl": {**masks["kl"], "bias": -masks["kl"]["bias"]}}
    given = answer(fn(losses.sparse_po, beta=0.3), policy, batch, masks=masks)
    expected = answer(fn(losses.dpo, beta=0.3), policy, batch)
    np.testing.assert_allclose(given[0], expected[0], rtol=1e-10)
    assert difference(given[1], expected[1]) < 1e-10


def test_masks_do_not_pull_at_the_states_they_read(policy: Any, batch: Batch) -> None:
    """Even if the reference is the policy itself, states are inputs."""
    masks = masks_of(scale=0.5)

    def loss(params: Any) -> Array:
        mean, _ = losses.sparse_po(now(policy, params, masks), filed, beta=0.0, l1_reward=1.0)
        return mean.value()

    filed = batch.with_logps(reference=jnp.zeros(batch.tokens.shape))
    gradient = jax.jit(jax.grad(loss))(as_jax(parameters(2, "float64")))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


LETTERS, LENGTH = 8, 6


def unigram_hidden(params: Any, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
    states = jnp.broadcast_to(params, (*batch.tokens.shape, LETTERS))
    return Hidden(states, states, {"token": jax.nn.one_hot(batch.tokens, LETTERS)})


UNIGRAMS = Model(
    lambda key: jnp.zeros(LETTERS), unigram_hidden, {"lm": Head("before", lambda params, states: states)}, default_read
)


def one_decisive_token(seed: int, rows: int) -> Batch:
    """Pairs of random letters; winners have the letter 1 somewhere, losers the letter 2."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(3, LETTERS, (rows, 2, LENGTH)).astype(np.int32)
    place = draw.integers(0, LENGTH, (rows, 2))
    np.put_along_axis(tokens, place[..., None], np.array([1, 2], np.int32)[None, :, None], axis=2)
    return Batch(
        prompt=jnp.zeros((rows, 1), jnp.int32), prompt_valid=jnp.ones((rows, 1), bool), tokens=jnp.asarray(tokens),
        valid=jnp.ones(tokens.shape, bool), mask=jnp.ones(tokens.shape),
        preference=jnp.broadcast_to(jnp.array([[0.5, 1.0], [0.0, 0.5]]), (rows, 2, 2)),
    )  # fmt: skip


def adam(*, learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_learned_masks_move_to_the_token_that_decides(seed: int) -> None:
    """Their mass on it: a sixth at the start, nearly all at the end, and zeros elsewhere."""
    masks = fn(losses.sparse_masks, width=LETTERS, layers=1)
    loss = fn(losses.sparse_po, beta=1.0, l1_reward=0.02, l1_kl=0.02, sites=("token",))
    algorithm = Algorithm(
        losses={"sparse_po": loss},
        roles={
            "policy": Role(UNIGRAMS, roles.fresh(), fn(adam, learning_rate=0.02)),
            "reference": Role(UNIGRAMS, roles.fresh()),
            "masks": Role(None, roles.value(masks), fn(adam, learning_rate=0.02)),
        },
    )
    state = create_state(algorithm, seed, Workspace.__new__(Workspace))
    update = make_update(algorithm)

    def share(state: Any) -> float:
        batch = one_decisive_token(999, 256)
        states = jax.nn.one_hot(batch.tokens, LETTERS)[..., None, :]
        mass = np.asarray(losses.token_level.token_masks(state.roles["masks"]["reward"], states))
        return float(mass[np.asarray(batch.tokens) < 3].sum() / mass.sum())

    assert share(state) == pytest.approx(1 / LENGTH, abs=0.03)
    for step in range(250):
        state, metrics = update(state, one_decisive_token(1000 * seed + step, 32))
    assert share(state) > 0.95
    assert float(metrics["sparse_po/zero_share"]) > 0.7
    table = np.asarray(state.roles["policy"])
    assert table[1] - table[2] > 1
    assert np.ptp(table[3:]) < 0.5 * (table[1] - table[2])
