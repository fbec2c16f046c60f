"""Recipes of self-play, exploration and streams: on language models, on games, and where they rest."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import algorithms, games, losses, roles
from alignjax.cli import catalogue
from alignjax.config import ConfigError, fn
from alignjax.games.world import Contexts
from alignjax.sampling import mixture, own
from alignjax.sampling.logit_streams import Stream
from alignjax.train import step as step_module
from alignjax.train.optimizers import adamw
from alignjax.train.state import TrainState, abstract_state, create_state
from alignjax.train.step import abstract_experience, make_experience, make_update
from alignjax.types import Batch, Role
from alignjax.workspace import Workspace
from tests.support.commands import ROOT
from tests.support.compiled import compilations
from tests.support.tiny import as_jax, difference, model, ragged, sgd, slow_but
from tests.support.toy_recipes import PLAYED, RECIPES, SELF_PLAY, WITH_TEXTS, iterations

NOWHERE = Workspace(Path("nowhere"))
SMALL = {"vocab": 12, "width": 8, "layers": 1, "heads": 2, "kv_heads": 1, "mlp": 8}
OPTIMIZER = fn(sgd, learning_rate=0.05)
FULL = as_jax(ragged(vocab=12)).replace(logps={}, prompts={"domain": jnp.zeros(4, jnp.int32)})
PROMPTS = FULL.replace(tokens=None, valid=None, mask=None, preference=None)
TEXT = FULL.pick(jnp.zeros((4, 1), jnp.int32)).replace(preference=None)
# Trained on a language model here; all others only traced on one, and trained on a game.
ON_LANGUAGE = ["nash_md", "osp", "spin", "rival", "optune", "eva", "cofs_dpo"]


# Losses that begin at log 2: logistic losses of a margin that is 0.
AT_START = {**dict.fromkeys(["osp", "spin", "optune", "eva"], "pair"), "cofs_dpo": "fast"}


def batch_of(name: str) -> Batch:
    if name in ("spin", "rival"):
        return TEXT
    if name in WITH_TEXTS:
        return PROMPTS.replace(views={"pretrain": TEXT})
    return FULL if name in ("vpo_offline", "ofs_dpo", "cofs_dpo") else PROMPTS


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_LANGUAGE)
def test_it_trains_a_language_model(name: str) -> None:
    """Two iterations: a program per stage and one of the update; what is trained moves, and what has neither optimizer
    nor rule does not."""
    network = model(**SMALL, outputs=("value", "reward", "preference"))
    algorithm = PLAYED[name](network, optimizer=OPTIMIZER, microbatches=1)
    compiled = compilations(step_module._experience, step_module._update)
    state = create_state(algorithm, 0, NOWHERE)
    start = jax.tree.map(np.array, state.roles)
    state, seen = iterations(algorithm, state, batch_of(name), 2)
    assert compiled() == [len(algorithm.experience), 1]
    for role, tree in start.items():
        moved = difference(tree, state.roles[role])
        if algorithm.roles[role].optimizer is not None:
            assert moved > 1e-7, role
        elif algorithm.roles[role].rule.function is roles.frozen:
            assert moved == 0, role
    metrics = seen[0][1]
    if name in AT_START:  # policy, reference and past are one policy still
        np.testing.assert_allclose(metrics[f"loss/{AT_START[name]}"], np.log(2), rtol=1e-5)
    tokens = [given.tokens for given, _ in seen]
    assert name == "cofs_dpo" or np.any(tokens[0] != tokens[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLAYED if name not in ON_LANGUAGE])
def test_it_fits_a_language_model(name: str) -> None:
    """Traced, not run: an iteration has a loss, and leaves a state of the same shapes."""
    network = model(**SMALL, outputs=("value", "reward", "preference"))
    algorithm = PLAYED[name](network, optimizer=OPTIMIZER, microbatches=1)
    state = abstract_state(algorithm)
    given, _ = abstract_experience(algorithm, state, batch_of(name))
    new, metrics = jax.eval_shape(make_update(algorithm), state, given)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert shapes(new) == shapes(state)
    assert metrics["loss"].shape == ()


GAME = games.sequence_game(0.3, seed=1, vocab=3, length=2)
# Played by default. The others' stages and losses are among these, below, in test_algorithms.py (nash_md) and in
# test_memories.py (active_dpo); configs/games.py runs them.
ON_GAMES = ("dno", "xpo", "self_play_pool")
POOLED = {"self_play_pool": lambda *a, **parts: algorithms.self_play_pg(*a, pool=2, sync_every=2, **parts)}


@pytest.mark.parametrize("name", [slow_but(*ON_GAMES, name=name) for name in (*SELF_PLAY, "self_play_pool")])
def test_it_plays_a_game(name: str) -> None:
    build = {**SELF_PLAY, **POOLED}[name]
    algorithm = build(games.table_policy(GAME), optimizer=fn(sgd, learning_rate=0.2), **games.parts(GAME))
    state, _ = iterations(algorithm, create_state(algorithm, 0, NOWHERE), Contexts(1, 4)[0], 3)
    assert np.abs(state.roles["policy"]["logits"] - games.start(GAME).function(None)["logits"]).max() > 1e-5


def test_every_recipe_is_listed() -> None:
    parts = {"offline", "online", "policy_gradient", "rounds", "with_lora", "with_losses", "with_replay"}
    parts.add("labelled_samples")
    assert set(RECIPES) | set(PLAYED) == set(catalogue.public(algorithms)) - parts


def test_the_config_of_games_offers_every_recipe() -> None:
    """All that ask a judge which a game can be; configs/online.py is for language models."""
    spec = importlib.util.spec_from_file_location("config_of_games", ROOT / "configs" / "games.py")
    assert spec is not None
    assert spec.loader is not None
    config = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config)
    assert set(SELF_PLAY) - {"oaif", "osp"} <= set(config.MODES)
    for mode in config.MODES:
        assert config.get_config(mode)


# ------------------------------------------------------------------------------------------------ where they rest


def one_exact_step(build: Any, game: games.TabularGame, policy: Any, **hyper: Any) -> float:
    """How far one iteration of the expected dynamics moves a policy, all of whose past it is too; the reference is the
    game's."""
    logits = jnp.asarray(games.conditionals(game.language, np.asarray(policy)[None]))
    parts = {**games.parts(game), "start": roles.value(lambda key: {"logits": logits})}
    network = games.table_policy(game)
    algorithm = games.exact(build(network, optimizer=fn(sgd, learning_rate=1.0), **parts, **hyper), game.language)
    if "reference" in algorithm.roles:
        mu = Role(network, games.start(game))
        algorithm = dataclasses.replace(algorithm, roles={**algorithm.roles, "reference": mu})
    state, _ = iterations(algorithm, create_state(algorithm, 0, NOWHERE), Contexts(1, 1)[0], 1)
    return float(np.abs(state.roles["policy"]["logits"] - logits).max())


