"""Verifiers of short answers, and the forms of numbers and answers that they read."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest

from alignjax import stages, verifiers
from alignjax.asking import RewardError, check_named, check_parameters
from alignjax.config import ConfigError, fn
from tests.support.asked import Ask

# Texts of one number.
NUMBERS = {
    "1250": ["1,250", "1 250", "$1,250", "1.25k", "1.25 thousand", "1.25e3", "1.25 \\times 10^{3}", "1{,}250"],
    "-3/4": ["-0.75", "\u22120.75", "-3/4", "-\\frac{3}{4}", "-\\dfrac{3}{4}", "-\u00be", "- 0.75", "\\frac{-3}{4}"],
    "5/2": ["2.5", "2 1/2", "2\u00bd", "5/2", "it is 2.5.", "(2.5)", "2.50"],
    "3000000": ["3 million", "3M", "3,000,000", "0.003 billion"],
    "7": ["7", "7 km", "7.", "x=7", "+7", "007"],
}  # fmt: skip
NONE = ["", "none", "1/0", "1e999999999", "9" * 500, "k", "-"]


@pytest.mark.parametrize(("number", "text"), [(number, text) for number, texts in NUMBERS.items() for text in texts])
def test_one_number_in_many_forms(number: str, text: str) -> None:
    assert verifiers.number_of(text) == (Fraction(number), False)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_number(text: str) -> None:
    assert verifiers.numbers_in(text) == []


def test_numbers_that_python_writes_are_read_exactly() -> None:
    draw = random.Random(3)
    for _ in range(200):
        whole, places = draw.randrange(-(10**9), 10**9), draw.randrange(1, 6)
        number = Fraction(whole, 10**places)
        written = f"{'-' if whole < 0 else ''}{abs(whole) // 10**places}.{abs(whole) % 10**places:0{places}d}"
        assert verifiers.numbers_in(f"so {written}, then") == [(number, False)], written
        assert verifiers.number_of(f"{whole:,}") == (whole, False)
        assert verifiers.number_of(f"{number.numerator}/{number.denominator}") == (number, False)


def test_several_numbers_are_told_apart() -> None:
    assert [each for each, _ in verifiers.numbers_in("1, 2, 3 and 4-5; x-6")] == [1, 2, 3, 4, 5, 6]
    assert [each for each, _ in verifiers.numbers_in("1,234,5")] == [1, 234, 5]
    assert verifiers.number_of("3 or 4") is None


ANSWERS = {
    "boxed": [("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"), ("\\boxed{1} \\boxed{2} \\boxed{3", "2"),
              ("\\fbox{a}", "a"), ("\\boxed{\\{1\\}}", "\\{1\\}"), ("boxed{1}", None)],
    "hashes": [("1 + 1\n#### 2 \nso", "2"), ("#### 1\n#### 3", "3"), ("# 1", None)],
    "tag": [("<answer>1</answer> <answer> 2 </answer>", "2"), ("<answer>1", None)],
    "last line": [("a\nb\n\n", "b"), ("", None)],
    "whole": [(" a ", "a")],
    "auto": [("#### 1 \\boxed{2}", "2"), ("#### 1", "1"), (" a ", "a"), ("<answer>3</answer>\n#### 1", "3")],
}  # fmt: skip


@pytest.mark.parametrize(("where", "cases"), ANSWERS.items())
def test_an_answer_is_taken_out_of_a_text(where: Any, cases: list[tuple[str, str | None]]) -> None:
    assert [verifiers.extracted(text, where) for text, _ in cases] == [answer for _, answer in cases]


def asked(function: Any, said: list[Any], answers: list[Any] | None = None, **settings: Any) -> list[float | None]:
    columns = {} if answers is None else {"answer": answers}
    return fn(function, **settings)(completions=said, **columns)


def test_exact() -> None:
    chat = [{"role": "assistant", "content": "The \u201cCat\u201d!"}]
    said = [chat, "a  dog", "cat", "\\boxed{-3}", "3", "\uff21", ""]
    right = ["the cat", "a dog", "the cat", "-3", -3, "a", None]
    assert asked(verifiers.exact, said, right) == [1, 1, 0, 1, 0, 1, None]
    assert asked(verifiers.exact, said, right, articles=False)[2] == 1
    assert asked(verifiers.exact, said, right, case=True)[0] == 0
    assert asked(verifiers.exact, said, right, punctuation=True)[0] == 0
    assert asked(verifiers.exact, ["dog", "cow"], [["cat", "dog"]] * 2) == [1, 0]
    assert asked(verifiers.exact, ["#### 4"] * 2, ["4", "#### 4"], extract="whole", punctuation=True) == [0, 1]


def test_numeric() -> None:
    said = ["it is 5, no, 6", "#### 1,000", "2 + 4 = 6 apples", "none", "7", "7", "\\boxed{1 or 2}"]
    right = [6, "$1k", "so\n#### 6", 4, "many", None, 2.0]
    assert asked(verifiers.numeric, said, right) == [1, 1, 1, 0, None, None, 0]
    assert asked(verifiers.numeric, ["\\boxed{1} of 2"] * 2, [1, 2], extract="last number") == [0, 1]
    assert asked(verifiers.numeric, ["50%", "50%", "0.5", "50", "0.5%"], [0.5, 50, "50%", "50%", 50]) == [1, 1, 1, 1, 0]
    assert asked(verifiers.numeric, ["50%", "50%"], [0.5, 50], percent="strict") == [1, 0]
    assert asked(verifiers.numeric, ["0.3333333"] * 2, ["1/3", "1/3"], tolerance=1e-6) == [1, 1]
    assert asked(verifiers.numeric, ["0.333"], ["1/3"]) == [0]
    assert asked(verifiers.numeric, ["0.4", "-0.4"], [0, 0], absolute=0.5) == [1, 1]
    assert asked(verifiers.numeric, ["1e-9"], [0]) == [0]


def test_pattern() -> None:
    assert asked(verifiers.pattern, ["So: YES", "yesterday"], pattern=r"(?i)\byes\b") == [1, 0]
    assert asked(verifiers.pattern, ["yes", "yes."], pattern="yes", whole=True) == [1, 0]
    assert asked(verifiers.pattern, ["a" * 40 + "b"], pattern="(a|aa)+$", seconds=0.05) == [0]


def test_what_a_verifier_cannot_do_without_is_looked_at_first() -> None:
    with pytest.raises(ConfigError, match="is no regular expression"):
        check_named(fn(verifiers.pattern, pattern="("), "here")
    with pytest.raises(ConfigError, match="pattern needs pattern: write fn"):
        check_named(verifiers.pattern, "here")
    check_named(verifiers.exact, "here")
    check_parameters(fn(verifiers.exact, column="label"), ["label"], "mine")
    with pytest.raises(ConfigError, match=r"exact reads the column 'answer' of each row; mine has label.*keep=\('ans"):
        check_parameters(verifiers.exact, ["label"], "mine", every=False)
    with pytest.raises(ConfigError, match=r"numeric\.percent is 'no'"):
        fn(verifiers.numeric, percent="no")


def colored(completions: Any, *, color: str = "red", **columns: Any) -> list[float]:
    return [float(color in text) for text in completions]


def test_a_column_is_no_hyper_parameter(ask: Ask) -> None:
    """The rows have a column of that name."""
    assert ask(fn(stages.text_reward, function=fn(colored, color="now")))[..., 0].tolist() == [[0, 1], [0, 0], [0, 1]]


def test_a_verifier_is_asked_as_any_function(ask: Ask) -> None:
    both = (fn(verifiers.exact, column="color"), fn(verifiers.constraints, checks=(fn(verifiers.word_count, least=2),)))
    answer = ask(fn(stages.text_reward, function=both))
    assert answer[..., 0].tolist() == [[0, 0], [0, 0], [0, 0]]
    assert answer[..., 1].tolist() == [[1, 0], [1, 0], [0, 1]]
    with pytest.raises(RewardError, match="KeyError"):
        ask(fn(stages.text_reward, function=fn(verifiers.exact, column="nothing"), retries=0))


def test_a_judge_by_a_reward(ask: Ask) -> None:
    judge = fn(verifiers.higher, reward=fn(verifiers.numeric, column="right"))
    pairs = [("1", "2"), ("2", "1"), ("1", "1.0"), ("3", "4"), ("1", "2")]
    assert judge(prompts=["p"] * 5, completions=pairs, right=[1, 1, 1, 1, None], other=[0] * 5) == [
        1,
        0,
        0.5,
        0.5,
        None,
    ]
    check_parameters(judge, ["right"], "mine")
    with pytest.raises(ConfigError, match="higher reads the column 'right' of each row; mine has answer"):
        check_parameters(judge, ["answer"], "mine")
    with pytest.raises(ConfigError, match="no regular expression"):
        check_named(fn(verifiers.higher, reward=fn(verifiers.pattern, pattern="(")), "here")
    blue = fn(verifiers.higher, reward=fn(verifiers.pattern, pattern="blue"))
    assert ask(fn(stages.text_judge, function=blue)).tolist() == [[0.5], [0], [0]]
