"""What an update promises, for every recipe at once; epochs, minibatches and rules on toy roles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import algorithms, losses, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.train import step as step_module
from alignjax.train.state import TrainState, abstract_state, create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Array, Batch, Context, Key, Mean, Metrics, Role
from alignjax.workspace import Workspace
from tests.support.compiled import compilations
from tests.support.tiny import all_finite, as_jax, difference, model, parameters, ragged, sgd, slow_but
from tests.support.toy_recipes import COUPLED, RECIPES, recipe

# The online recipes share the update of the offline ones: `test_online_recipes_share_the_update_of_the_offline_ones`.
OFFLINE = ["sft", "preference_model", "reward_model", "dpo", "ipo", "slic"]
UPDATES = [*OFFLINE, *COUPLED]
BATCH = as_jax(ragged(rows=4))
BATCH = BATCH.replace(views={"pretrain": as_jax(ragged(seed=7, rows=4, n=1, p=3, t=5))})
NOWHERE = Workspace(Path("nowhere"))
SGD = fn(sgd, learning_rate=0.25)


def made(algorithm: Algorithm) -> TrainState:
    """A state whose roles have params of their own; quicker than `init_state`."""
    own = {name: parameters(role.model, seed) for seed, (name, role) in enumerate(algorithm.roles.items())}
    optimizers = {name: role.optimizer().init(own[name]) for name, role in algorithm.roles.items() if role.optimizer}
    return TrainState(own, optimizers, jnp.zeros((), jnp.int32), jnp.uint32(3))


def copied(state: TrainState) -> TrainState:
    """`update` donates its state; this one may be given away."""
    return jax.tree.map(jnp.copy, state)


@pytest.mark.parametrize("name", [slow_but("dpo", "sorted", name=name) for name in UPDATES])
def test_microbatches_change_neither_loss_nor_gradient(name: str) -> None:
    """Of a transformer's update. That no loss minds is in losses/test_conformance.py, hence two of them by default."""
    state = made(recipe(name))
    before, (after, metrics) = copied(state).roles, make_update(recipe(name))(copied(state), BATCH)
    gradient = jax.tree.map(lambda a, b: a - b, before, after.roles)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-3
    other, other_metrics = make_update(recipe(name, 4 if name == "dpo" else 2))(copied(state), BATCH)
    np.testing.assert_allclose(metrics["loss"], other_metrics["loss"], rtol=1e-5)
    assert difference(gradient, jax.tree.map(lambda a, b: a - b, before, other.roles)) < 2e-5
    assert metrics.keys() == other_metrics.keys()


def test_microbatches_that_do_not_divide_are_refused() -> None:
    state = create_state(recipe("sft"), 0, NOWHERE)
    with pytest.raises(ConfigError, match="4 prompts do not split into 3 microbatches"):
        make_update(recipe("sft", 3))(state, BATCH)


def test_online_recipes_share_the_update_of_the_offline_ones() -> None:
    """Nothing but the experience tells them apart: what holds for an offline update holds for its online one."""
    for online, offline in {"online_dpo": "dpo", "online_ipo": "ipo", "ipo_md": "ipo", "online_slic": "slic"}.items():
        assert set(recipe(online).losses) == set(recipe(offline).losses)
        assert recipe(online).losses["pair"].function is recipe(offline).losses["pair"].function
        assert recipe(online).losses["pair"].kwargs == recipe(offline).losses["pair"].kwargs
    assert set(OFFLINE) | {"online_dpo", "online_ipo", "ipo_md", "online_slic"} == set(RECIPES)


# ---------------------------------------------------------------------------------------------------------------------
# what the compiled program holds


def largest_array(compiled: Any) -> int:
    """Elements of the largest array in a compiled program."""
    shapes = [found.split(",") for found in re.findall(r"\[([\d,]+)\]", compiled.as_text())]
    return max(int(np.prod([int(size) for size in shape])) for shape in shapes)


V, T = 1511, 37


