"""Expectations by enumeration: instead of a few samples, every pair of completions with its probability as weight.

The losses are those of training, untouched; so is the update. What is drawn elsewhere is summed here, which makes the
gradient of any pairwise loss under any sampler exact, and learning with it the method's expected dynamics.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import stages
from alignjax.config import ConfigError, Fn, fn, functions_within
from alignjax.games.game import TabularGame
from alignjax.games.strings import Language
from alignjax.games.table_policy import context_number, start, table_policy
from alignjax.games.world import Contexts, role_of, table_judge
from alignjax.losses.reads import raw_states
from alignjax.numerics import take_token
from alignjax.sampling import History, mixture, own
from alignjax.sampling.logit_streams import default_streams
from alignjax.scoring import context
from alignjax.stages import memories, select
from alignjax.types import Algorithm, Array, Batch, Context, Key, Params, Role, with_metrics


def _strings(batch: Batch, language: Language) -> Batch:
    """Make all strings completions of every prompt, [B,K,T]."""
    tokens, valid = language.strings
    prompt = context_number(batch)[:, None]
    shape = (prompt.shape[0], *tokens.shape)
    return Batch(
        prompt=prompt,
        prompt_valid=jnp.ones_like(prompt, bool),
        tokens=jnp.broadcast_to(tokens, shape),
        valid=jnp.broadcast_to(valid, shape),
    )


def _sampler_logps(context: Context, every: Batch, behaviour: Fn) -> dict[str, Array]:
    """Compute {"sampler", stream: log-prob of each token [B,K,T]} as `behaviour` samples the strings token by token."""
    streams = default_streams(behaviour)
    # The logits themselves: there are few strings and few tokens.
    logits = context.score(tuple(stream.role for stream in streams), every, raw_states)
    tokens, valid = (every.need(field, of="every_pair") for field in ("tokens", "valid"))
    logps = {name: jax.nn.log_softmax(value) for name, value in logits.items()}
    by_stream = {name: jnp.where(valid, take_token(value, tokens), 0) for name, value in logps.items()}
    chosen = []
    for step in range(tokens.shape[-1]):
        past = (jnp.arange(tokens.shape[-1]) < step)[None, None]  # buffers as the sampler has them: nothing ahead
        history = History(tokens * past, {name: value * past for name, value in by_stream.items()}, jnp.asarray(step))
        combined = behaviour({name: value[..., step, :] for name, value in logits.items()}, history)
        chosen.append(take_token(jax.nn.log_softmax(combined), tokens[..., step]))
    return by_stream | {"sampler": jnp.where(valid, jnp.stack(chosen, axis=-1), 0)}


def every_pair(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    language: Language,
    behaviour: Fn = fn(own),
    opponent: Fn | None = None,
    draws: bool = False,
    role: str = "game",
) -> Batch:
    """In the place of `generate` and `prefer`: a row for every prompt and every ordered pair of strings, the first
    sampled by `behaviour` and the second by `opponent` (default: the same), with the probability of the pair as its
    weight. Pairs of a string with itself count, as they do when one samples.

    Args:
        context: State and models.
        batch: Prompts.
        key: Unused.
        language: The strings of the game.
        behaviour: The sampler of the first string, at temperature 1, nothing truncated.
        opponent: The sampler of the second (default: `behaviour`).
        draws: Makes a row for each outcome of a drawn label, too, instead of a soft label.
        role: The role of the game.

    Returns:
        A batch with tokens, valid, mask, preference, pair_weight and logps (streams that both behaviors read, and
        "sampler"), [B K K, 2, ..].
    """
    # Row (b, i, j) of the result is string i against string j under prompt b; everything is gathered by these indices.
    every = _strings(batch, language)
    tokens, present = (every.need(field, of="every_pair") for field in ("tokens", "valid"))
    sides = [_sampler_logps(context, every, side) for side in (behaviour, opponent or behaviour)]
    rows, k = tokens.shape[:2]
    b, i, j = (index.reshape(-1) for index in np.meshgrid(*map(np.arange, (rows, k, k)), indexing="ij"))

    def both(first: Array, second: Array) -> Array:
        return jnp.stack([first[b, i], second[b, j]], axis=1)

    weight = jnp.exp(both(*(side["sampler"].sum(-1) for side in sides)).sum(-1))
    label = context.state[role]["preference"][context_number(every)[b], i, j]
    valid = both(present, present)
    filled = Batch(
        prompt=jnp.take(every.prompt, b, axis=0),  # type: ignore[arg-type]
        prompt_valid=jnp.ones((len(b), 1), bool),
        tokens=both(tokens, tokens),
        valid=valid,
        mask=valid.astype(jnp.float32),
        logps={name: both(sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]},
        example_id=jnp.arange(len(b)),
    )
    if draws:
        filled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), filled)
        weight = jnp.concatenate([weight * label, weight * (1 - label)])
        label = jnp.concatenate([jnp.ones_like(label), jnp.zeros_like(label)])
    half = jnp.full((len(label), 2, 2), 0.5, label.dtype)
    preference = half.at[:, 0, 1].set(label).at[:, 1, 0].set(1 - label)
    pair_weight = jnp.zeros_like(half).at[:, 0, 1].set(weight).at[:, 1, 0].set(weight)
    return filled.replace(preference=preference, pair_weight=pair_weight)


def exact(algorithm: Algorithm, language: Language) -> Algorithm:
    """The algorithm's expected dynamics: what it generates and has judged by a game's table is enumerated instead, and
    every other stage, loss, role and rule is left as it is.

    With two `generate` stages the first makes the first completion of a pair and the second its opponent, and
    `win_rate_against` rates the first alone. Labels drawn by `bernoulli(table_judge)` are enumerated too. A loss that
    is not linear in win rates (`sppo`) learns the same in expectation but has another value.

    A row holds a pair and no more. So there is no expectation here of what rests on three samples of a prompt: of pairs
    that meet a third (`egpo`: give it win rates against the whole opponent, by a stage of yours in the place of
    "opponent" and "win_rate"), of choices among samples (`dno`, `selm`, `osp`, `active_dpo`), of explored ones (`xpo`,
    `vpo`).

    Args:
        algorithm: An algorithm of self-play on a game.
        language: The strings of the game.

    Raises:
        ConfigError: For stages that have no such expectation here.
    """
    # First refuse what cannot be enumerated; then `every_pair` takes the place of `generate` and `prefer`, and the
    # stages and losses behind it are told that a row holds one pair.
    generators = [stage for stage in algorithm.experience.values() if stage.function is stages.generate]
    askers = [name for name, stage in algorithm.experience.items() if stage.function is stages.prefer]
    if not 1 <= len(generators) <= 2 or len(askers) != 1:
        raise ConfigError("only an algorithm with one or two `generate` stages and one `prefer` can be enumerated")
    _check_pairs(algorithm)
    for stage in generators:
        cuts = {name: stage.kwargs[name] for name in ("top_k", "top_p", "min_p", "streams")}
        if any(value is not None and (name, value) != ("top_k", -1) for name, value in cuts.items()):
            raise ConfigError("a sampler that truncates, or names its streams, is not enumerated")
        if isinstance(stage.kwargs["temperature"], float) and stage.kwargs["temperature"] != 1:
            raise ConfigError("only sampling at temperature 1 is enumerated")
    judge = algorithm.experience[askers[0]].kwargs["judge"]
    draws = judge.function is stages.bernoulli
    table = judge.kwargs["judge"] if draws else judge
    if table.function is not table_judge:
        raise ConfigError(f"the judge {judge!r} has no table; only table_judge and bernoulli(table_judge) do")
    enumerate_ = fn(
        every_pair,
        language=language,
        behaviour=generators[0].kwargs["behaviour"],
        opponent=generators[1].kwargs["behaviour"] if len(generators) == 2 else None,
        draws=draws,
        role=table.kwargs["role"],
    )
    experience: OrderedDict[str, Fn] = OrderedDict()
    for name, stage in algorithm.experience.items():
        if stage is generators[0]:
            experience["every_pair"] = enumerate_
        elif stage.kwargs.get("own") is not None and stage.function is stages.win_rate_against:
            experience[name] = stage.replace(own=1)
        elif stage.function is not stages.generate and name not in askers:
            experience[name] = stage
    losses = OrderedDict(
        (name, loss.replace(pairs=((0, 1),)) if "pairs" in loss.kwargs else loss)
        for name, loss in algorithm.losses.items()
    )
    return dataclasses.replace(algorithm, experience=experience, losses=losses)


def _check_pairs(algorithm: Algorithm) -> None:
    """Refuse stages and losses that need more than two samples of a prompt."""
    rated, others = False, (stages.prefer_by_rivals, stages.query_budget)
    for name, stage in algorithm.experience.items():
        rated |= stage.kwargs.get("own") is not None
        if stage.function in others or stage.function.__module__ in (select.__name__, memories.__name__):
            raise ConfigError(f"stage {name!r} ({stage.name}) chooses among samples, of which a row here has two")
    for name, loss in algorithm.losses.items():
        hyper = [each.kwargs for each in functions_within(loss)]
        if rated and any("pairs" in kwargs for kwargs in hyper):
            raise ConfigError(f"loss {name!r} compares pairs that a third has rated; a row here has two samples")
        if any(kwargs.get("explored") for kwargs in hyper):
            raise ConfigError(f"loss {name!r} explores samples, which it does not weigh by their probability")


def _state(game: TabularGame, params: Params) -> tuple[dict[str, Role], dict[str, Any]]:
    """Make the roles and what they hold: policy `params`, reference and game the game's."""
    model, key = table_policy(game), jax.random.key(0)
    parts = {"policy": Role(model, None), "reference": Role(model, None), "game": Role(None, None)}
    return parts, {
        "policy": params,
        "reference": start(game).function(key),
        "game": role_of(game).start.function(key),
    }


