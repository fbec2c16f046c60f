"""Scoring: one pass per view whatever is asked of it, nothing paid for what nobody reads, and any batch at all."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, roles
from alignjax.config import ConfigError, fn
from alignjax.scoring import Request, one_pass
from alignjax.train.state import abstract_state
from alignjax.train.step import make_update
from alignjax.types import Algorithm, Array, Batch, Context, Head, Hidden, Mean, Metrics, Model, Role
from tests.support.tiny import (
    all_finite,
    as_jax,
    context,
    context_of,
    difference,
    flops,
    model,
    parameters,
    ragged,
    scorer,
    sgd,
)
from tests.support.toy_recipes import entropy, mismatched

BATCH = as_jax(ragged())


@functools.cache
def cost(*names: str, outputs: tuple[str, ...] = ()) -> float:
    """FLOPs of an update with some losses, on a network wide enough that its products are what costs. Of the program as
    it was traced: XLA's optimizer takes what two passes have in common, and would hide a pass too many."""
    every = {
        "ipo": fn(losses.ipo, tau=0.1),
        "dpo": fn(losses.dpo, beta=0.1),
        "sft": fn(losses.sft),
        "slic_by_length": fn(losses.slic, beta=0.1, normalize="length"),
        "entropy": fn(entropy),
        "on_other": losses.on("other", losses.sft),
        "twice_on_other": losses.on("other", fn(losses.ipo, tau=0.1)),
    }
    network = wide(outputs)
    policy = Role(network, roles.fresh(), fn(sgd, learning_rate=1.0))
    algorithm = Algorithm(losses={name: every[name] for name in names}, roles={"policy": policy})
    view = as_jax(ragged(seed=1, rows=2, p=16, t=16))
    batch = as_jax(ragged(rows=2, p=16, t=16)).replace(views={"other": view})
    update = make_update(algorithm)
    return flops(jax.jit(update).lower(abstract_state(algorithm), batch))


def wide(outputs: tuple[str, ...] = ()) -> Model:
    return model(width=128, mlp=256, layers=1, vocab=64, outputs=outputs)


def test_losses_of_one_view_share_a_pass() -> None:
    alone = cost("ipo")
    assert cost("ipo", "dpo", "sft", "slic_by_length") < 1.03 * alone
    assert cost("ipo", "entropy") < 1.03 * alone


def test_losses_of_another_view_share_one_too() -> None:
    both = cost("ipo", "on_other")
    assert both > 1.6 * cost("ipo")
    assert cost("ipo", "on_other", "twice_on_other", "sft") < 1.03 * both


def test_heads_that_nobody_reads_cost_nothing() -> None:
    assert cost("ipo", outputs=("value", "reward", "preference")) < 1.005 * cost("ipo")


def test_a_batch_that_a_loss_builds_is_scored() -> None:
    """The same numbers as if it had come as a view, and as the scorer gives outside any update."""
    network = model(layers=1)
    policy = Role(network, roles.fresh(), fn(sgd, learning_rate=0.0))
    other = BATCH.replace(prompt=jnp.roll(BATCH.prompt, 1, 0), prompt_valid=jnp.roll(BATCH.prompt_valid, 1, 0))

    def as_view(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
        (logps,) = context.score("policy", batch.views["other"]).values()
        return Mean.of(logps, batch.mask), {}

    entries = {"built": fn(mismatched), "view": fn(as_view), "plain": fn(losses.sft)}
    algorithm = Algorithm(losses=entries, roles={"policy": policy})
    params = parameters(network)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_state(algorithm))
    state.roles["policy"] = jax.tree.map(jnp.copy, params)
    _, metrics = make_update(algorithm)(state, BATCH.replace(views={"other": other}))
    scores = scorer(network)(params, other)
    np.testing.assert_allclose(metrics["loss/built"], np.average(scores, weights=BATCH.mask), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/built"], metrics["loss/view"], rtol=1e-6)
    assert abs(float(metrics["loss/plain"] + metrics["loss/view"])) > 1e-3


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33])
def test_chunks_over_completions_change_no_number(length: int) -> None:
    """Whatever the length of completions, multiple of the chunk or not."""
    batch = as_jax(ragged(rows=2, t=length))
    network = model(layers=1)
    role, request = {"policy": Role(network, None)}, Request(("policy",), None)
    params = parameters(network)

    @functools.partial(jax.jit, static_argnums=1)
    def scored(params: Any, chunk: int) -> Array:
        return one_pass(role, lambda name: params, batch, [request], chunk=chunk)[request]["policy"]

    np.testing.assert_allclose(scored(params, 16), scored(params, 1), atol=2e-6)
    assert scored(params, 16).shape == batch.tokens.shape


def test_outputs_by_role_head_and_site() -> None:
    """A tuple of roles without a read gives each under its own name; a site gives its states; a read sees logits."""
    network = model(outputs=("value",))
    one, two = parameters(network, 0), parameters(network, 1)
    now = context_of(network, policy=one, critic=two)

    def states_read(outputs: Any, token: Array) -> dict[str, Array]:
        return {"norm": jnp.linalg.norm(outputs["policy@block"], axis=-1)}

    def gap_read(outputs: Any, token: Array) -> dict[str, Array]:
        return {"gap": outputs["policy"] - outputs["critic"]}

    @jax.jit
    def run(batch: Batch) -> tuple[dict[str, Array], ...]:
        return (
            now.score(("policy", "critic:value"), batch),
            now.score("policy@block", batch, read=states_read),
            now.score(("policy", "critic"), batch, read=gap_read),
        )

    both, norms, gap = run(BATCH)
    assert difference(both["policy"], scorer(network)(one, BATCH)) < 1e-6
    assert difference(both["critic:value"], scorer(network, "policy:value")(two, BATCH)) < 1e-5
    assert norms["norm"].shape == (*BATCH.tokens.shape, 2)
    assert gap["gap"].shape == (*BATCH.tokens.shape, 23)
    assert not np.any(np.where(BATCH.valid[..., None], 0, gap["gap"]))  # nothing is said about padding
    assert all_finite((both, norms, gap))


def test_a_policy_need_not_be_a_transformer() -> None:
    """A model with a `hidden` and `heads` of its own is scored by the same pass: a table of logits by position."""

    def hidden(params: Any, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
        states = jnp.broadcast_to(params, (*batch.tokens.shape[:2], *params.shape))
        return Hidden(states, states, {})

    table = Model(
        init=lambda key: jax.random.normal(key, (7, 23)), hidden=hidden,
        heads={"lm": Head("before", lambda params, states: states)}, read=model().read,
    )  # fmt: skip
    params = table.init(jax.random.key(0))
    logps = context_of(table, policy=params).score("policy", BATCH)["policy"]
    every = jnp.broadcast_to(jax.nn.log_softmax(params), (*BATCH.tokens.shape, 23))
    expected = jnp.take_along_axis(every, BATCH.tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(logps, np.where(BATCH.valid, expected, 0), atol=1e-6)


def test_mistakes_are_named() -> None:
    now = context({"policy": Role(model(outputs=("value",)), None), "shift": Role(None, None)}, {"policy": {}})
    with pytest.raises(ConfigError, match=r"no role 'polcy'\. Did you mean 'policy'"):
        now.score("polcy", BATCH)
    with pytest.raises(ConfigError, match=r"no head 'valeu'\. Did you mean 'value'"):
        now.score("policy:valeu", BATCH)
    with pytest.raises(ConfigError, match=r"'shift' has no head 'lm'\. Known: none"):
        now.score("shift", BATCH)
    with pytest.raises(ConfigError, match=r"no role 'polcy'"):
        now.params("polcy")