CYCLE = games.intransitive([0.4, 0.3, 0.2, 0.1], 0.2, seed=3, scale=2.0)
REGULARISED = {
    "online_ipo": (algorithms.online_ipo, {"tau": 0.2}),
    "self_play_pg": (algorithms.self_play_pg, {"tau": 0.2}),
    "nash_ema": (algorithms.nash_ema, {"tau": 0.2}),
    "nash_md_0": (algorithms.nash_md, {"tau": 0.2, "beta": 0.0}),
    "inpo": (algorithms.inpo, {"eta": 0.8, "c": 0.25}),
    "mnpo": (algorithms.mnpo, {"eta": 0.8, "c": 0.25, "history": 3}),
}


@pytest.mark.parametrize("name", REGULARISED)
def test_the_regularised_equilibrium_is_where_it_rests(name: str, float64: None) -> None:
    """In expectation, for an intransitive game; and it does not rest at the reference."""
    build, hyper = REGULARISED[name]
    assert one_exact_step(build, CYCLE, games.nash(CYCLE), **hyper) < 1e-10
    assert one_exact_step(build, CYCLE, CYCLE.reference, **hyper) > 1e-3


def test_nash_md_rests_where_its_mixture_is_an_equilibrium(float64: None) -> None:
    """At beta > 0 of the game regularised by tau / (1 - beta): not at the equilibrium of tau."""
    hyper = {"tau": 0.2, "beta": 0.25}
    biased = games.mixture_equilibrium(CYCLE, 0.25)
    assert one_exact_step(algorithms.nash_md, CYCLE, biased.policy, **hyper) < 1e-10
    assert one_exact_step(algorithms.nash_md, CYCLE, games.nash(CYCLE), **hyper) > 1e-3


