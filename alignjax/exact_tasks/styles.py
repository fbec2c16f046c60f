"""Styles: six letters are to be written in one of three ways, whose preference is a cycle by construction.

An answer may have the letters ascending, descending or as they stand. Written without a fault, ascending beats
descending with probability 0.8, descending beats the letters as they stand with 0.7, and these beat ascending with
0.65. The Nash mixture of that game of three is 4/13, 3/13, 6/13: in a cycle of payoffs a, b, c each style is played in
proportion to the payoff between the other two.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import fn
from alignjax.exact_tasks.task import ExactTask, Measure, first_letters, prompt_letters, slipped
from alignjax.pair_layout import all_pairs, preference_matrix
from alignjax.ranges import NonNegative, Style
from alignjax.stages.judge import probability
from alignjax.types import Array, Batch, Context, Key

KINDS, LENGTH = 12, 6
NAMES = ("ascending", "descending", "as they stand")
SHARES = (0.2, 0.7, 0.1)  # of the styles in what people write
SLIP = 0.1  # probability that one letter of a demonstration is another one
WINS = np.array([[0.5, 0.8, 0.35], [0.2, 0.5, 0.7], [0.65, 0.3, 0.5]])  # P(row's style beats the column's)
NASH = np.array([WINS[1, 2], WINS[2, 0], WINS[0, 1]]) - 0.5  # b, c, a
NASH = NASH / NASH.sum()


def in_a_style(prompt: Array, key: Key) -> tuple[Array, Array]:
    """A person picks a style, most often descending, and may slip once.

    Args:
        prompt: The letters [6].
        key: Random key.

    Returns:
        The answer [6], and its length.
    """
    style, slip, place, letter = jax.random.split(key, 4)
    text = _styles(prompt)[jax.random.choice(style, 3, p=jnp.array(SHARES))]
    return slipped(text, SLIP, KINDS, (slip, place, letter)), jnp.array(LENGTH)


def by_nash(prompt: Array, key: Key) -> tuple[Array, Array]:
    """The right answer: a style drawn from the Nash mixture, without a fault.

    Args:
        prompt: The letters [6].
        key: Random key.

    Returns:
        The answer [6], and its length.
    """
    return _styles(prompt)[jax.random.choice(key, 3, p=jnp.array(NASH))], jnp.array(LENGTH)


def _styles(letters: Array) -> Array:
    """The three faultless answers [..,3,6] to letters [..,6]."""
    ascending = jnp.sort(letters, axis=-1)
    return jnp.stack([ascending, ascending[..., ::-1], letters], axis=-2)


def _read(batch: Batch) -> tuple[Array, Array]:
    """The style of every answer, as one of three [B,N,3], and its quality [B,N]."""
    tokens, exact = first_letters(batch, LENGTH)
    targets = _styles(prompt_letters(batch, LENGTH))[:, None]
    match = jnp.mean(tokens[..., None, :] == targets, axis=-1)
    style = jax.nn.one_hot(jnp.argmax(match, axis=-1), 3)
    return style, jnp.where(exact, jnp.max(match, axis=-1), 0)


def style_quality(batch: Batch) -> Array:
    """Quality [B,N] in [0, 1]: the share of letters that are where the nearest of the three styles has them; 0 for an
    answer that is not six tokens and an end token. The style itself is the nearest one's, the first of equals.

    Args:
        batch: Prompts of six letters with answers [B,N,T].
    """
    return _read(batch)[1]


def faultless(batch: Batch) -> Array:
    """Says which answers [B,N] are one of the three styles without a fault, as 0 or 1.

    A policy that does not read the prompt is right with probability 6! / 12^6 = 0.00024 at best, by six different
    letters in order.

    Args:
        batch: Prompts of six letters with answers [B,N,T].
    """
    return (style_quality(batch) == 1).astype(jnp.float32)


def style_share(batch: Batch, *, style: Style) -> Array:
    """Says which answers [B,N] are of a style, as 0 or 1.

    Args:
        batch: Prompts of six letters with answers [B,N,T].
        style: 0 for ascending, 1 for descending, 2 for as they stand.
    """
    return _read(batch)[0][..., style]


def beaten_by(batch: Batch, *, style: Style, scale: NonNegative = 12.0) -> Array:
    """Gives the probability [B,N] that a faultless answer of a style beats the answer.

    The largest of a policy's three means is its exploitability by a rival that keeps to one way of answering: without
    faults, since a fault costs against every answer while the scale is above log(0.8 / 0.2).

    Args:
        batch: Prompts of six letters with answers [B,N,T].
        style: 0 for ascending, 1 for descending, 2 for as they stand.
        scale: Log-odds per unit of quality.
    """
    kind, quality = _read(batch)
    rival = jnp.broadcast_to(jax.nn.one_hot(style, 3), kind.shape)
    return probability(_log_odds(rival, jnp.ones_like(quality), kind, quality, scale))


def against_nash(batch: Batch, *, scale: NonNegative = 12.0) -> Array:
    """Gives the probability [B,N] that the answer beats one of the Nash mixture: at most 1/2.

    Args:
        batch: Prompts of six letters with answers [B,N,T].
        scale: Log-odds per unit of quality.
    """
    beaten = jnp.stack([beaten_by(batch, style=k, scale=scale) for k in range(3)], axis=-1)
    return 1 - beaten @ jnp.asarray(NASH, beaten.dtype)


def _log_odds(style: Array, quality: Array, other: Array, others: Array, scale: float | Array) -> Array:
    """Log-odds that answers beat others: their qualities' difference, and the cycle as far as both are faultless."""
    cycle = jnp.asarray(np.log(WINS) - np.log(WINS.T), jnp.float32)
    return scale * (quality - others) + quality * others * jnp.einsum("...k,kl,...l->...", style, cycle, other)


def styles_gold(context: Context, batch: Batch, key: Key, *, scale: NonNegative = 12.0) -> Array:
    """Gold judge of styles, intransitive: P(y > y') = S(scale (q - q') + q q' C[style, style']), q the qualities and C
    the log-odds of the cycle.

    Args:
        context: Not used.
        batch: Prompts of six letters with answers [B,N,T].
        key: Not used.
        scale: Log-odds per unit of quality. Above log(0.8 / 0.2) = 1.4 the faultless answer of a style beats whatever
            a faulty one of that style does against any answer, so that the Nash mixture is that of the three styles.

    Returns:
        The preference [B,N,N].
    """
    style, quality = _read(batch)
    pairs = all_pairs(quality.shape[1])
    i, j = np.array(pairs, int).reshape(-1, 2).T
    logit = _log_odds(style[:, i], quality[:, i], style[:, j], quality[:, j], scale)
    return preference_matrix(probability(logit), pairs, quality.shape[1])


STYLES = ExactTask(
    title="write six letters ascending, descending or as they stand",
    kinds=KINDS,
    length=LENGTH,
    max_tokens=LENGTH + 2,
    demonstrate=fn(in_a_style),
    solve=fn(by_nash),
    gold=fn(styles_gold),
    annotator=fn(styles_gold),
    measures=(
        Measure("faultless", "faultless", fn(faultless), 1.0, 720 / KINDS**LENGTH),
        Measure("against_nash", "against the Nash mixture", fn(against_nash), 0.5, None),
        *(Measure(name.replace(" ", "_"), name, fn(style_share, style=k), 1.0, None) for k, name in enumerate(NAMES)),
        *(
            Measure(f"beaten_by_{name.replace(' ', '_')}", f"beaten by {name}", fn(beaten_by, style=k), 1.0, None)
            for k, name in enumerate(NAMES)
        ),
    ),
)
