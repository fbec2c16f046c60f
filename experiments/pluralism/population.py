"""A made population with planted tastes, and what each method learns of it through alignjax's losses.

An item is a vector; a user likes it by a linear taste, and says which of two is better with Bradley-Terry probability.
Tastes are a part that all share and one of K others. Users are split into those that train and those that are held out,
and of the latter a few labels are known. Right is what the taste itself prefers, without the noise of a label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alignjax import losses, user_scores
from alignjax.config import Fn, fn
from alignjax.models.kv_cache import default_read
from alignjax.scoring import context
from alignjax.types import Array, Batch, Head, Hidden, Key, Model, Role

WIDTH, TASTES, COMMON, OWN = 8, 3, 0.7, 1.8
USERS, PAIRS, HELD_OUT, MOST, ASKED = 60, 40, 60, 32, 200  # MOST labels of a held-out user are known, ASKED are not
EMBEDDING, LATENT = 8, 2
LABELS = (0, 1, 2, 4, 8, 16, 32)


class Comparisons(NamedTuple):
    """Pairs of items [U,M,2,D], labels [U,M] (1: the first), and the sign of the taste's difference [U,M]."""

    items: Array
    label: Array
    truth: Array


class Population(NamedTuple):
    """Comparisons by users that train, and by held-out ones: what may be fitted to, and what is asked."""

    train: Comparisons
    known: Comparisons
    asked: Comparisons


def population(key: Key, planted: bool = True) -> Population:
    """Draws users and their comparisons. planted: without it every user has a taste of their own, of the same size, so
    that there is no structure to find."""
    kinds, own, whose, *streams = jax.random.split(key, 6)
    users = USERS + HELD_OUT
    shared = COMMON * jnp.eye(WIDTH)[0]
    drawn = jax.random.normal(own, (users, WIDTH)) if not planted else jax.random.normal(kinds, (TASTES, WIDTH))
    drawn = drawn.at[:, 0].set(0)  # the shared part is a direction of its own
    drawn = OWN * drawn / jnp.linalg.norm(drawn, axis=-1, keepdims=True)
    tastes = shared[None] + (drawn if not planted else drawn[jax.random.permutation(whose, jnp.arange(users) % TASTES)])

    def compared(key: Key, tastes: Array, pairs: int) -> Comparisons:
        items, labels = jax.random.split(key)
        item = jax.random.normal(items, (len(tastes), pairs, 2, WIDTH))
        gap = jnp.einsum("umd,ud->um", item[:, :, 0] - item[:, :, 1], tastes)
        return Comparisons(item, jax.random.bernoulli(labels, jax.nn.sigmoid(gap)).astype(float), jnp.sign(gap))

    sizes = ((tastes[:USERS], PAIRS), (tastes[USERS:], MOST), (tastes[USERS:], ASKED))
    return Population(*(compared(key, *size) for key, size in zip(streams, sizes, strict=True)))


# ---------------------------------------------------------------------- the items as a model's input


