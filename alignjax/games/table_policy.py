"""A softmax table as a `Model`: the policy of a game, for the same stages, losses and loops as a language model.

The prompt's last token is the number of the context. A hidden state is the number of a node, context * nodes + node of
the tree of prefixes, and heads look their table up there. Exact in float32 up to 2^24 nodes; the tables themselves are
float64 where jax_enable_x64 is on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, check_known, check_ranges
from alignjax.games.game import TabularGame
from alignjax.games.strings import Language, conditionals, walk
from alignjax.models.heads import SMALL
from alignjax.models.kv_cache import Cache, Segment, default_read
from alignjax.numerics import last_valid
from alignjax.ranges import Count
from alignjax.roles import Value, value
from alignjax.types import Array, Batch, Head, Hidden, Key, Model, Params


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """The config of a table. outputs: further heads ("reward", "value", "embedding"), a table each."""

    language: Language
    contexts: Count = 1
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in self.outputs:
            check_known(name, SMALL, f"unknown model output {name!r}")
        if self.contexts * self.language.nodes > 2**24:
            raise ConfigError(f"{self.contexts} contexts of {self.language.nodes} nodes are too many for a table")


def table_policy(game: TabularGame, outputs: tuple[str, ...] = ()) -> Model:
    """Make a model that is a table of logits for the game's actions.

    `init` is the uniform policy, token by token; `start(game)` starts at the game's reference.

    Args:
        game: A game.
        outputs: Further heads ("reward", "value", "embedding"), a table each.

    Returns:
        A model with params {"logits": [X,K]}, or [X,prefixes,V] for strings of several tokens; the same object for
        games of the same shape.

    Raises:
        ConfigError: For an unknown output, or more nodes than a table can number.
    """
    return _table(TableConfig(game.language, game.contexts, tuple(outputs)))


@dataclasses.dataclass(frozen=True, eq=False)
class Tables:
    """A role's first value that is known: these arrays, whatever the key.

    Equal arrays make equal starts, so that algorithms on equal games share their compiled programs.
    """

    tables: Mapping[str, np.ndarray]

    def __call__(self, key: Key) -> dict[str, Array]:
        return {name: jnp.asarray(table, float) for name, table in self.tables.items()}

    def _content(self) -> tuple[Any, ...]:
        return tuple((name, table.shape, table.tobytes()) for name, table in self.tables.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tables) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())


def start(game: TabularGame) -> Value:
    """Make the start of a role that begins as the game's reference."""
    logits = conditionals(game.language, game.reference.reshape(game.contexts, -1))
    return value(Tables({"logits": logits}))


def context_number(batch: Batch) -> Array:
    """Read the context of each prompt [B], its last valid token."""
    return last_valid(*(batch.need(field, of="a game") for field in ("prompt", "prompt_valid")))


@functools.cache
def _table(config: TableConfig) -> Model:
    # A node is context * nodes + prefix, so one integer addresses a row of every table and the cache stores nothing but
    # such numbers: a step of sampling is a lookup.
    language, contexts = config.language, config.contexts
    per_prefix = (language.vocab,) if language.length == 1 else (language.prefixes, language.vocab)

    def init(key: Key) -> Params:
        small = {name: jnp.zeros((contexts, language.nodes, SMALL[name][1]), float) for name in config.outputs}
        return {"logits": jnp.zeros((contexts, *per_prefix), float), **small}

    def hidden(params: Params, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
        _refuse(sites)
        tokens, valid = (batch.need(field, of="a table") for field in ("tokens", "valid"))
        if tokens.shape[-1] > language.length:
            raise ConfigError(f"completions of {tokens.shape[-1]} tokens in a game of at most {language.length}")
        root = context_number(batch)[:, None, None] * language.nodes
        nodes = walk(language, jnp.zeros(tokens.shape[:2], jnp.int32), tokens, valid)
        before, after = (_state(root + node) for node in nodes)
        return Hidden(before, after, {})

    def extend(
        params: Params, cache: Cache | None, tokens: Array, valid: Array, edits: Any = None, states: Any = ()
    ) -> tuple[Array, Cache, dict[str, Array]]:
        _refuse(states)
        if cache is None:  # a prompt, whose every token says at which root one would be if it were the last
            nodes = tokens * language.nodes
            return _state(nodes), Cache(own=Segment((), valid, nodes)), {}
        root, node = jnp.divmod(_present(cache, tokens.shape[1]), language.nodes)
        nodes = root[..., None] * language.nodes + walk(language, node, tokens, valid)[1]
        return _state(nodes), _written(cache, valid, nodes), {}

    heads = {"lm": Head("before", functools.partial(_logits, config))}
    heads |= {name: Head(SMALL[name][0], functools.partial(_small, config, name)) for name in config.outputs}
    return Model(init, hidden, heads, default_read, extend, config=config)


def _refuse(sites: Any) -> None:
    if sites:
        raise ConfigError(f"a table has no hidden states {', '.join(sites)}")


def _state(nodes: Array) -> Array:
    return nodes[..., None].astype(jnp.float32)


def _logits(config: TableConfig, params: Params, states: Array) -> Array:
    context, node = jnp.divmod(states[..., 0].astype(jnp.int32), config.language.nodes)
    table = params["logits"].reshape(config.contexts, config.language.prefixes, config.language.vocab)
    # At the end of a string nothing follows, and the logits there are not used.
    return table[context, jnp.minimum(node, config.language.prefixes - 1)]


def _small(config: TableConfig, name: str, params: Params, states: Array) -> Array:
    context, node = jnp.divmod(states[..., 0].astype(jnp.int32), config.language.nodes)
    return params[name][context, node]


# A cache holds, in the place of positions, the node after each token; there are no keys and values.


def _present(cache: Cache, n: int) -> Array:
    """Find the node at which each completion stands [B,N]."""
    shared = cache.shared
    assert shared is not None
    root = jnp.broadcast_to(last_valid(shared.positions, shared.valid)[:, None], (len(shared.valid), n))
    if cache.own is None:
        return root
    if cache.used is None:
        return cache.own.positions[..., -1]
    latest = jax.lax.dynamic_index_in_dim(cache.own.positions, jnp.maximum(cache.used - 1, 0), axis=2, keepdims=False)
    return jnp.where(cache.used > 0, latest, root)


def _written(cache: Cache, valid: Array, nodes: Array) -> Cache:
    """Extend the cache by the tokens that led to `nodes` [B,N,T]."""
    segment, used = cache.own, cache.used
    if segment is None:
        return Cache(cache.shared, Segment((), valid, nodes))
    if used is None:
        joined = [jnp.concatenate(pair, axis=2) for pair in ((segment.valid, valid), (segment.positions, nodes))]
        return Cache(cache.shared, Segment((), *joined))
    put = jax.lax.dynamic_update_slice_in_dim
    segment = Segment((), put(segment.valid, valid, used, axis=2), put(segment.positions, nodes, used, axis=2))
    return Cache(cache.shared, segment, used + valid.shape[2])
