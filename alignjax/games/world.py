"""The world that a game puts around an algorithm: contexts to play in, a judge that knows the preferences, and a stage
that measures how far from equilibrium the policy is.

    game = games.rock_paper_scissors([0.5, 0.3, 0.2], tau=0.1)
    algorithm = algorithms.ipo_md(games.table_policy(game), optimizer=fn(sgd), **games.parts(game))
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import roles
from alignjax.config import ConfigError, fn
from alignjax.games.game import TabularGame
from alignjax.games.strings import Language, log_distribution, string_numbers
from alignjax.games.table_policy import Tables, context_number, start
from alignjax.pair_layout import all_pairs, preference_matrix
from alignjax.ranges import Count, NonNegative
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics, Role
from alignjax.workspace import Workspace


def role_of(game: TabularGame) -> Role:
    """Make the game a state role, {"preference": [X,K,K], "log_reference": [X,K]}: data, so that games of one shape
    share the programs of a step."""
    preference = game.preference.reshape(game.contexts, game.actions, game.actions)
    log_reference = np.log(game.reference).reshape(game.contexts, game.actions)
    return Role(None, roles.value(Tables({"preference": preference, "log_reference": log_reference})))


def parts(game: TabularGame) -> dict[str, Any]:
    """Collect what a recipe of `algorithms` needs to be played on a game, beside its model and optimizer.

    Args:
        game: A game.

    Returns:
        The keywords judge, judges, start (the game's reference), max_tokens and stop; equal ones for equal games, also
        where only tau differs.
    """
    return {
        "judge": fn(table_judge, language=game.language),
        "judges": {"game": role_of(game)},
        "start": start(game),
        "max_tokens": game.language.length,
        "stop": game.language.stop,
    }


def table_judge(context: Context, batch: Batch, key: Key, *, language: Language, role: str = "game") -> Array:
    """A judge that looks the preference up in a game's table (see `role_of`).

    Args:
        context: State and models.
        batch: Prompts and completions [B,N,T].
        key: Unused.
        language: The strings of the game.
        role: The role of the game.

    Returns:
        Preferences [B,N,N]; NaN for a completion that is no string of the game, which ends the training with an error.
    """
    tokens, valid = (batch.need(field, of="table_judge") for field in ("tokens", "valid"))
    n = tokens.shape[1]
    number, pairs = string_numbers(language, tokens, valid), all_pairs(n)
    i, j = (number[:, np.array([pair[side] for pair in pairs], int)] for side in (0, 1))
    probability = context.state[role]["preference"][context_number(batch)[:, None], i, j]
    return preference_matrix(jnp.where((i < 0) | (j < 0), jnp.nan, probability), pairs, n)


class Contexts:
    """A source of prompts for a game: batches with every context equally often, the same at every step."""

    def __init__(self, count: int, batch_size: int) -> None:
        if batch_size < 1 or batch_size % count:
            raise ConfigError(f"batch_size={batch_size}; it must be a multiple of the game's {count} contexts")
        self.count, self.batch_size = count, batch_size

    def __getitem__(self, step: int) -> Batch:
        rows = np.arange(self.batch_size, dtype=np.int32)
        prompt = (rows % self.count)[:, None]
        fields: dict[str, Any] = {"prompt": prompt, "prompt_valid": np.ones_like(prompt, bool), "example_id": rows}
        return Batch(**fields)

    @property
    def spec(self) -> Batch:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self[0])


def contexts(workspace: Workspace | None, seed: int, *, count: Count = 1, batch_size: Count = 16) -> Contexts:
    """The source of a game: `fn(games.contexts, count=game.contexts, batch_size=16)`.

    Args:
        workspace: Unused.
        seed: Unused.
        count: The number of contexts.
        batch_size: B.
    """
    return Contexts(count, batch_size)


def measure(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    language: Language,
    tau: NonNegative,
    of: str = "policy",
    role: str = "game",
) -> tuple[Batch, Metrics]:
    """Measures what a role's table is worth in the game, exactly and averaged over contexts: "duality_gap" (of the game
    regularized by tau), "exploitability" (without regularization) and "kl" from the reference. The batch goes on as it
    is.

    A gap is as exact as the tables' dtype: about 1e-7 in float32.

    Args:
        context: State and models.
        batch: Any batch.
        key: Unused.
        language: The strings of the game.
        tau: Strength of the regularization.
        of: The role whose table is measured.
        role: The role of the game.

    Returns:
        The batch as it was, and the metrics "duality_gap", "exploitability" and "kl" (in nats).
    """
    # The best response to a policy under a KL penalty is a softmax in closed form, so the gap needs no inner
    # optimization; logits become a table over whole strings once, and all three numbers come from it.
    preference, log_reference = (context.state[role][name] for name in ("preference", "log_reference"))
    log_policy = log_distribution(language, context.params(of)["logits"])
    policy = jnp.exp(log_policy)
    wins = jnp.einsum("xij,xj->xi", preference, policy)
    log_response = jax.nn.log_softmax(log_reference + wins / tau)
    return batch, {
        "duality_gap": Mean.of(2 * tau * jnp.sum(policy * (log_policy - log_response), axis=-1)),
        "exploitability": Mean.of(jnp.max(wins, axis=-1) - 0.5),
        "kl": Mean.of(jnp.sum(policy * (log_policy - log_reference), axis=-1)),
    }
