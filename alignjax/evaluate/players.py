"""Who plays in a tournament, and the answers that they draw; players that need no training are made in `controls`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import scoring, stages
from alignjax.config import Fn, check_ranges, fn
from alignjax.evaluate.verdicts import side_by_side
from alignjax.numerics import fold_name
from alignjax.ranges import Count, Natural, NonNegative
from alignjax.sampling import own
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.types import Array, Batch, Key, Model, Params
from alignjax.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class Player:
    """A player is a policy to be judged: the role of a pipeline step's last checkpoint, and a way to sample from it.

    Attributes:
        name: The key under which results hold it.
        stage: The step whose checkpoint is read.
        role: The role of that checkpoint.
        label: Its name in print.
        note: How it was made, in a line.
        temperature: Divides the logits; 0 is greedy.
        behaviour: How the streams "policy" (the player) and "reference" (the baseline) combine; None: the policy alone.
            `fn(mixture, beta=...)` plays the mixture that IPO-MD and Nash-MD sample from, `fn(dera, lam=1.5)` goes
            beyond the policy.
        others: Further streams of its behavior, (stream, stage, role) each, on the players' network.
        best_of: The number of samples of which the judge called `by` picks the one that wins most against the others.
        by: The judge that picks.
        control: Whether it needed no training beyond the baseline's: what a trained policy has to beat.
    """

    name: str
    stage: str
    role: str = "policy"
    label: str = ""
    note: str = ""
    temperature: NonNegative = 1.0
    behaviour: Fn | None = None
    others: tuple[tuple[str, str, str], ...] = ()
    best_of: Count = 1
    by: str = "training"
    control: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)


@functools.partial(jax.jit, static_argnames=("model", "max_tokens", "n", "stop"))
def sampled(
    model: Model, policy: Params, reference: Params, batch: Batch, key: Key, max_tokens: int, n: int = 1,
    behaviour: Fn = fn(own), temperature: float | Array = 1.0, *, stop: tuple[Natural, ...],
    others: Mapping[str, Params] | None = None,
) -> Batch:  # fmt: skip
    """Sample completions of the prompts, with their log-probs under policy and reference.

    Args:
        model: The network of both.
        policy: Weights of the policy.
        reference: Weights of the reference.
        batch: Prompts; completions that it has are ignored.
        key: Random key.
        max_tokens: The length of a completion in tokens at most.
        n: Completions per prompt.
        behaviour: How the streams "policy" and "reference" combine.
        temperature: Divides the logits; 0 is greedy.
        stop: The tokens that end a completion.
        others: Weights of further streams.

    Returns:
        The batch with tokens [B,n,T] and logps {"policy", "reference", "sampler"} [B,n,T] in nats.
    """
    params = {"policy": policy, "reference": reference, **(others or {})}
    context = scoring.context(dict.fromkeys(params, model), params)
    prompts = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, example_id=batch.example_id)
    options = {"n": n, "max_tokens": max_tokens, "behaviour": behaviour, "temperature": temperature, "stop": stop}
    answers, _ = stages.generate(context, prompts, key, **options)
    return stages.logprobs(context, answers, key, role="reference")


@jax.jit
def _best(batch: Batch, preference: Array) -> Batch:
    """The completion that wins most against the others of its prompt, no opinion being a tie; it has no log-probs, for
    nobody sampled from what was picked."""
    best = jnp.argmax(jnp.sum(jnp.nan_to_num(preference, nan=0.5), axis=2), axis=1)
    return batch.replace(logps={}).pick(best[:, None])


def drawn(
    workspace: Workspace,
    model: Model,
    players: Sequence[Player],
    prompts: Sequence[Batch],
    judges: Mapping[str, Callable[[Batch], Array]],
    *,
    key: Key,
    max_tokens: Count,
    stop: tuple[Natural, ...],
) -> dict[str, list[Batch]]:
    """Samples {player: batches of its answers, N = 1}, each player's with a key of its own name.

    Args:
        workspace: The run.
        model: The network of the players.
        players: The players; the first one's weights are the reference.
        prompts: Batches of prompts.
        judges: What picks the best of several samples, by name: (batch) -> preference [B,N,N].
        key: Random key.
        max_tokens: The length of a completion in tokens at most.
        stop: The tokens that end a completion.
    """
    # Weights are read once for all players that share them; all draws are one compiled program.
    places = {(player.stage, player.role): None for player in players}
    places |= {(stage, role): None for player in players for _, stage, role in player.others}
    weights = {place: restore_role(workspace.find(place[0]), place[1]) for place in places}
    baseline = weights[players[0].stage, players[0].role]

    def draw(player: Player, batch: Batch, number: int) -> Batch:
        own_key = fold_name(key, player.name)
        return sampled(
            model,
            weights[player.stage, player.role],
            baseline,
            batch,
            jax.random.fold_in(own_key, number) if number else own_key,
            max_tokens,
            behaviour=player.behaviour or fn(own),
            temperature=jnp.float32(player.temperature),
            stop=stop,
            others={stream: weights[stage, role] for stream, stage, role in player.others},
        )

    def answers(player: Player, batch: Batch) -> Batch:
        # Several samples are several draws of one: everybody's answers then come from one compiled program.
        draws = [draw(player, batch, number) for number in range(player.best_of)]
        if len(draws) == 1:
            return draws[0]
        several = side_by_side(jax.device_get(draws))
        return _best(several, judges[player.by](several))

    return {player.name: [jax.device_get(answers(player, batch)) for batch in prompts] for player in players}


def finished(batch: Any, stop: tuple[int, ...]) -> Any:
    """Says which completions [B,N] of a batch of arrays have ended: one of the tokens that end them is among theirs."""
    return (batch.valid & np.isin(batch.tokens, stop)).any(-1)