def _prompts(game: TabularGame) -> Batch:
    return jax.tree.map(jnp.asarray, Contexts(game.contexts, game.contexts)[0])


def expected_gradient(
    game: TabularGame,
    loss: Fn,
    params: Params,
    *,
    behaviour: Fn = fn(own),
    opponent: Fn | None = None,
    draws: bool = False,
    then: tuple[Fn, ...] = (),
) -> tuple[Array, Params]:
    """Differentiate a loss in expectation over pairs (and with `draws` over labels) by the policy's params, the sampler
    held constant. Exact to the dtype of params.

    Args:
        game: A game.
        loss: A loss. The roles that loss, stages and behaviors may read are "policy" and "reference" (the game's).
        params: The policy's table.
        behaviour: The sampler of the first completion.
        opponent: The sampler of the second (default: `behaviour`).
        draws: Takes the expectation over drawn labels, too.
        then: Stages between sampling and the loss, `fn(stages.win_rate_against, own=1)` for a policy gradient.

    Returns:
        The loss and its gradient, means over contexts.
    """
    pairs = fn(every_pair, language=game.language, behaviour=behaviour, opponent=opponent, draws=draws)
    experience = fn(stages.chain, stages=(pairs, *then))
    return _value_and_gradient(*_state(game, params), _prompts(game), experience, loss)


