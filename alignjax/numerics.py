"""Small numerical functions that several packages share: keys by name, log-probabilities of tokens, masked sums."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# A finite stand-in for minus infinity: a row in which everything is masked then gives finite numbers and gradients.
MASKED = -1e30
LARGEST_EXPONENT = 20.0  # where `bounded_exp` turns into a line, as far beyond a ratio of interest as e^20 from 1


def bounded_exp(x: Array) -> Array:
    """Returns exp(x), and beyond x = 20 its tangent there: finite for any x, with a gradient that neither overflows nor
    dies, so that what has moved too far is still pulled back.

    Args:
        x: Numbers, usually log-ratios in nats.

    Returns:
        Numbers of the same shape.
    """
    x = jnp.minimum(x, 1e6)
    low = jnp.minimum(x, LARGEST_EXPONENT)
    return jnp.exp(low) * (1 + x - low)


def quick_options() -> dict[str, Any] | None:
    """Returns the compiler's options for a program that runs once or computes next to nothing: on CPU, where compiling
    it fully takes seconds, it is compiled quickly."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


@jax.custom_vjp
def linear(x: Array, weight: Array) -> Array:
    """Multiplies x [..,D] by a weight [D,F] -> [..,F]; it has a derivative in reverse mode only.

    The derivative by the weight is written as x^T g over flattened rows. The one jax derives is g^T x, transposed
    afterwards, for which XLA on CPU copies g column by column out of whatever made it: 2.5 times the whole step.

    Args:
        x: [..,D].
        weight: [D,F].

    Returns:
        The product [..,F].
    """
    return x @ weight


def _linear_forward(x: Any, weight: Any) -> tuple[Array, tuple[Array | None, Array | None]]:
    """The product, and what its derivatives need."""
    # Nobody asks for the derivative by a frozen weight or by a constant x: what only that would need is not saved.
    saved = (x.value if weight.perturbed else None, weight.value if x.perturbed else None)
    return x.value @ weight.value, saved


def _linear_backward(saved: tuple[Array | None, Array | None], g: Any) -> tuple[Array | None, Array | None]:
    """The derivatives by x and by the weight, None where nobody asks."""
    x, weight = saved
    if isinstance(g, jax.custom_derivatives.SymbolicZero):
        return None, None
    by_weight = None
    if x is not None:
        rows, cotangents = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        by_weight = jax.lax.dot_general(rows, cotangents, (((0,), (0,)), ((), ())))
    return None if weight is None else g @ weight.T, by_weight


linear.defvjp(_linear_forward, _linear_backward, symbolic_zeros=True)


def fold_name(key: Array, name: str) -> Array:
    """Makes a key for a named purpose. Names, not positions, so that adding a stage leaves every other stage's stream
    alone.

    Args:
        key: A PRNG key.
        name: The purpose.

    Returns:
        The new key.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: Array, example_id: Array, completions: int, first: int = 0) -> Array:
    """Makes one key per (prompt, completion), a function of the example and the completion's number only.

    What is sampled for a prompt therefore depends on neither the rest of the batch, its order, nor how it is sharded.

    Args:
        key: The key of the stage.
        example_id: The identity of every prompt [B].
        completions: N, the number of completions of a prompt.
        first: The number of the first completion.

    Returns:
        Keys [B,N].
    """
    numbers = jnp.arange(first, first + completions)
    return jax.vmap(lambda e: jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key, e), n))(numbers))(
        example_id
    )


def row_uniforms(key: Array, example_id: Array, count: int) -> Array:
    """Draws `count` uniform numbers in [0, 1) for every prompt [B,count], a function of the example only.

    Args:
        key: A PRNG key.
        example_id: [B].
        count: How many numbers each.

    Returns:
        Numbers [B,count].
    """
    return jax.vmap(jax.vmap(jax.random.uniform))(row_keys(key, example_id, count))


def take_token(values: Array, token: Array) -> Array:
    """Takes values [..,V] at token [..]: the one place that gathers by token id, which is where a sharded vocabulary
    matters.

    Args:
        values: [..,V].
        token: [..].

    Returns:
        Values [..].
    """
    return jnp.take_along_axis(values, token[..., None], axis=-1)[..., 0]


def take_rows(values: Array, index: Array) -> Array:
    """Takes rows index [B,n] of values [B,N,..], keys among them: [B,n,..]."""
    return jax.vmap(lambda row, numbers: row[numbers])(values, index)


def as_float32(values: Array) -> Array:
    """Returns numbers in float32 at least: the precision in which sums, norms and distributions are computed."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def token_logps(logits: Array, token: Array) -> Array:
    """Returns log softmax(logits)[token] [..] in nats, in float32 (float64 if the logits are).

    Args:
        logits: Logits [..,V].
        token: Token ids [..].
    """
    logits = as_float32(logits)
    return take_token(logits, token) - jax.nn.logsumexp(logits, axis=-1)


def masked_sum(values: Array, mask: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Sums mask * values over an axis, the last by default; what is masked out may be inf or NaN.

    Args:
        values: Any shape.
        mask: A shape that broadcasts; 0 leaves out.
        axis: What is summed over.

    Returns:
        The sums.
    """
    return jnp.sum(jnp.where(mask != 0, values, 0) * mask, axis=axis)


def in_pieces(function: Callable[[Any], Any], tree: Any, pieces: int, axis: int) -> Any:
    """Maps a function over equal runs of an axis, one after the other and each rematerialized in the backward pass.

    Args:
        function: Keeps the axis where it is.
        tree: Arrays whose axis has a multiple of `pieces` entries.
        pieces: The number of runs.
        axis: The axis.

    Returns:
        What the function gives, joined along the axis.
    """

    def split(leaf: Array) -> Array:
        leaf = leaf.reshape(*leaf.shape[:axis], pieces, -1, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(leaf, axis, 0)

    def join(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, axis)
        return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])

    return jax.tree.map(join, jax.lax.map(jax.checkpoint(function), jax.tree.map(split, tree)))


def last_valid(values: Array, valid: Array) -> Array:
    """Takes values [..,T] at the last position where valid [..,T]; position 0 if there is none.

    Args:
        values: [..,T].
        valid: [..,T] bool.

    Returns:
        Values [..].
    """
    length = valid.shape[-1]
    index = length - 1 - jnp.argmax(jnp.flip(valid, -1), axis=-1)
    index = jnp.where(jnp.any(valid, axis=-1), index, 0)
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def first_valid(values: Array, valid: Array) -> Array:
    """Takes values [..,T] at the first position where valid [..,T]; position 0 if there is none.

    Args:
        values: [..,T].
        valid: [..,T] bool.

    Returns:
        Values [..].
    """
    return jnp.take_along_axis(values, jnp.argmax(valid, axis=-1)[..., None], axis=-1)[..., 0]


def step_ends(tokens: Array, valid: Array, separators: Sequence[int]) -> Array:
    """Returns where a step of a completion ends [..,T] bool: at a token that is no separator, before one or at the end.

    Separators in a row, or at the end, make no step of their own.

    Args:
        tokens: [..,T].
        valid: [..,T] bool.
        separators: The tokens between steps; that which closes a completion too, where a step ends before it.
    """
    words = valid & ~jnp.isin(tokens, jnp.array(separators, tokens.dtype))
    return words & ~jnp.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, 1)])[..., 1:]


def strong(tree: Any) -> Any:
    """Copies every leaf with a definite dtype: fresh buffers, and none of the weak types that make a jitted function
    compile twice."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype, copy=True), tree)
