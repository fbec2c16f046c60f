"""Languages of few enough strings to write them all down: the actions of a game, as samplers and scorers see them.

A prefix is a node of the complete tree with `vocab` branches, numbered as in a heap: the root is 0, and token v leads
from node s to node s * vocab + 1 + v. Nodes below a stop token exist and are never reached.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from alignjax.config import ConfigError, check_ranges
from alignjax.ranges import Count, Natural
from alignjax.types import Array


@dataclasses.dataclass(frozen=True)
class Language:
    """All strings of 1 to `length` tokens out of 0 .. vocab - 1 that end with a token of `stop` or are `length` long.
    With length 1 the strings are the tokens: an action is a token.

    Raises ConfigError for a language without strings, or with more than 4096.
    """

    vocab: Count
    length: Count = 1
    stop: tuple[Natural, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        check_ranges(self)
        if any(token >= self.vocab for token in self.stop):
            raise ConfigError(f"{self}: stop tokens are below vocab")
        if self.nodes > 2**16 or self.size > 4096:
            raise ConfigError(f"{self} has {self.size} strings, too many to enumerate; at most 4096")

    @property
    def prefixes(self) -> int:
        """The number of nodes that a token can follow."""
        return sum(self.vocab**depth for depth in range(self.length))

    @property
    def nodes(self) -> int:
        return self.prefixes + self.vocab**self.length

    @property
    def size(self) -> int:
        """K, the number of strings."""
        letters = self.vocab - len(set(self.stop))
        return sum(letters**depth * (self.vocab - letters) for depth in range(self.length)) + letters**self.length

    @property
    def strings(self) -> tuple[np.ndarray, np.ndarray]:
        """tokens, valid [K,T] in alphabetical order, 0 and False after the end."""
        return _strings(self)

    @property
    def before(self) -> np.ndarray:
        """The node before each token of each string [K,T]; 0 after the end."""
        tokens, valid = self.strings
        return np.where(valid, _walk(tokens, self.vocab)[:, :-1], 0)

    @property
    def action(self) -> np.ndarray:
        """The number of the string that ends at a node [nodes], -1 where none does."""
        tokens, valid = self.strings
        ends = np.take_along_axis(_walk(tokens, self.vocab), valid.sum(-1)[:, None], axis=1)[:, 0]
        number = np.full(self.nodes, -1, np.int32)
        number[ends] = np.arange(len(ends))
        return number


@functools.cache
def _strings(language: Language) -> tuple[np.ndarray, np.ndarray]:
    strings: list[tuple[int, ...]] = []

    def grow(prefix: tuple[int, ...]) -> None:
        if len(prefix) == language.length or (prefix and prefix[-1] in language.stop):
            strings.append(prefix)
            return
        for token in range(language.vocab):
            grow((*prefix, token))

    grow(())
    tokens = np.zeros((len(strings), language.length), np.int32)
    valid = np.zeros((len(strings), language.length), bool)
    for number, string in enumerate(strings):
        tokens[number, : len(string)], valid[number, : len(string)] = string, True
    return tokens, valid


def _walk(tokens: np.ndarray, vocab: int) -> np.ndarray:
    """List the nodes before and after each token [K,T+1], as if strings went on."""
    nodes = [np.zeros(len(tokens), int)]
    for token in tokens.T:
        nodes.append(nodes[-1] * vocab + 1 + token)
    return np.stack(nodes, axis=1)


def _table(language: Language, logits: Any) -> Any:
    """Reshape logits [..,K] of one-token strings to [..,prefixes,V], which they are for longer ones."""
    return logits[..., None, :] if language.length == 1 else logits


def log_distribution(language: Language, logits: Any) -> Any:
    """Compute the log-probs of all strings from next-token logits.

    Args:
        language: The strings.
        logits: At each prefix: [..,K] for strings of one token, else [..,prefixes,V].

    Returns:
        Log-probs [..,K] in nats; NumPy in float64 for NumPy arrays, jax for jax's.
    """
    tokens, valid = language.strings
    if isinstance(logits, jax.Array):
        steps = jax.nn.log_softmax(_table(language, logits))[..., language.before, tokens]
        return jnp.sum(jnp.where(valid, steps, 0), axis=-1)
    steps = log_softmax(_table(language, np.asarray(logits, np.float64)), axis=-1)[..., language.before, tokens]
    return np.sum(np.where(valid, steps, 0), axis=-1)


def conditionals(language: Language, distribution: np.ndarray) -> np.ndarray:
    """Invert `log_distribution`: the next-token log-probs at each prefix of a distribution over strings.

    Args:
        language: The strings.
        distribution: [..,K], without zeros.

    Returns:
        [..,K] for strings of one token, else [..,prefixes,V], in nats; 0 at nodes that no string comes past.
    """
    tokens, valid = language.strings
    distribution = np.asarray(distribution, np.float64)
    mass = np.zeros((*distribution.shape[:-1], language.prefixes, language.vocab))
    places: Any = (..., language.before[valid], tokens[valid])  # of each token; its string is the row of `valid`
    np.add.at(mass, places, distribution[..., np.nonzero(valid)[0]])
    total = mass.sum(-1, keepdims=True)
    logits = np.log(np.where(total > 0, mass, 1)) - np.log(np.where(total > 0, total, 1))
    return logits[..., 0, :] if language.length == 1 else logits


def string_numbers(language: Language, tokens: Array, valid: Array) -> Array:
    """Number the string that each completion is.

    Args:
        language: The strings.
        tokens: [..,T].
        valid: [..,T].

    Returns:
        Numbers [..]; -1 for a completion that has not ended.

    Raises:
        ConfigError: If T is not the language's length.
    """
    if tokens.shape[-1] != language.length:
        raise ConfigError(
            f"completions of at most {tokens.shape[-1]} tokens in a game whose strings have up to {language.length}; "
            f"generate with max_tokens={language.length}"
        )
    nodes = walk(language, jnp.zeros(tokens.shape[:-1], jnp.int32), tokens, valid)[1]
    return jnp.asarray(language.action)[nodes[..., -1]]


def walk(language: Language, node: Array, tokens: Array, valid: Array) -> tuple[Array, Array]:
    """Follow tokens [..,T] from `node` [..] and return the nodes before and after each; padding leads nowhere.

    Args:
        language: The strings of the game.
        node: The node to begin at, int32 [..].
        tokens: Token ids [..,T].
        valid: False on padding [..,T].

    Returns:
        The nodes before and after each token, int32 [..,T].
    """
    before, after = [], []
    for index in range(tokens.shape[-1]):
        before.append(node)
        onward = jnp.minimum(node * language.vocab + 1 + tokens[..., index], language.nodes - 1)
        node = jnp.where(valid[..., index], onward, node)
        after.append(node)
    return jnp.stack(before, axis=-1), jnp.stack(after, axis=-1)