@jax.jit
def _value_and_gradient(
    parts: Mapping[str, Role], state: Mapping[str, Any], prompts: Batch, experience: Fn, loss: Fn
) -> tuple[Array, Params]:
    batch, _ = with_metrics(experience(context(parts, state), prompts, jax.random.key(0)))

    def expected(params: Params) -> Array:
        return loss(context(parts, {**state, "policy": params}), batch)[0].value()

    return jax.value_and_grad(expected)(state["policy"])


def sampled_distribution(game: TabularGame, params: Params, behaviour: Fn = fn(mixture, beta=0.5)) -> np.ndarray:
    """Compute the probability of every string when it is sampled token by token from a policy.

    Args:
        game: A game over strings.
        params: Parameters of the role "policy"; "reference" is the game's.
        behaviour: The sampler that combines the two streams.

    Returns:
        Probabilities [..,K].
    """
    logps = _log_sampled(*_state(game, params), _strings(_prompts(game), game.language), behaviour)
    return np.exp(np.asarray(logps, np.float64)).reshape(game.reference.shape)


@jax.jit
def _log_sampled(parts: Mapping[str, Role], state: Mapping[str, Any], every: Batch, behaviour: Fn) -> Array:
    return _sampler_logps(context(parts, state), every, behaviour)["sampler"].sum(-1)