@pytest.mark.parametrize("name", ["sppo", "onpo"])
def test_the_unregularised_equilibrium_is_where_it_rests(name: str, float64: None) -> None:
    """Those without a pull to the first reference, on rock-paper-scissors: at the uniform policy whatever mu is."""
    build = {"sppo": algorithms.sppo, "onpo": algorithms.onpo}[name]
    game = games.rock_paper_scissors([0.6, 0.3, 0.1], 0.2)
    assert one_exact_step(build, game, np.full(3, 1 / 3), eta=1.0) < 1e-10
    assert one_exact_step(build, game, game.reference, eta=1.0) > 1e-3


@pytest.mark.parametrize("start", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
def test_dno_rests_there_too(start: tuple[float, ...], float64: None) -> None:
    """Every draw of four samples is a row, weighted by its probability: the recipe's labels, loss and step."""
    policy = np.array(start)
    game = games.rock_paper_scissors(policy, 0.2)
    made = algorithms.dno(games.table_policy(game), optimizer=fn(sgd, learning_rate=1.0), **games.parts(game))
    drawn = np.array(list(itertools.product(range(3), repeat=4)))
    valid, share = np.ones((81, 4, 1), bool), policy[drawn].prod(1)
    given = as_jax(Batch(
        prompt=np.zeros((81, 1), np.int32), prompt_valid=np.ones((81, 1), bool), tokens=drawn[..., None],
        valid=valid, mask=valid * 1.0, example_id=np.arange(81),
    ))  # fmt: skip
    labels = {name: stage for name, stage in made.experience.items() if name != "generate"}
    state = create_state(made, 0, NOWHERE)
    before = np.array(state.roles["policy"]["logits"])
    labelled, _ = make_experience(dataclasses.replace(made, experience=labels))(state, given)
    weighted = labelled.replace(pair_weight=labelled.pair_weight * share[:, None, None])
    state, _ = make_update(made)(state, weighted)
    moved = np.abs(state.roles["policy"]["logits"] - before).max()
    assert moved < 1e-12 if len(set(start)) == 1 else moved > 1e-3


# ------------------------------------------------------------------------------------------------- extragradient


@pytest.mark.parametrize("restore", [True, False])
def test_moments_do_not_see_what_was_looked_ahead_unless_they_are_to(restore: bool) -> None:
    """After both iterations the moments are those of one step along the second gradient; the schedule counts both."""
    optimizer = fn(adamw, learning_rate=0.1, schedule="linear", total_steps=9, b1=0.7, b2=0.6)
    parts = {"tau": 0.3, "optimizer": optimizer, "restore_moments": restore, **games.parts(GAME)}
    algorithm = algorithms.egpo(games.table_policy(GAME), **parts)
    state = create_state(algorithm, 0, NOWHERE)
    fresh = jax.tree.map(jnp.copy, state.optimizers)
    prompts = Contexts(1, 16)[0]
    state, _ = iterations(algorithm, state, prompts, 1)
    seen = moments(state.optimizers["policy"])
    assert (difference(seen, moments(fresh["policy"])) == 0) == restore
    given, _ = make_experience(algorithm)(state, prompts)
    alone, _ = make_update(algorithm)(dataclasses.replace(jax.tree.map(jnp.copy, state), optimizers=fresh), given)
    state, _ = make_update(algorithm)(state, given)
    gap = difference(moments(alone.optimizers["policy"]), moments(state.optimizers["policy"]))
    assert (gap == 0) == restore
    assert counts(state.optimizers["policy"]) == [2]


def of_type(state: Any, kind: type) -> list[Any]:
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def moments(state: Any) -> Any:
    (found,) = of_type(state, optax.ScaleByAdamState)
    return found.mu, found.nu, found.count


def counts(state: Any) -> list[int]:
    return [int(part.count) for part in of_type(state, optax.ScaleByScheduleState)]


@pytest.mark.parametrize("ahead", [False, True])
def test_pairs_of_egpo_may_come_from_the_look_ahead(ahead: bool) -> None:
    """An opponent that always answers alike shows who has drawn the pairs."""
    parts = {"tau": 0.3, "optimizer": fn(sgd, learning_rate=0.1), **games.parts(GAME)}
    algorithm = algorithms.egpo(games.table_policy(GAME), pairs_from_look_ahead=ahead, **parts)
    state = create_state(algorithm, 0, NOWHERE)
    logits = state.roles["opponent"]["logits"]
    always = jnp.where(jnp.arange(logits.shape[-1]) == 1, 50.0, 0.0)
    sure = {**state.roles["opponent"], "logits": jnp.broadcast_to(always, logits.shape).astype(logits.dtype)}
    sure_state = dataclasses.replace(state, roles={**state.roles, "opponent": sure})
    batch, _ = make_experience(algorithm)(sure_state, Contexts(1, 16)[0])
    assert (np.unique(batch.tokens[:, :2, 0]).size == 1) == ahead


def test_egpo_looks_ahead_and_steps_from_where_it_was(float64: None) -> None:
    algorithm = algorithms.egpo(
        games.table_policy(GAME), tau=0.3, optimizer=fn(sgd, learning_rate=0.1), **games.parts(GAME)
    )
    plain_roles = {**algorithm.roles, "policy": dataclasses.replace(algorithm.roles["policy"], rule=fn(roles.frozen))}
    plain = dataclasses.replace(algorithm, roles=plain_roles)
    state = create_state(algorithm, 0, NOWHERE)
    start = np.array(state.roles["policy"]["logits"])
    prompts = Contexts(1, 16)[0]

    def of(state: TrainState, *names: str) -> list[np.ndarray]:
        return [np.array(state.roles[name]["logits"]) for name in names]

    state, _ = iterations(algorithm, state, prompts, 1)
    policy, centre, ahead = of(state, "policy", "centre", "opponent")
    np.testing.assert_array_equal(policy, start)
    np.testing.assert_array_equal(centre, start)
    assert np.abs(ahead - start).max() > 1e-3
    given, _ = make_experience(algorithm)(state, prompts)
    alone, _ = make_update(plain)(jax.tree.map(jnp.copy, state), given)
    state, _ = make_update(algorithm)(state, given)
    policy, centre, ahead = of(state, "policy", "centre", "opponent")
    np.testing.assert_array_equal(policy, alone.roles["policy"]["logits"])
    assert np.abs(policy - start).max() > 1e-3
    np.testing.assert_array_equal(policy, centre)
    np.testing.assert_array_equal(policy, ahead)


def test_a_mixture_of_one_is_its_reference_for_nash_md() -> None:
    """The opponents' behaviour is the mixture that was asked for."""
    made = algorithms.nash_md(games.table_policy(GAME), beta=1.0, optimizer=OPTIMIZER, **games.parts(GAME))
    behaviour = made.experience["opponent"].kwargs["behaviour"]
    assert behaviour.function is mixture
    assert behaviour.kwargs["beta"] == 1.0


# --------------------------------------------------------------------------------------------- sync_every, resuming


@pytest.mark.slow
def test_sync_every_is_a_dial_from_online_to_offline() -> None:
    """1 is the policy itself; a large one samples from the start for ever, also after the policy has moved."""
    network = games.table_policy(GAME)

    def samples(**parts: Any) -> list[np.ndarray]:
        algorithm = algorithms.online_ipo(
            network, tau=0.05, optimizer=fn(sgd, learning_rate=0.5), **games.parts(GAME), **parts
        )
        state = create_state(algorithm, 0, NOWHERE)
        return [given.tokens for given, _ in iterations(algorithm, state, Contexts(1, 32)[0], 4)[1]]

    online, dial, offline = samples(), samples(sync_every=2), samples(sync_every=100)
    still = dataclasses.replace(
        algorithms.online_ipo(network, tau=0.05, optimizer=fn(sgd, learning_rate=0.0), **games.parts(GAME))
    )
    frozen = [given.tokens for given, _ in iterations(still, create_state(still, 0, NOWHERE), Contexts(1, 32)[0], 4)[1]]
    for step in range(4):
        np.testing.assert_array_equal(offline[step], frozen[step])
    np.testing.assert_array_equal(dial[1], offline[1])
    assert np.any(dial[2] != offline[2])
    assert np.any(online[1] != dial[1])


def test_what_was_sampled_from_has_its_own_name() -> None:
    """At temperature 1/4 a copy of the start is sampled: "past" is that policy, "sampler" its fourth power,
    normalized."""
    game = games.rock_paper_scissors((0.5, 0.3, 0.2), 0.1)
    parts = {"optimizer": fn(sgd), **games.parts(game)}
    stale = algorithms.online_ipo(games.table_policy(game), sync_every=5, **parts)
    cold = {**stale.experience, "generate": stale.experience["generate"].replace(temperature=0.25)}
    stale = dataclasses.replace(stale, experience=cold)
    given, _ = make_experience(stale)(create_state(stale, 0, NOWHERE), Contexts(1, 32)[0])
    tokens, power = np.asarray(given.tokens), game.reference**4
    np.testing.assert_allclose(given.logps["past"], np.log(game.reference)[tokens], atol=1e-6)
    np.testing.assert_allclose(given.logps["sampler"], np.log(power / power.sum())[tokens], atol=1e-6)
    taken = {"sampler": stale.roles["past"]}
    with pytest.raises(ConfigError, match="a role cannot be called 'sampler'"):
        dataclasses.replace(stale, roles={**stale.roles, **taken})
    stream = {"behaviour": fn(own, stream="sampler"), "streams": (Stream("sampler", "past"),)}
    named = {**cold, "generate": cold["generate"].replace(**stream)}
    with pytest.raises(ConfigError, match="a stream cannot be called 'sampler'"):
        abstract_experience(dataclasses.replace(stale, experience=named), abstract_state(stale), Contexts(1, 4)[0])


@pytest.mark.parametrize("steps", [{"epochs": 8}, {"minibatches": 2}])
def test_reinforce_takes_one_step_on_a_sample_or_weighs_it(steps: dict[str, int]) -> None:
    """As `Experiment.overlap` asks for it (tests/test_starts.py)."""
    made = algorithms.nash_md(games.table_policy(GAME), optimizer=fn(sgd), **games.parts(GAME))
    several = dataclasses.replace(made, **steps)
    with pytest.raises(ConfigError, match=r"loss 'reinforce' is reinforce without behaviour.*or take one step"):
        make_update(several)
    weighed = {"reinforce": made.losses["reinforce"].replace(behaviour="sampler", cap=5.0)}
    make_update(dataclasses.replace(several, losses=weighed))
    make_update(made)


def test_a_surrogate_takes_several_steps_by_ratios_to_what_was_sampled() -> None:
    judge = games.parts(GAME)
    made = algorithms.grpo(games.table_policy(GAME), optimizer=fn(sgd), epochs=2, minibatches=2, **judge)
    make_update(made)
    loss = made.losses["surrogate"]
    for fresh in (
        {"behaviour": None},
        {"ratio": fn(losses.no_ratio)},
        {"ratio": fn(losses.no_ratio), "importance": "x"},
    ):
        wrapped = {"surrogate": fn(losses.weighted, loss=loss.replace(**fresh), weight=0.5)}
        with pytest.raises(ConfigError, match=r"is surrogate\((behaviour=None|ratio=fn\(no_ratio\)).*or take one step"):
            make_update(dataclasses.replace(made, losses=wrapped))