@pytest.mark.slow
@pytest.mark.usefixtures("full_compile")
@pytest.mark.parametrize("name", ["sft", "ipo", "preference_model", "kl_and_mismatched"])
def test_no_array_of_every_logit_exists(name: str) -> None:
    """A vocabulary so large that [B,N,T,V] outweighs everything else there is."""
    network = model(vocab=V, outputs=("preference",), width=8, mlp=8, heads=2, kv_heads=1)
    batch = as_jax(ragged(rows=2, p=5, t=T, vocab=V))
    algorithm = {**RECIPES, **COUPLED}[name](network, optimizer=fn(sgd, learning_rate=1.0))
    lowered = jax.jit(make_update(algorithm)).lower(abstract_state(algorithm), batch)
    logits = 2 * 2 * T * V
    assert largest_array(lowered.compile()) < logits
    if name == "sft":  # the measure does find them where they are

        def plain(params: Any) -> Array:
            hidden = network.hidden(params, batch).before
            return jnp.sum(jax.nn.log_softmax(network.heads["lm"].apply(params, hidden))[..., 5] * hidden[..., 0])

        params = abstract_state(algorithm).roles["policy"]
        assert largest_array(jax.jit(jax.grad(plain)).lower(params).compile()) >= logits


def test_one_compile_whatever_the_step_and_the_float() -> None:
    """Several steps, another seed and other float hyper-parameters run one program of the update and of each stage."""
    network = model(outputs=("preference",))
    build = {**RECIPES}["online_ipo"]
    algorithm = build(network, optimizer=fn(sgd, learning_rate=0.25))
    prompts = BATCH.replace(tokens=None, valid=None, mask=None, logps={}, preference=None, views={})
    compiled = compilations(step_module._update, step_module._experience)
    for seed, tau, rate in ((0, 0.5, 0.25), (1, 0.7, 0.125)):
        changed = Algorithm(
            algorithm.experience,
            {"pair": algorithm.losses["pair"].replace(tau=tau)},
            {**algorithm.roles, "policy": Role(network, roles.fresh(), fn(sgd, learning_rate=rate))},
        )
        state = create_state(changed, seed, NOWHERE)
        experience, update = make_experience(changed), make_update(changed)
        for number in range(3):
            given, seen = experience(state, prompts.replace(example_id=prompts.example_id + number))
            state, metrics = update(state, given)
            assert all_finite((metrics, seen))
            assert no_buffer_twice(state)
            assert no_weak_type(state)
        assert int(state.step) == 3
    assert compiled() == [1, 3]


