"""The sentiment of a text, a judge that is a function of the text alone: nobody is trained on it, and it can be looked
up."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from alignjax.config import ConfigError
from alignjax.ranges import Positive


@functools.cache
def _analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("sentiment is scored by vaderSentiment: pip install 'alignjax[sentiment]'") from error
    return SentimentIntensityAnalyzer()


def sentiment(text: str) -> float:
    """Scores how positive a text is by VADER's lexicon and rules (Hutto and Gilbert, VADER: A Parsimonious Rule-based
    Model for Sentiment Analysis of Social Media Text, 2014).

    Args:
        text: The text.

    Returns:
        Its compound score in [-1, 1]; 0 for a text without a word of the lexicon.

    Raises:
        ConfigError: vaderSentiment is not installed.
    """
    return float(_analyzer().polarity_scores(text)["compound"])


def more_positive(completions: Sequence[Any], *, scale: Positive = 4.0) -> list[float]:
    """Judges pairs by sentiment, for `stages.text_judge`: S(scale (s - s')) of the scores s and s'.

    Args:
        completions: Pairs of completions, each a text or a list of messages.
        scale: Log-odds per unit of the score: 4 prefers the one of two texts that differ by 0.5 in 88 % of draws.

    Returns:
        The probability that the first is better, a pair each.
    """
    scores = [[sentiment(_text(each)) for each in pair] for pair in completions]
    return [1 / (1 + math.exp(-scale * (first - second))) for first, second in scores]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else " ".join(str(each["content"]) for each in completion)
