"""What an exact task consists of, and how its answers are read."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from alignjax.config import Fn, check_ranges
from alignjax.data.text.tokenizers import EOS, SPECIAL_TOKENS
from alignjax.ranges import Count, NonNegative
from alignjax.stages.judge import bradley_terry
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

FIRST = len(SPECIAL_TOKENS)  # the id of the first letter
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that is computed exactly from a prompt and an answer.

    Attributes:
        name: The key under which results hold it.
        label: Its name in print.
        function: function(batch) -> [B,N].
        maximum: The highest value that a policy can reach.
        chance: The highest value that a policy which does not read the prompt can reach, in expectation over prompts;
            None for numbers of which more is not better.
        share: Whether it is a number in [0, 1], printed in per cent.
    """

    name: str
    label: str
    function: Fn
    maximum: float
    chance: float | None
    share: bool = True


@dataclasses.dataclass(frozen=True)
class ExactTask:
    """A task on letters.

    Attributes:
        title: What is to be done, in a sentence.
        kinds: The number of letters of the alphabet, from its first on.
        length: The number of letters of a prompt.
        max_tokens: The length of an answer in tokens at most, the end token included: longer than a right answer.
        demonstrate: demonstrate(prompt [L], key) -> (answer [max_tokens - 1], its length): what people write, which SFT
            imitates. Its mode is not what people prefer.
        solve: solve(prompt [L], key) -> (answer, its length) of full gold score.
        gold: The gold judge, which decides tournaments and from which nobody learns.
        annotator: The judge that labels are drawn from; that of a task that can be hacked errs as people do.
        measures: Exact numbers about answers, the most telling one first.
        alphabet: What the letters are.
        ask: ask(key) -> a prompt [L]; None: letters drawn uniformly, each by itself.
    """

    title: str
    kinds: Count
    length: Count
    max_tokens: Count
    demonstrate: Fn
    solve: Fn
    gold: Fn
    annotator: Fn
    measures: tuple[Measure, ...]
    alphabet: str = ALPHABET
    ask: Fn | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


def exact_reward(context: Context, batch: Batch, key: Key, *, function: Fn) -> tuple[Batch, Metrics]:
    """Fills reward [B,N] with an exact number about answers, such as what a verifier of the task says. It is known of
    all of them (a completions["weight"] of other rewards is dropped).

    Args:
        context: Not used.
        batch: Prompts with answers [B,N,T].
        key: Not used.
        function: function(batch) -> [B,N], such as that of a task's first `Measure`.

    Returns:
        The batch. Metric: `mean`, of the reward.
    """
    reward = function(batch)
    completions = {name: leaf for name, leaf in batch.completions.items() if name != "weight"}
    return batch.replace(reward=reward, completions=completions), {"mean": Mean.of(reward)}


def verified_gold(context: Context, batch: Batch, key: Key, *, function: Fn, scale: NonNegative = 4.0) -> Array:
    """Gold judge of answers that are verified: P(y > y') = S(scale (c - c')), c 1 for right answers and 0 for others.

    Args:
        context: Not used.
        batch: Prompts with answers [B,N,T].
        key: Not used.
        function: The verifier, function(batch) -> c [B,N].
        scale: How sure it is: the log-odds of a right answer against a wrong one.

    Returns:
        The preference [B,N,N].
    """
    return bradley_terry(function(batch), scale)


def prompt_letters(batch: Batch, length: int) -> Array:
    """Returns the letters [B,length] of the prompts, which stand at their end."""
    return batch.need("prompt", of="an exact task")[:, -length:]


def letter_counts(tokens: Array, kinds: int, where: Array | None = None) -> Array:
    """Counts how often each letter stands in a text.

    Args:
        tokens: [..,T].
        kinds: K, the number of letters of the alphabet.
        where: [..,T], the tokens that count; None: all.

    Returns:
        Counts [..,K].
    """
    hits = jax.nn.one_hot(tokens - FIRST, kinds, dtype=bool)  # nothing for tokens that are no letters
    return jnp.sum(hits if where is None else hits & where[..., None], axis=-2)


def _answers(batch: Batch) -> tuple[Array, Array]:
    """The tokens of the answers and which are valid, [B,N,T] both."""
    return batch.need("tokens", of="an exact task"), batch.need("valid", of="an exact task")


def answer_length(batch: Batch) -> Array:
    """Counts the tokens [B,N] of every answer before its end token."""
    tokens, valid = _answers(batch)
    return jnp.sum(valid & (tokens != EOS), axis=-1)


def ended(batch: Batch) -> Array:
    """Says which answers [B,N] have ended: an end token is among their tokens."""
    tokens, valid = _answers(batch)
    return jnp.any(valid & (tokens == EOS), axis=-1)


def first_letters(batch: Batch, length: int) -> tuple[Array, Array]:
    """Returns the first `length` tokens [B,N,length] of every answer, and whether the end token follows them [B,N].

    Args:
        batch: Answers [B,N,T].
        length: The number of letters of a right answer.
    """
    room = [(0, 0), (0, 0), (0, length + 1)]
    tokens, valid = (jnp.pad(part, room)[..., : length + 1] for part in _answers(batch))
    return tokens[..., :length], (tokens[..., length] == EOS) & jnp.all(valid, axis=-1)


def slipped(text: Array, share: float, kinds: int, keys: tuple[Key, Key, Key]) -> Array:
    """Returns a text [L] in which, with probability `share`, one letter is another one.

    Args:
        text: The letters [L].
        share: The probability of a slip.
        kinds: The number of letters of the alphabet.
        keys: Random keys of whether there is one, of its place, and of the letter.
    """
    slip, place, letter = keys
    spot = jax.random.randint(place, (), 0, len(text))
    wrong = text.at[spot].set(jax.random.randint(letter, (), FIRST, FIRST + kinds))
    return jnp.where(jax.random.bernoulli(slip, share), wrong, text)