def programs(algorithm: Algorithm, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The texts of the programs of an algorithm's stages, by name, and of its update; nothing runs."""
    texts = {}
    update, experience = step_module._update, step_module._experience

    def staged(algorithm: Algorithm, state: Any, batch: Any, name: str, answer: Any) -> Any:
        texts[name] = experience.lower(algorithm, state, batch, name).as_text()
        return jax.eval_shape(lambda state, batch: experience(algorithm, state, batch, name), state, batch)

    def learned(*arguments: Any) -> Any:
        texts["update"] = update.lower(*arguments).as_text()
        return jax.eval_shape(update, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(step_module, "_experience", staged)
        patched.setattr(step_module, "_update", learned)
        state = abstract_state(algorithm)
        filled, _ = make_experience(algorithm)(state, batch)
        make_update(algorithm)(state, filled)
    return texts


def test_runs_that_sample_or_learn_alike_share_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Online IPO samples by the program that offline pairs are drawn with, its judge is asked by the same, and it
    learns by that of offline IPO: neither the judge nor an optimizer is a part of programs that do not read them."""
    network = model(outputs=("embedding",), layers=1)
    play: dict[str, Any] = {
        "judge": fn(stages.preference_model, role="judge", reading="apart"),
        "judges": {"judge": Role(network, roles.fresh())},
        "start": roles.fresh(),
        "n": 3,
    }
    prompts = BATCH.replace(tokens=None, valid=None, mask=None, logps={}, preference=None, views={})
    asked = {"max_tokens": 4, "stop": (2,), **play}
    online = programs(algorithms.online_ipo(network, optimizer=SGD, **asked), prompts, monkeypatch)
    drawing = algorithms.labelled_samples(network, **asked)
    drawn = programs(drawing, prompts, monkeypatch)
    pairs = jax.eval_shape(make_experience(drawing), abstract_state(drawing), prompts)[0].replace(logps={})
    offline = programs(algorithms.ipo(network, optimizer=SGD, start=roles.fresh(), n=3), pairs, monkeypatch)
    assert online["generate"] == drawn["generate"]
    assert online["prefer"] == drawn["prefer"]
    assert online["update"] == offline["update"]
    assert online["generate"] != online["prefer"]


def test_roles_that_no_step_changes_are_given_back_as_they_are() -> None:
    algorithm = recipe("dpo")
    state = made(algorithm)
    reference = jax.tree.leaves(state.roles["reference"])
    after, _ = make_update(algorithm)(state, BATCH)
    assert all(new is old for new, old in zip(jax.tree.leaves(after.roles["reference"]), reference, strict=True))
    assert after.roles.keys() == algorithm.roles.keys()


def no_buffer_twice(state: TrainState) -> bool:
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    return len(set(buffers)) == len(buffers)


def no_weak_type(state: TrainState) -> bool:
    return not any(leaf.weak_type for leaf in jax.tree.leaves(state))


# ---------------------------------------------------------------------------------------------------------------------
# epochs, minibatches, rules and builds on roles that are plain numbers


def zeros(size: int) -> Any:
    return roles.value(lambda key: {"x": jnp.zeros(size)})


def visited(context: Context, batch: Batch, *, role: str = "policy") -> tuple[Mean, Metrics]:
    """The gradient of entry i is minus the share of row i in the (mini)batch: what an entry gained says how often its
    row was seen."""
    return Mean.of(-context.params(role)["x"][batch.example_id]), {}


def numbered(rows: int) -> Batch:
    return Batch(example_id=jnp.arange(rows, dtype=jnp.int32))


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 1), (1, 4), (2, 2)])
def test_every_epoch_sees_every_row_once(epochs: int, minibatches: int) -> None:
    """Views too, along a B of their own."""
    optimizer = fn(sgd, learning_rate=1.0)
    algorithm = Algorithm(
        losses={"main": fn(visited), "other": losses.on("other", fn(visited, role="second"))},
        roles={"policy": Role(None, zeros(8), optimizer), "second": Role(None, zeros(12), optimizer)},
        epochs=epochs,
        minibatches=minibatches,
    )
    batch = numbered(8).replace(views={"other": numbered(12)})
    state, metrics = make_update(algorithm)(create_state(algorithm, 0, NOWHERE), batch)
    np.testing.assert_allclose(state.roles["policy"]["x"], epochs * minibatches / 8, rtol=1e-6)
    np.testing.assert_allclose(state.roles["second"]["x"], epochs * minibatches / 12, rtol=1e-6)
    assert int(state.step) == 1
    assert set(metrics) >= {"loss", "loss/main", "loss/other", "gradient_norm/policy", "gradient_norm/second"}


def sequence(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    """A gradient that writes the order of the minibatches into the params: x_i ends as the step that saw row i."""
    x = context.state["policy"]
    seen = jax.lax.stop_gradient(x["count"][0])
    rows = -x["x"][batch.example_id] * (seen + 1)
    return Mean(jnp.sum(rows) - jnp.sum(x["count"]), jnp.ones(())), {}


def test_minibatches_are_shuffled_anew_by_epoch_step_and_seed() -> None:
    start = roles.value(lambda key: {"x": jnp.zeros(16), "count": jnp.zeros(1)})
    policy = Role(None, start, fn(sgd, learning_rate=1.0))

    def order(epochs: int, seed: int, steps: int = 1) -> list[float]:
        algorithm = Algorithm(losses={"s": fn(sequence)}, roles={"policy": policy}, epochs=epochs, minibatches=4)
        state = create_state(algorithm, seed, NOWHERE)
        for _ in range(steps):
            last = np.asarray(state.roles["policy"]["x"])
            state, _ = make_update(algorithm)(state, numbered(16))
        return (np.asarray(state.roles["policy"]["x"]) - last).tolist()

    first = order(1, 0)
    assert sorted(first) == sorted([1.0, 2.0, 3.0, 4.0] * 4)
    assert first == order(1, 0)
    second_epoch = [both - one - 4 for both, one in zip(order(2, 0), first, strict=True)]
    assert sorted(second_epoch) == sorted(first)
    assert second_epoch != first
    assert order(1, 1) != first
    second_step = [value - 4 for value in order(1, 0, steps=2)]
    assert sorted(second_step) == sorted(first)
    assert second_step != first


def test_minibatches_that_do_not_divide_are_refused() -> None:
    policy = Role(None, zeros(12), fn(sgd, learning_rate=1.0))
    algorithm = Algorithm(losses={"main": fn(visited)}, roles={"policy": policy}, minibatches=3)
    with pytest.raises(ConfigError, match="8 prompts do not split into 3 minibatches"):
        make_update(algorithm)(create_state(algorithm, 0, NOWHERE), numbered(8))
    batch = numbered(12).replace(views={"other": numbered(5)})
    with pytest.raises(ConfigError, match="view 'other' has 5 rows"):
        make_update(algorithm)(create_state(algorithm, 0, NOWHERE), batch)


def test_rules_move_roles_from_the_values_that_stood_before() -> None:
    """A chain of snapshots is a history; a moving average follows the policy after its step; frozen is untouched."""
    start = roles.copy_of("policy")
    algorithm = Algorithm(
        losses={"main": fn(visited)},
        roles={
            "policy": Role(None, zeros(4), fn(sgd, learning_rate=1.0)),
            "frozen": Role(None, start),
            "past1": Role(None, start, rule=fn(roles.snapshot, of="policy", every=1)),
            "past2": Role(None, start, rule=fn(roles.snapshot, of="past1", every=1)),
            "seldom": Role(None, start, rule=fn(roles.snapshot, of="policy", every=3)),
            "average": Role(None, start, rule=fn(roles.ema, of="policy", decay=0.75)),
        },
    )
    state, update = create_state(algorithm, 0, NOWHERE), make_update(algorithm)
    assert no_buffer_twice(state)
    history = [{name: float(role["x"][0]) for name, role in state.roles.items()}]
    for _ in range(7):
        state, _ = update(state, numbered(4))
        assert no_buffer_twice(state)
        history.append({name: float(role["x"][0]) for name, role in state.roles.items()})
    policy = [now["policy"] for now in history]
    assert policy == [0.25 * number for number in range(8)]
    assert [now["frozen"] for now in history] == [0] * 8
    assert [now["past1"] for now in history] == policy
    assert [now["past2"] for now in history] == [0, *policy[:-1]]
    assert [now["seldom"] for now in history] == [policy[number - number % 3] for number in range(8)]
    weights = 0.25 * 0.75 ** np.arange(7)
    np.testing.assert_allclose(history[-1]["average"], np.sum(weights * policy[:0:-1]), rtol=1e-6)


def test_a_rule_reads_the_metrics_of_the_update() -> None:
    """Dual ascent and the like: a state role moved by what a loss measured, with a key of its own."""

    def follow(state: Any, context: Context, batch: Batch, key: Key) -> Any:
        return {"level": state["level"] + context.metrics["main/length"].value(), "draw": jax.random.uniform(key)}

    def measured(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
        mean, _ = visited(context, batch)
        return mean, {"length": Mean.of(batch.example_id)}

    level = Role(None, roles.value(lambda key: {"level": jnp.float32(2.0), "draw": jnp.float32(0)}), rule=fn(follow))
    policy = Role(None, zeros(4), fn(sgd, learning_rate=1.0))
    algorithm = Algorithm(losses={"main": fn(measured)}, roles={"policy": policy, "multiplier": level})
    state, draws = create_state(algorithm, 0, NOWHERE), []
    for number in (1, 2):
        state, metrics = make_update(algorithm)(state, numbered(4))
        assert float(state.roles["multiplier"]["level"]) == 2 + number * 1.5
        assert float(metrics["main/length"]) == 1.5
        draws.append(float(state.roles["multiplier"]["draw"]))
    assert len(set(draws)) == 2


def add(own: Any, params_of: Any, *, base: str, scale: float) -> Any:
    return jax.tree.map(lambda a, b: a + scale * b, params_of(base), own)


def test_a_built_role_trains_its_own_numbers_only() -> None:
    """policy = base + 2 delta: the gradient of delta is twice that of the policy it makes, and base stays."""
    network = model(outputs=("value", "reward", "preference"))
    zero = roles.value(lambda key: jax.tree.map(jnp.zeros_like, network.init(key)))
    optimizer = fn(sgd, learning_rate=1.0)
    derived = Algorithm(
        losses={"sft": fn(losses.sft)},
        roles={
            "base": Role(network, roles.fresh()),
            "policy": Role(network, zero, optimizer, build=fn(add, base="base", scale=2.0)),
        },
    )
    state = create_state(derived, 3, NOWHERE)
    base = copied(state).roles["base"]
    after, metrics = make_update(derived)(state, BATCH)
    plain = Algorithm(
        losses={"sft": fn(losses.sft)},
        roles={"policy": Role(network, roles.copy_of("base"), optimizer), "base": Role(network, roles.fresh())},
    )
    plain_state = create_state(plain, 3, NOWHERE)
    assert difference(plain_state.roles["policy"], base) == 0
    direct, direct_metrics = make_update(plain)(plain_state, BATCH)
    np.testing.assert_allclose(metrics["loss"], direct_metrics["loss"], rtol=1e-6)
    assert difference(after.roles["base"], base) == 0
    step = jax.tree.map(lambda a, b: 2 * (a - b), direct.roles["policy"], base)
    assert difference(step, after.roles["policy"]) < 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# experience


def noise(context: Context, batch: Batch, key: Key, *, name: str) -> Batch:
    return batch.replace(prompts={**batch.prompts, name: jax.random.uniform(key, batch.example_id.shape)})


def test_stages_have_streams_of_their_own_name() -> None:
    """A stage added in front leaves another's numbers alone; the next step and another seed do not."""
    one = Algorithm({"a": fn(noise, name="a")}, roles={"policy": Role(None, zeros(2))})
    two = Algorithm({"first": fn(noise, name="b"), "a": fn(noise, name="a")}, roles=one.roles)
    state = create_state(one, 0, NOWHERE)
    drawn = make_experience(one)(state, numbered(4))[0].prompts["a"]
    both = make_experience(two)(state, numbered(4))[0].prompts
    np.testing.assert_array_equal(both["a"], drawn)
    assert np.all(both["b"] != drawn)
    for other in (TrainState(state.roles, {}, state.step + 1, state.seed), create_state(one, 1, NOWHERE)):
        assert np.all(make_experience(one)(other, numbered(4))[0].prompts["a"] != drawn)


def test_mistakes_are_named() -> None:
    network, optimizer = model(), fn(sgd, learning_rate=1.0)
    policy = Role(network, roles.fresh(), optimizer)

    def fails(loss: Any, batch: Batch = BATCH) -> None:
        algorithm = Algorithm(losses={"loss": loss}, roles={"policy": policy})
        make_update(algorithm)(create_state(algorithm, 0, NOWHERE), batch)

    with pytest.raises(ConfigError, match=r"no role 'polcy'\. Did you mean 'policy'"):
        fails(fn(losses.sft, role="polcy"))
    with pytest.raises(ConfigError, match=r"no head 'reward'"):
        fails(fn(losses.bradley_terry, role="policy"))
    with pytest.raises(ConfigError, match=r"no view 'pretrian'\. Did you mean 'pretrain'"):
        fails(losses.on("pretrian", losses.sft))
    with pytest.raises(ConfigError, match="no role has an optimizer"):
        make_update(Algorithm(losses={"sft": fn(losses.sft)}, roles={"policy": Role(network, roles.fresh())}))
    algorithm = Algorithm({"r": fn(stages.logprobs, role="refrence")}, roles={"policy": policy})
    with pytest.raises(ConfigError, match=r"no role 'refrence'"):
        make_experience(algorithm)(create_state(algorithm, 0, NOWHERE), BATCH)
