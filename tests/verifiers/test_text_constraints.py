"""Constraints on the form of a text, and rewards by a reference text."""

from __future__ import annotations

from typing import Any

import pytest

from alignjax import verifiers
from alignjax.asking import check_named
from alignjax.config import ConfigError, fn

# (check, its hyper-parameters, a text for which it holds, one for which it does not).
CASES: list[tuple[Any, dict[str, Any], str, str]] = [
    (verifiers.word_count, {"least": 2, "most": 3}, "well-known, it's", "one"),
    (verifiers.word_count, {"most": 3}, "", "a b c d"),
    (verifiers.sentence_count, {"least": 3, "most": 3}, "One. Two? (Three!)", "One... Two"),
    (verifiers.paragraph_count, {"least": 2, "most": 2}, "a\nb\n\n c", "a\nb"),
    (verifiers.bullet_count, {"least": 2}, "- a\n  * b", "- a\n-b"),
    (verifiers.has_words, {"keywords": ("red", "light blue")}, "Light Blue, red", "infrared light blue"),
    (verifiers.has_words, {"keywords": ("a.b",), "least": 2, "most": 2}, "a.b a.b", "a.b axb"),
    (verifiers.lacks_words, {"keywords": ("red", "blue")}, "infrared", "so RED."),
    (verifiers.begins_with, {"phrase": "dear"}, "  Dear all", "My dear"),
    (verifiers.ends_with, {"phrase": "bye."}, "good Bye. \n", "bye"),
    (verifiers.in_capitals, {}, "AB 1!", "1!"),
    (verifiers.in_lowercase, {}, "ab 1!", "aB"),
    (verifiers.is_json, {}, '```json\n{"a": [1]}\n```', "{a: 1}"),
    (verifiers.has_title, {}, "<<Of mice>>\nso", "<< >>"),
    (verifiers.has_placeholders, {"least": 2}, "[name] at [place]", "[name] []"),
]


@pytest.mark.parametrize(("check", "settings", "good", "bad"), CASES)
def test_checks(check: Any, settings: dict[str, Any], good: str, bad: str) -> None:
    assert (fn(check, **settings)(good), fn(check, **settings)(bad)) == (True, False)
    as_row = [{"check": check.__name__, **{name: _as_json(value) for name, value in settings.items()}}]
    assert fn(verifiers.constraints, column="of")(completions=[good, bad], of=[as_row] * 2) == [1, 0]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def shouts(text: str) -> bool:
    return text.endswith("!")


def test_constraints_are_composed() -> None:
    checks = (shouts, fn(verifiers.word_count, most=2))
    said = ["a b!", "a b c!", "a b c"]
    row = [[{"check": "has_words", "keywords": ["b"], "least": None}], None, []]
    asked = fn(verifiers.constraints, checks=checks, column="of")
    assert asked(completions=said, of=row) == [1, 0, 0]
    assert asked.replace(share=True)(completions=[*said, "x"], of=[*row, row[0]]) == [1, 0.5, 0, 1 / 3]
    assert fn(verifiers.constraints, column="of")(completions=said, of=row) == [1, None, None]


def test_constraints_that_cannot_be_meant() -> None:
    for settings, words in (
        ({}, "needs checks="),
        ({"checks": (3,)}, "3 in checks is no function"),
        ({"checks": (verifiers.begins_with,)}, "begins_with needs phrase"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_named(fn(verifiers.constraints, **settings), "here")
    for row, words in (
        ({"check": "word_cuont"}, "Did you mean 'word_count'"),
        ({"check": "word_count", "max": 3}, "word_count 'max'.*Known: least, most"),
        ("word_count 3", "check 'word_count 3'"),
    ):
        with pytest.raises(ValueError, match=words):
            fn(verifiers.constraints, column="of")(completions=["a"], of=[[row]])


# ---------------------------------------------------------------------------------------------------------- references

TEXT = "the small cat sat on the mat"


@pytest.mark.parametrize("scorer", [verifiers.word_overlap, verifiers.common_subsequence])
def test_scorers(scorer: Any) -> None:
    same, none, half, empty = scorer([TEXT.upper(), "a dog", "the small cat", ""], [TEXT, TEXT, "the small dog", ""])
    assert (same, none, empty) == (1, 0, 0)
    assert half == pytest.approx(2 / 3)
    (one,), (other,) = scorer([TEXT], ["cat on mat"]), scorer(["cat on mat"], [TEXT])
    assert one == other > 0
    (turned,) = scorer(["mat on cat"], ["cat on mat"])
    assert turned == (1 if scorer is verifiers.word_overlap else pytest.approx(1 / 3))


def test_a_subsequence_is_the_longest() -> None:
    """By trying all."""

    def longest(a: str, b: str) -> int:
        if not a or not b:
            return 0
        return longest(a[:-1], b[:-1]) + 1 if a[-1] == b[-1] else max(longest(a[:-1], b), longest(a, b[:-1]))

    for one, other in (("abcbdab", "bdcaba"), ("aabb", "abab"), ("abcde", "xaxcx")):
        (score,) = verifiers.common_subsequence([" ".join(one)], [" ".join(other)])
        assert score == pytest.approx(2 * longest(one, other) / (len(one) + len(other)))


def constant(texts: Any, references: Any) -> list[float]:
    return [0.5 if "half" in text else -1.0 for text in texts]


def test_refalign_prefers_the_shorter_of_two_that_are_alike() -> None:
    asked = fn(verifiers.refalign, scorer=constant, offset=2.0)
    short, long, none = asked(completions=["half", "half " * 8, "half"], reference=["r", "r", None])
    assert none is None
    assert (short, long) == (pytest.approx(0.5 * (1 + 1 / 3)), pytest.approx(0.5 * (1 + 1 / 10)))


def test_relevance_counts_neither_repetition_nor_endless_length() -> None:
    asked = fn(verifiers.regularized_relevance, unit=10.0, most=2.0)

    def of(said: str, prompt: str = "tell of the cat", reference: str | None = None) -> float:
        return asked(prompts=[prompt], completions=[said], reference=[reference])[0]

    varied = " ".join(f"word{k}" for k in range(8)) + " cat of"
    assert 0 < of(varied) < of(varied + " and the rest of it is told")
    assert of(varied) > of("cat of " * 5)
    assert of("the cat " * 40, reference=TEXT) < of("the cat", reference=TEXT)
    assert of(TEXT, reference=TEXT) == 1
    negative = fn(verifiers.regularized_relevance, scorer=constant, column="")
    assert negative(prompts=["p"] * 2, completions=["bad", "bad " * 50]) == [0, 0]
    assert [verifiers.repetition_term(text, n=2) for text in ("a", "a b a b", "a b c d")] == [
        1,
        pytest.approx(2 / 3),
        1,
    ]


def test_a_regressor_sees_what_is_answered() -> None:
    seen: list[Any] = []

    def regressor(texts: Any, references: Any) -> list[float]:
        seen.extend(zip(texts, references, strict=True))
        return [0.25] * len(texts)

    said = ["so <answer>yes</answer>", "no tag", "unseen"]
    assert fn(verifiers.reference_regressor, scorer=regressor)(completions=said, reference=["r", "q", None]) == [
        0.25,
        0.25,
        None,
    ]
    assert seen == [("yes", "r"), ("no tag", "q")]
    with pytest.raises(ValueError, match="1 numbers for 2 texts"):
        fn(verifiers.refalign, scorer=lambda texts, references: [1])(completions=["a", "b"], reference=["a", "b"])