def _hidden(params: Any, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
    """The state of a completion of one token is its item."""
    item = batch.completions["item"][:, :, None]
    return Hidden(item, item, dict.fromkeys(sites, item))


def _linear(name: str) -> Head:
    return Head("after", lambda params, states: states @ params[name])


def _init(key: Key) -> Any:
    return {"reward": jnp.zeros((WIDTH, 1)), "classes": jax.random.normal(key, (WIDTH, EMBEDDING)) * WIDTH**-0.5}


MODEL = Model(_init, _hidden, {"lm": _linear("classes"), "reward": _linear("reward"), "classes": _linear("classes")},
              default_read)  # fmt: skip


def batch_of(given: Comparisons, weight: Any = 1.0) -> Batch:
    """Every comparison of every user as a row with two completions of one token. weight: of each [U,M]."""
    users, pairs = given.label.shape
    item, label = given.items.reshape(-1, 2, WIDTH), given.label.reshape(-1)
    one = jnp.ones((users * pairs, 2, 1))
    preference = jnp.zeros((users * pairs, 2, 2)).at[:, 0, 1].set(label).at[:, 1, 0].set(1 - label)
    weights = jnp.broadcast_to(weight, given.label.shape).reshape(-1)[:, None, None] * jnp.ones((1, 2, 2))
    return Batch(
        tokens=one.astype(jnp.int32), valid=one > 0, mask=one, preference=preference, pair_weight=weights,
        prompts={"user": jnp.repeat(jnp.arange(users, dtype=float), pairs)}, completions={"item": item},
    )  # fmt: skip


def trained(loss: Fn, state: Any, moves: tuple[str, ...], batch: Batch, steps: int, rate: float, key: Key) -> Any:
    """Minimizes a loss over the whole batch by Adam, and returns the roles. Only those in `moves` are moved; new noise
    is drawn at every step for losses that read it."""
    roles = {name: Role(MODEL if name == "reward" else None, None) for name in state}
    optimizer = optax.adam(rate)

    def value(moving: Any, key: Key) -> Array:
        noise = jax.random.normal(key, (len(batch.tokens), LATENT))
        drawn = batch.replace(prompts={**batch.prompts, "noise": noise})
        return loss(context(roles, {**state, **moving}), drawn)[0].value()

    def step(carry: Any, key: Key) -> Any:
        moving, moments = carry
        change, moments = optimizer.update(jax.grad(value)(moving, key), moments)
        return (optax.apply_updates(moving, change), moments), None

    moving = {name: state[name] for name in moves}
    (moving, _), _ = jax.lax.scan(step, (moving, optimizer.init(moving)), jax.random.split(key, steps))
    return {**state, **moving}


# ---------------------------------------------------------------------- the methods

Scores = Callable[[Array], Array]  # items of held-out users [U,..,D] -> scores [U,..]
Method = Callable[[Population, Key], Callable[[Array], Scores]]  # -> (weights of known labels [U,MOST]) -> scores


def bradley_terry(given: Population, key: Key) -> Callable[[Array], Scores]:
    """One reward for all, which reads no labels of held-out users."""
    state = {"reward": MODEL.init(key)}
    state = trained(fn(losses.bradley_terry), state, ("reward",), batch_of(given.train), 300, 0.05, key)
    return lambda weight: lambda items: (items @ state["reward"]["reward"])[..., 0]


def pal(given: Population, key: Key) -> Callable[[Array], Scores]:
    """PAL-A with a linear map of items, distances and the logistic link; a new user's weights alone are fitted."""
    first, points, weights = jax.random.split(key, 3)
    loss = fn(losses.pal, link="logistic")
    state = {
        "reward": MODEL.init(first),
        "prototypes": user_scores.ideal_points(points, width=EMBEDDING, prototypes=TASTES),
        "users": user_scores.user_weights(weights, users=USERS, prototypes=TASTES),
    }
    state = trained(loss, state, tuple(state), batch_of(given.train), 600, 0.03, key)

    def fitted(weight: Array) -> Scores:
        new = {**state, "users": {"weights": jnp.zeros((HELD_OUT, TASTES))}}
        new = trained(loss, new, ("users",), batch_of(given.known, weight), 60, 0.1, key)

        def scores(items: Array) -> Array:
            features = (items @ new["reward"]["classes"]).reshape(HELD_OUT, -1, EMBEDDING)
            found = user_scores.ideal_point_scores(new["prototypes"], new["users"]["weights"], features)
            return found.reshape(items.shape[:-1])

        return scores

    return fitted


def vpl(given: Population, key: Key) -> Callable[[Array], Scores]:
    """VPL on the items themselves; a new user is the mean of the posterior of their labels."""
    state = {
        "reward": MODEL.init(key),
        "latent": user_scores.latent_network(key, width=WIDTH, latent=LATENT, hidden=32),
    }
    loss = fn(losses.vpl, output="reward@item", kappa=0.01)
    params = trained(loss, state, ("latent",), batch_of(given.train), 600, 0.01, key)["latent"]

    def fitted(weight: Array) -> Scores:
        known, whose = given.known, jnp.repeat(jnp.arange(HELD_OUT), MOST)
        sides = [known.items[:, :, side].reshape(-1, WIDTH) for side in (0, 1)]
        users = user_scores.user_posteriors(
            params["encoder"], *sides, known.label.reshape(-1), weight.reshape(-1), whose, HELD_OUT
        )

        def scores(items: Array) -> Array:
            found = user_scores.latent_scores(params["reward"], items.reshape(HELD_OUT, -1, WIDTH), users.mean)
            return found.reshape(items.shape[:-1])

        return scores

    return fitted


def drm(given: Population, key: Key, centered: bool = True) -> Callable[[Array], Scores]:
    """DRM: principal directions of the training pairs' differences, and weights by each direction's own fit."""
    train = given.train
    sign = (2 * train.label - 1)[..., None]
    difference = (sign * (train.items[:, :, 0] - train.items[:, :, 1])).reshape(-1, WIDTH)
    directions = user_scores.principal_directions(difference, WIDTH, centered)

    def fitted(weight: Array) -> Scores:
        heads = user_scores.head_scores(directions, given.known.items)
        fit = jax.vmap(user_scores.fit_heads)(heads[:, :, 0], heads[:, :, 1], given.known.label, weight)

        def scores(items: Array) -> Array:
            found = user_scores.head_scores(directions, items).reshape(HELD_OUT, -1, 2 * WIDTH)
            return jax.vmap(user_scores.weighted_heads)(fit, found).reshape(items.shape[:-1])

        return scores

    return fitted


def alone(given: Population, key: Key) -> Callable[[Array], Scores]:
    """A control: each held-out user's own linear reward with a normal prior, from their labels and nothing else."""

    def fitted(weight: Array) -> Scores:
        gap = given.known.items[:, :, 0] - given.known.items[:, :, 1]

        def loss(tastes: Array) -> Array:
            logit = jnp.einsum("umd,ud->um", gap, tastes) * (2 * given.known.label - 1)
            return -jnp.sum(weight * jax.nn.log_sigmoid(logit)) + 0.5 * jnp.sum(tastes**2) * WIDTH / OWN**2

        step = lambda tastes, _: (tastes - 0.02 * jax.grad(loss)(tastes), None)  # noqa: E731
        tastes = jax.lax.scan(step, jnp.zeros((HELD_OUT, WIDTH)), None, length=300)[0]
        return lambda items: jnp.einsum("u...d,ud->u...", items, tastes)

    return fitted


def accuracy(scores: Scores, asked: Comparisons) -> Array:
    """How often each held-out user's scores are right [U]; equal ones are half right."""
    gap = scores(asked.items[:, :, 0]) - scores(asked.items[:, :, 1])
    return jnp.mean(jnp.where(gap == 0, 0.5, jnp.sign(gap) == asked.truth), axis=1)


METHODS: dict[str, Method] = {
    "population BT": bradley_terry,
    "PAL": pal,
    "VPL": vpl,
    "DRM": drm,
    "DRM uncentered": lambda given, key: drm(given, key, centered=False),
    "user alone": alone,
}


def curves(key: Key, planted: bool = True) -> dict[str, Array]:
    """Accuracy of every method on every held-out user by the number of their labels: [labels,U]."""
    given = population(key, planted)
    found = {}
    for name, method in METHODS.items():
        fitted = method(given, key)
        mask = lambda count: jnp.broadcast_to(jnp.arange(MOST) < count, (HELD_OUT, MOST)).astype(float)  # noqa: E731

        def at(count: Array, fitted: Any = fitted, mask: Any = mask) -> Array:
            return accuracy(fitted(mask(count)), given.asked)

        found[name] = jax.lax.map(at, jnp.array(LABELS))
    return found
