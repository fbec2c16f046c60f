"""Policies that are tables, data that are expectations, and minima to machine precision.

A completion is one token, so that a policy over A completions in C contexts is a table of logits [C,A], and a batch
with all A completions of every context holds every pair. Labels are probabilities, and what cannot be a probability (a
ranking) is enumerated with its weight: nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import root

from alignjax.models.kv_cache import default_read
from alignjax.scoring import context
from alignjax.types import Array, Batch, Head, Hidden, Model, Role

CONTEXTS, ACTIONS = 3, 4


def _hidden(params: Any, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
    assert batch.prompt is not None
    assert batch.tokens is not None
    rows = params["logits"][batch.prompt[:, -1]][:, None, None]
    states = jnp.broadcast_to(rows, (*batch.tokens.shape, ACTIONS))
    return Hidden(states, states, {})


def _init(key: Any) -> Any:
    return {"logits": jnp.zeros((CONTEXTS, ACTIONS))}


TABLE = Model(_init, _hidden, {"lm": Head("before", lambda params, states: states)}, default_read)
ROLES = {"policy": Role(TABLE, None), "reference": Role(TABLE, None)}


class World(NamedTuple):
    """The rewards that label everything, [C,A], the reference mu [C,A], and the inverse temperature of the optimum."""

    reward: np.ndarray
    mu: np.ndarray
    beta: float

    @property
    def preference(self) -> np.ndarray:
        """Bradley-Terry: P(i beats j) = S(r_i - r_j), [C,A,A]."""
        return 1 / (1 + np.exp(self.reward[:, None, :] - self.reward[:, :, None]))

    @property
    def optimum(self) -> np.ndarray:
        """pi* proportional to mu exp(r / beta)."""
        return normalised(np.log(self.mu) + self.reward / self.beta)


def world(seed: int = 0, beta: float = 0.5) -> World:
    draw = np.random.default_rng(seed)
    return World(draw.normal(size=(CONTEXTS, ACTIONS)), normalised(draw.normal(size=(CONTEXTS, ACTIONS))), beta)


def normalised(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def everything(given: World, rows: Any = slice(None)) -> Batch:
    """All completions of the contexts `rows`, with preferences and graded rewards."""
    numbers = np.arange(CONTEXTS)[rows]
    shape = (len(numbers), ACTIONS, 1)
    return Batch(
        prompt=numbers[:, None].astype(np.int32),
        prompt_valid=np.ones((len(numbers), 1), bool),
        tokens=np.broadcast_to(np.arange(ACTIONS, dtype=np.int32)[:, None], shape).copy(),
        valid=np.ones(shape, bool),
        mask=np.ones(shape),
        reward=given.reward[rows],
        preference=given.preference[rows],
        example_id=numbers.astype(np.int32),
    )


def expected(loss: Any, batches: Batch, weights: np.ndarray, given: World, state: Mapping[str, Any]) -> Any:
    """logits [C,A] -> the loss averaged over `batches` (a leading axis of cases) with `weights`. state: further roles,
    a table for one that is scored."""
    reference = {"logits": jnp.log(given.mu)}
    roles = {**ROLES, **{name: Role(TABLE if isinstance(tree, dict) else None, None) for name, tree in state.items()}}

    def value(logits: Array) -> Array:
        trees = {"policy": {"logits": logits}, "reference": reference, **jax.tree.map(jnp.asarray, dict(state))}

        def one(batch: Batch) -> Array:
            return loss(context(roles, trees), batch)[0].value()

        return jnp.sum(jax.vmap(one)(batches) * weights)

    return value


class Found(NamedTuple):
    """Where a loss led: the policy [C,A], the largest gradient there, and what kind of end it is."""

    policy: np.ndarray
    gradient: float
    status: str


def follow(value: Callable[[Array], Array], given: World, smooth: bool = True) -> Found:
    """From the reference down the gradient to where it ends.

    The gradient is followed as a flow and then set to zero by Newton's method, instead of minimising values, because a
    loss with a stop_gradient has a gradient that is not the derivative of its value. Every smooth loss ends at a
    "minimum" (gradient below 1e-10) or at the "boundary": some probability falls below 1e-6 and there is no minimum. A
    hinge has no gradient to set to zero at its kinks; small steps end "near a kink".
    """
    shape = given.mu.shape
    gradient = jax.jit(lambda flat: jax.grad(value)(flat.reshape(shape)).reshape(-1))
    start = np.log(given.mu).reshape(-1)
    if not smooth:
        last = np.asarray(_descend(gradient, jnp.asarray(start)))
        return Found(normalised(last.reshape(shape)), float(jnp.abs(gradient(last)).max()), "near a kink")
    slope = jax.jit(jax.jacfwd(gradient))
    flow = solve_ivp(
        lambda t, x: -np.asarray(gradient(x)), (0, 1e9), start, method="LSODA", rtol=1e-8, atol=1e-9,
        jac=lambda t, x: -np.asarray(slope(x)),
        events=_ended(shape),
    )  # fmt: skip
    last = flow.y[:, -1]
    if normalised(last.reshape(shape)).min() > 1e-6:
        # Adding a number to all logits of a context changes nothing; the second terms hold it where it is.
        contexts = np.kron(np.eye(shape[0]), np.ones((shape[1], shape[1])) / shape[1])
        fixed = lambda x: np.asarray(gradient(x)) + contexts @ (x - last)  # noqa: E731
        better = root(fixed, last, jac=lambda x: np.asarray(slope(x)) + contexts, tol=1e-13).x
        last = better if np.abs(gradient(better)).max() <= np.abs(gradient(last)).max() else last
    policy, size = normalised(last.reshape(shape)), float(np.abs(gradient(last)).max())
    status = "boundary" if policy.min() < 1e-6 else "minimum" if size < 1e-10 else "not converged"
    return Found(policy, size, status)


def _ended(shape: tuple[int, ...]) -> Any:
    """Stops the flow where a probability has fallen below 1e-7."""

    def smallest(t: float, x: np.ndarray) -> float:
        return float(np.log(normalised(x.reshape(shape)).min()) - np.log(1e-7))

    smallest.terminal = True  # type: ignore[attr-defined]
    return smallest


def _descend(gradient: Any, start: Array, steps: int = 40_000) -> Array:
    def step(x: Array, number: Array) -> tuple[Array, None]:
        return x - 0.5 / (1 + number / 100) * gradient(x), None

    return jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(steps, dtype=float))[0])(start)


def total_variation(one: np.ndarray, other: np.ndarray) -> float:
    """The largest over contexts."""
    return float(np.abs(one - other).sum(-1).max() / 2)
