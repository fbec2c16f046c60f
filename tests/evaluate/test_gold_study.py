"""An evaluation by gold: identities of its statistics, and sentences that say what intervals support and no more."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from alignjax.config import ConfigError
from alignjax.data import written_rows
from alignjax.evaluate import gold_statistics as gold, sentiment, text_metrics
from alignjax.evaluate.gold_report import markdown, sentence

PROMPTS, DRAWS, NATS = 40, 8, 2.0


def answers(shift: float, nats_per_token: float = NATS, count: int = 2, seed: int = 0) -> gold.Answers:
    """Made-up answers whose gold scores are a shift and noise."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, 9, (PROMPTS, count))
    texts = [[f"words of answer {i} {k}" for k in range(count)] for i in range(PROMPTS)]
    reference = -nats_per_token * tokens
    ended = np.ones((PROMPTS, count), bool)
    return gold.Answers(
        texts, generator.normal(shift, 1.0, (PROMPTS, count)), reference + 0.5, reference, tokens, ended
    )


def by_gold(first: gold.Answers, second: gold.Answers, scale: float = 3.0) -> np.ndarray:
    return 1 / (1 + np.exp(-scale * (first.gold[:, :, None] - second.gold[:, None, :])))


def outcome(**policies: gold.Answers) -> dict[str, Any]:
    """Statistics in which the learned judge is gold's."""
    everybody = {"start": answers(0, count=DRAWS, seed=1), "again": answers(0, seed=2), "T=0": answers(0, seed=3)}
    everybody |= policies
    learned = {(a, b): by_gold(everybody[a], everybody[b]) for a in everybody for b in everybody}
    return gold.statistics(everybody, learned, "start", "again", (2, 4), {name: name for name in policies})


def test_the_best_of_k_by_a_judge_that_ranks_by_a_score_has_the_highest_score_of_its_k() -> None:
    start = answers(0, count=12, seed=4)
    for k in (2, 3, 6):
        picked = start.picked(gold.best_picks(by_gold(start, start), k))
        np.testing.assert_array_equal(picked.gold, start.gold.reshape(PROMPTS, -1, k).max(2))
        assert picked.texts[3][1] == start.texts[3][k + int(np.argmax(start.gold[3, k : 2 * k]))]


def test_wins_of_both_sides_add_up_to_one_and_equal_scores_are_half_a_win() -> None:
    first, second = answers(0.4, count=3).gold.round(), answers(0, count=5, seed=1).gold.round()
    np.testing.assert_allclose(gold.wins(first, second) + gold.wins(second, first), 1)
    np.testing.assert_array_equal(gold.wins(first[:, :1], first[:, :1]), 0.5)


def test_texts_from_a_uniform_model_have_its_vocabulary_as_perplexity() -> None:
    measured = gold.perplexity(answers(0, nats_per_token=np.log(50)))
    assert measured["low"] == pytest.approx(50)
    assert measured["high"] == pytest.approx(50)


def test_a_judge_is_right_where_it_says_what_gold_says_and_unknown_where_gold_says_nothing() -> None:
    start = answers(0, count=4)
    assert gold.judge_accuracy(start.gold, by_gold(start, start))["accuracy"]["mean"] == 1
    assert gold.judge_accuracy(start.gold, by_gold(start, start, -3.0))["accuracy"]["mean"] == 0
    assert gold.judge_accuracy(np.zeros_like(start.gold), by_gold(start, start)) == {"accuracy": None, "pairs": 0}


def test_the_first_sentence_says_no_more_than_the_intervals() -> None:
    said = sentence(
        outcome(far=answers(3), hacked=answers(3, nats_per_token=2 * NATS), same=answers(0), worse=answers(-2))
    )
    assert f"on {PROMPTS} held-out prompts" in said
    for claim in (
        "far beats the start model and every control",
        "hacked left the language",
        "same is not told apart from the start model",
        "worse loses to the start model",
    ):
        assert claim in said
    between = sentence(outcome(some=answers(1.0, seed=5)))
    assert "some beats the start model and its best temperature, but is not shown to beat the best of its" in between


def test_the_report_marks_a_policy_above_twice_the_perplexity_and_says_what_the_weights_are() -> None:
    results = outcome(
        policy=answers(3, nats_per_token=NATS + np.log(2.1)), other=answers(3, nats_per_token=NATS + np.log(1.9))
    )
    results["shown"] = [
        {"prompt": "a | b", "answers": {"start": {"text": "one\n| two", "gold": 0.1, "learned": 0.5}}},
    ]
    page = markdown(results, "Title", "Weights of m.gguf: Q4_1 dequantized.", [("labels", 1234)])
    assert "policy (**hacked**)" in page
    assert "other (**hacked**)" not in page
    assert page.count("Q4_1 dequantized") == 3  # above each part with tables
    assert "one \\| two" in page
    assert page.index("By gold") < page.index("before and after") < page.index("## Players")


def test_a_text_repeats_where_a_run_of_four_words_comes_twice() -> None:
    assert text_metrics.repeats("it was so good, and It was so GOOD")
    assert not text_metrics.repeats("it was so good and it was so bad")
    assert not text_metrics.repeats("good good good good")
    assert not text_metrics.repeats("")


def test_sentiment_prefers_the_kinder_text_in_any_order_and_as_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vaderSentiment")
    texts = ["I love it, wonderful!", "A chair.", "I hate it, terrible."]
    pairs = [(a, b) for a in texts for b in texts]
    said = dict(zip(pairs, sentiment.more_positive(pairs, scale=2.5), strict=True))
    assert all(said[a, b] + said[b, a] == pytest.approx(1) for a, b in pairs)
    assert said[texts[0], texts[1]] > 0.5 > said[texts[2], texts[1]]
    talks = [tuple([{"role": "assistant", "content": text}] for text in pair) for pair in pairs]
    assert sentiment.more_positive(talks, scale=2.5) == list(said.values())


def test_sentiment_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    sentiment._analyzer.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'alignjax\[sentiment\]'"):
        sentiment.sentiment("fine")


def test_rows_are_written_once_under_the_name_of_what_they_hold(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path))
    first, again, other = (
        written_rows([{"prompt": "é"}]),
        written_rows([{"prompt": "é"}]),
        written_rows([{"prompt": "e"}]),
    )
    assert first == again != other
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2
