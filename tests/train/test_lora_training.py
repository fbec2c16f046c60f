"""Recipes with adapters in the place of whole weights: what starts where, what moves, what is sampled, what is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import algorithms, games, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.models import Quantized, lora, peft
from alignjax.scoring import params_of
from alignjax.train import checkpoint, step as step_module
from alignjax.train.adapter_jobs import merge, write_adapters
from alignjax.train.state import TrainState, abstract_state, create_state, unchanging
from alignjax.train.step import abstract_experience, make_experience, make_update
from alignjax.types import Algorithm, Batch, Role
from alignjax.workspace import Workspace
from tests.support.tiny import as_jax, difference, model, ragged, sgd
from tests.support.toy_recipes import PLAYED
from tests.train.test_played import SMALL, batch_of

NOWHERE = Workspace(Path("nowhere"))
NETWORK = model(layers=1)
PAIRS = as_jax(ragged()).replace(logps={}, prompts={"domain": jnp.array([0, 0, 0, 1])})
FAST, SLOW = (fn(sgd, learning_rate=rate) for rate in (0.5, 0.1))


def copied(state: TrainState) -> dict[str, Any]:
    return jax.tree.map(np.array, state.roles)


def iterations(algorithm: Algorithm, state: TrainState, batch: Batch, number: int) -> tuple[TrainState, list[Any]]:
    experience, update = make_experience(algorithm), make_update(algorithm)
    seen = []
    for _ in range(number):
        given, _ = experience(state, batch)
        state, metrics = update(state, given)
        seen.append(metrics)
    return state, seen


# An average, snapshots and look-ahead, two adapted models.
FOLLOWED = ["nash_ema", "egpo", "rival"]


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_recipe_has_the_shapes_of_a_run(name: str) -> None:
    """Traced, not run. No role but the bases and the judges has whole matrices."""
    network = model(**SMALL, outputs=("value", "reward", "preference"))
    adapted = ("policy", "reward") if name == "rival" else ("policy",)
    recipe = PLAYED[name](network, optimizer=FAST, microbatches=1)
    algorithm = algorithms.with_lora(recipe, adapted=adapted, rank=2)
    state = abstract_state(algorithm)
    given, _ = abstract_experience(algorithm, state, batch_of(name))
    new, metrics = jax.eval_shape(make_update(algorithm), state, given)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert shapes(new) == shapes(state)
    assert metrics["loss"].shape == ()
    size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))))
    whole = {role for role, tree in state.roles.items() if sum(leaf.size for leaf in jax.tree.leaves(tree)) >= size}
    assert whole == ({"base_policy", "base_reward"} if name == "rival" else {"base"}) | ({"judge"} & {*recipe.roles})


def test_a_pool_holds_adapters() -> None:
    """A queue of past policies over one base: what is played is the base with the adapters in a slot."""
    recipe = algorithms.self_play_pg(
        NETWORK, judge=fn(stages.preference_model, separator=3), judges={}, optimizer=FAST, start=roles.fresh(),
        max_tokens=3, stop=(2,), pool=2, sync_every=1, opponents=1,
    )  # fmt: skip
    algorithm = algorithms.with_lora(recipe, rank=2)
    (queue,) = (name for name, role in algorithm.roles.items() if isinstance(role.start, roles.PoolOf))
    state = create_state(algorithm, 0, NOWHERE)
    learned = jax.tree.map(lambda leaf: leaf + 1, state.roles["policy"])
    now = {**state.roles, "policy": learned}
    context = step_module._context(algorithm, dataclasses.replace(state, roles=now), {})
    after = {**now, queue: algorithm.roles[queue].rule(now[queue], context, PAIRS, jax.random.key(0))}
    assert difference(jax.tree.map(lambda leaf: leaf[1], after[queue]["ring"]), learned) == 0
    for slot, adapters in ((0, state.roles["policy"]), (1, learned)):
        chosen = {**after, queue: {**after[queue], "slot": jnp.int32(slot)}}
        played = lora.merged(params_of(algorithm.roles, chosen)(queue))
        assert difference(lora.merged(lora.adapt(state.roles["base"], adapters, alpha=16.0)), played) < 1e-6


@pytest.mark.slow
def test_fast_and_slow_adapters_and_their_combination(tmp_path: Path) -> None:
    """COFS-DPO over a base in 4 bits: it starts where all policies are one, exactly; adapters move at two speeds and
    the base does not; the memory of the domain that has most rows follows; the combination is that of merged weights.
    Kept in a checkpoint, the base apart, and read back, the state is the same, and the job that merges writes what was
    served."""
    recipe = algorithms.cofs_dpo(
        NETWORK, domains=2, weights=(0.25, 0.75), beta=0.5, optimizer=FAST, slow_optimizer=SLOW, start=roles.fresh()
    )
    algorithm = algorithms.with_lora(recipe, rank=2, alpha=4.0, bits=4)
    state = create_state(algorithm, 0, NOWHERE)
    assert isinstance(state.roles["base"]["layers"]["q"], Quantized)
    assert state.roles["reference"] == {}
    before = copied(state)
    state, (first, second) = iterations(algorithm, state, PAIRS, 2)
    for loss in ("fast", "slow", "chase"):
        assert float(first[f"{loss}/margin"]) == 0
    assert float(second["fast/margin"]) > float(second["slow/margin"]) > 0
    assert difference(before["base"], state.roles["base"]) == 0
    assert difference(before["domain1"], state.roles["domain1"]) == 0
    assert difference(state.roles["policy"], state.roles["domain0"]) == 0
    params = params_of(algorithm.roles, state.roles)
    one, two, both = (lora.merged(params(name)) for name in ("domain0", "domain1", "combined"))
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, one, two)
    assert difference(expected, both) < 1e-6
    assert difference(one, both) > 1e-4
    workspace = Workspace(tmp_path, "merged")
    folder = workspace.of("trained").folder
    with checkpoint.writing(folder, keep=1) as writer:
        checkpoint.save(writer, 2, state, {}, once=unchanging(algorithm.roles))
    read, _ = checkpoint.restore(folder, abstract_state(algorithm))
    assert jax.tree.structure(read) == jax.tree.structure(state)
    assert difference(state, read) == 0
    merge(workspace, stage="trained", algorithm=lambda: algorithm, role="combined")
    assert difference(both, checkpoint.restore_role(workspace.folder, "combined")) < 1e-6
    write_adapters(workspace, stage="trained", algorithm=lambda: algorithm, role="slow")
    written = peft.load(workspace.folder / "adapters", NETWORK.config)
    assert difference(state.roles["slow"], written.adapters) == 0
    assert written.alpha == 4
    with pytest.raises(ConfigError, match="is not one that holds adapters"):
        write_adapters(workspace, stage="trained", algorithm=lambda: algorithm, role="reference")


@pytest.mark.slow
def test_sampling_and_learning_are_those_of_the_merged_policy() -> None:
    """IPO-MD, whose mixture of policy and reference is decoded token by token: adapters that have learned something,
    in two microbatches, and the algorithm with whole weights that starts there sample the same tokens and have the
    same loss."""
    network = model(layers=1, outputs=("preference",))
    judge = Role(network, roles.value(network.init))
    ask = fn(stages.preference_model, role="judge", separator=3)
    plain = algorithms.ipo_md(
        network,
        beta=0.25,
        judge=ask,
        judges={"judge": judge},
        optimizer=FAST,
        start=roles.fresh(),
        max_tokens=4,
        stop=(2,),
    )
    small = algorithms.with_lora(dataclasses.replace(plain, microbatches=2), rank=2)
    prompts = PAIRS.replace(tokens=None, valid=None, mask=None, preference=None)

    def result(algorithm: Algorithm, state: TrainState) -> tuple[Batch, Any]:
        given, _ = make_experience(algorithm)(state, prompts)
        return given, make_update(algorithm)(state, given)[1]

    noise = lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)  # noqa: E731
    start = create_state(small, 0, NOWHERE)
    start = dataclasses.replace(start, roles={**start.roles, "policy": jax.tree.map(noise, start.roles["policy"])})
    params = params_of(small.roles, start.roles)
    weights = {name: jax.tree.map(jnp.copy, lora.merged(params(name))) for name in ("policy", "reference")}
    optimizers = {"policy": FAST().init(weights["policy"])}
    judges = {"judge": jax.tree.map(jnp.copy, start.roles["judge"])}
    whole = TrainState({**weights, **judges}, optimizers, jnp.copy(start.step), jnp.copy(start.seed))
    expected, wanted = result(plain, whole)
    found, metrics = result(small, start)
    np.testing.assert_array_equal(expected.tokens, found.tokens)
    np.testing.assert_allclose(expected.logps["policy"], found.logps["policy"], atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], wanted["loss"], rtol=1e-4)


def test_what_cannot_have_adapters_is_refused() -> None:
    recipe = algorithms.ofs_dpo(NETWORK, optimizer=FAST, slow_optimizer=SLOW, start=roles.fresh())
    for adapted, message in (
        ("polcy", "Did you mean 'policy'"),
        ("slow", "starts from 'policy': adapt that one, and it follows"),
    ):
        with pytest.raises(ConfigError, match=message):
            algorithms.with_lora(recipe, adapted=(adapted,))
    late = Role(NETWORK, roles.fresh(), rule=fn(roles.ema, of="policy", decay=0.9))
    with pytest.raises(ConfigError, match=r"role 'late' follows 'policy' with whole weights.*copy_of\('policy'\)"):
        algorithms.with_lora(dataclasses.replace(recipe, roles={**recipe.roles, "late": late}))
    with pytest.raises(ConfigError, match="has a build already"):
        algorithms.with_lora(algorithms.with_lora(recipe))
    game = games.sequence_game(0.3, seed=1, vocab=3, length=2)
    table = algorithms.online_ipo(games.table_policy(game), optimizer=FAST, **games.parts(game))
    with pytest.raises(ConfigError, match=r"no matrix of the layers is called .*; there are: none"):
        abstract_state(algorithms.with_lora(table))
