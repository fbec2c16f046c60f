"""Functions in plain Python that are asked about texts, with rows and a tokenizer that stand in for prepared ones."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignjax import stages
from alignjax.asking import RewardError
from alignjax.asking.answered import ANY, PROBABILITY
from alignjax.asking.stored_answers import CallJournal, read_answers
from alignjax.config import fn
from alignjax.outside import ReadError
from tests.support.asked import (
    HITS,
    Ask,
    Returning,
    batch,
    hits,
    hits_later,
    hits_sometime,
    lines_of,
    longer,
    no_color,
)

SEEN: list[dict[str, Any]] = []


def seen(**everything: Any) -> list[int]:
    SEEN.append(everything)
    everything["log_extra"]("place", range(len(everything["prompts"])))
    everything["prompts"].clear()  # which reaches nobody else
    return [1] * len(everything["completions"])


def test_a_reward_is_given_texts_token_ids_and_the_columns_of_its_row(ask: Ask, tmp_path: Path) -> None:
    SEEN.clear()
    answer = ask(fn(stages.text_reward, function=(seen, hits)), step=4, folder=tmp_path)
    assert answer[..., 0].tolist() == [[1, 1]] * 3
    assert answer[..., 1].tolist() == HITS
    (given,) = SEEN
    assert given["completions"] == ["green it", "now", "red red", "blue", "", "blue green now"]
    assert given["completion_ids"][2:5] == [[3, 3, 1], [4, 1], [1]]
    assert given["color"] == ["green"] * 2 + ["red"] * 2 + ["blue"] * 2
    assert given["hints"][:3] == [[2, 2], [2, 2], [0, 0]]
    assert given["answer"] == [2.0, 2.0, None, None, 1.0, 1.0]
    assert given["trainer_state"].global_step == 4
    lines = lines_of(tmp_path / "reward-00000005.jsonl")
    assert [line["prompt"] for line in lines] == ["it now"] * 2 + ["say it"] * 2 + ["say it now"] * 2
    assert lines[2]["scores"] == {"seen": 1, "hits": 2.0}
    assert [line["extra"]["place"] for line in lines] == [0, 1, 2, 3, 4, 5]


def test_conversations_are_messages(ask: Ask) -> None:
    SEEN.clear()
    ask(fn(stages.text_reward, function=seen), chat=True)
    SEEN.clear()
    judged = ask(fn(stages.text_judge, function=last_wins), chat=True)
    assert judged.tolist() == [[0], [0], [1]]
    first, second = LAST[0]
    assert first == [{"role": "assistant", "content": "green it"}]
    assert second == [{"role": "assistant", "content": "now"}]


LAST: list[Any] = []


def last_wins(prompts: Any, completions: Any) -> list[bool]:
    LAST[:] = completions
    assert all(turns[-1]["role"] == "user" for turns in prompts)
    return [turns[-1]["content"] == "say it now" for turns in prompts]


def test_a_prompt_that_a_stage_has_written_is_decoded(ask: Ask) -> None:
    """And one that was cut is the row's own."""
    SEEN.clear()
    cut = batch()
    prompt, valid = cut.prompt.copy(), cut.prompt_valid.copy()  # type: ignore[union-attr]
    prompt[2] = [0, 2, 5, 6]  # "say it" of "say it now"
    valid[2] = [False, True, True, True]
    prompt[0] = [0, 2, 8, 8]
    ask(fn(stages.text_reward, function=copied), given=cut.replace(prompt=prompt, prompt_valid=valid))
    assert SEEN[0]["prompts"][::2] == ["green green", "say it", "say it now"]
    assert SEEN[0]["color"][::2] == ["green", "red", "blue"]


def copied(**everything: Any) -> list[int]:
    SEEN.append(everything)
    return [1] * len(everything["completions"])


@pytest.mark.parametrize("function", [hits_later, hits_sometime])
def test_async_and_concurrent_answers_are_those_of_one_call(ask: Ask, function: Any) -> None:
    asked = fn(stages.text_reward, function=function, prompts_per_call=1, concurrency=3)
    for _ in range(3):
        assert ask(asked)[..., 0].tolist() == HITS


def test_a_judge_is_asked_about_pairs_and_in_both_orders(ask: Ask) -> None:
    once = ask(fn(stages.text_judge, function=longer))
    np.testing.assert_allclose(once[:, 0], [0.2 + 8 / 11, 0.2 + 7 / 11, np.nan], rtol=1e-6)
    both = ask(fn(stages.text_judge, function=longer, both_orders=True, prompts_per_call=2))
    # The liking for the first place is gone; where one order has no opinion the other's counts.
    np.testing.assert_allclose(both[:, 0], [(0.2 + 8 / 11 + 1 - 0.2 - 3 / 11) / 2, (7 - 4 + 11) / 22, 0], rtol=1e-6)


def test_only_pairs_with_a_weight_are_asked_about(ask: Ask) -> None:
    weight = np.zeros((3, 2, 2), np.float32)
    weight[0, 1, 0] = 0.5
    SEEN.clear()
    answer = ask(fn(stages.text_judge, function=copied), given=batch(pair_weight=weight))
    assert [len(each["completions"]) for each in SEEN] == [1]
    np.testing.assert_array_equal(answer[:, 0], [1, np.nan, np.nan])
    assert np.isnan(ask(fn(stages.text_judge, function=copied), given=batch(pair_weight=0 * weight))).all()
    assert len(SEEN) == 1


def test_answers_are_replayed_and_other_questions_asked_anew(ask: Ask, tmp_path: Path) -> None:
    asked = fn(stages.text_reward, function=(copied, no_color))
    SEEN.clear()
    first = ask(asked, folder=tmp_path)
    assert np.isnan(first[..., 1]).any()
    np.testing.assert_array_equal(ask(asked, folder=tmp_path), first)
    assert len(SEEN) == 1
    tokens = np.asarray(batch().need("tokens", of="this"))
    other = batch(tokens=np.where(tokens == 8, 3, tokens))
    ask(asked, folder=tmp_path, given=other)
    ask(asked, folder=tmp_path, step=1)
    assert len(SEEN) == 3
    (tmp_path / "reward-00000002.jsonl").write_text("{oh")
    with pytest.raises(Exception, match=r"reward-00000002.jsonl cannot be read: not JSON.*asked again"):
        ask(asked, folder=tmp_path, step=1)


def nothing(completions: Any) -> list[None]:
    return [None for _ in completions]


def test_a_step_without_any_opinion_is_said(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    ask(fn(stages.text_reward, function=(nothing, no_color)), step=4)
    assert not caplog.messages
    ask(fn(stages.text_reward, function=nothing), step=4)
    assert caplog.messages == ["nothing had no opinion about anything of a step, from which nothing is learned"]
    weight = np.zeros((3, 2, 2), np.float32)
    assert np.isnan(ask(fn(stages.text_judge, function=longer), given=batch(pair_weight=weight))).all()
    assert len(caplog.messages) == 1  # nobody was asked


CALLED: list[tuple[str, int]] = []
BUSY = threading.Event()


def paid(completions: Any, log_extra: Any) -> list[float | None]:
    CALLED.append(("paid", len(completions)))
    log_extra("bill", [math.nan, np.float32(2)])
    return [None, 0.25]


def slow_and_paid(completions: Any) -> list[float]:
    CALLED.append(("slow_and_paid", len(completions)))
    BUSY.wait(20)
    return [0.5] * len(completions)


def fails_of_blue(completions: Any, color: list[str]) -> list[float]:
    if "blue" in color and CALLED:
        BUSY.set()  # while the other function is still at work
        raise OSError("no credit")
    return [1.0] * len(completions)


def test_what_was_answered_in_a_step_that_failed_is_not_asked_again(ask: Ask, tmp_path: Path) -> None:
    """Of three functions one fails, once each of the others was called: of one in three calls, one after the other,
    and of one that is in the middle of its work. A line that a kill has cut short is no answer."""
    BUSY.clear()
    CALLED.clear()
    functions = (paid, slow_and_paid, fails_of_blue)
    asked = fn(stages.text_reward, function=functions, prompts_per_call=1, concurrency=9, retries=0)
    with pytest.raises(RewardError, match="no credit"):
        ask(asked, folder=tmp_path)
    (part,) = tmp_path.iterdir()
    assert part.name == "reward-00000001.jsonl.part"
    assert sorted(CALLED) == [("paid", 2)] * 3 + [("slow_and_paid", 2)] * 3
    lines = sorted(part.read_bytes().splitlines(), key=lambda line: b"null" in line)  # the answers of `paid` last
    part.write_bytes(b"\n".join(lines)[:-4])  # a kill while the last line was written
    CALLED.clear()
    again = ask(fn(stages.text_reward, function=(paid, slow_and_paid, hits), prompts_per_call=1), folder=tmp_path)
    assert CALLED == [("paid", 2)]
    np.testing.assert_array_equal(again[0], [[np.nan, 0.5, 1], [0.25, 0.5, 0]])
    assert [file.name for file in tmp_path.iterdir()] == ["reward-00000001.jsonl"]
    assert [line["extra"] for line in lines_of(tmp_path / "reward-00000001.jsonl")][:2] == [
        {"bill": "nan"},
        {"bill": 2},
    ]


@pytest.mark.parametrize("number", ["1" + 400 * "0", "1e300"])
def test_numbers_that_no_reward_can_be_are_no_answers(tmp_path: Path, number: str) -> None:
    """In a file of answers they are damage; of a call that was kept, it is made again."""
    path = tmp_path / "reward-00000001.jsonl"
    journal = CallJournal(path)
    journal.keep("of hits", [1.0, None], {})
    journal.keep("of paid", [1.0, 2.5], {})
    part = tmp_path / "reward-00000001.jsonl.part"
    part.write_text(part.read_text().replace("2.5", number))
    again = CallJournal(path)
    assert again.find("of hits", 2, ANY) == ([1.0, None], {})
    assert again.find("of paid", 2, ANY) is None
    path.write_text(f'{{"question": "q", "scores": {{"hits": {number}}}}}')
    with pytest.raises(ReadError, match="an answer is neither a number that float32 holds nor null"):
        read_answers(path, ["q"], ["hits"], "scores", ANY)


@pytest.mark.parametrize("number", [-0.25, 1.5])
def test_a_probability_that_is_none_is_damage(tmp_path: Path, number: float) -> None:
    path = tmp_path / "prefer-00000001.jsonl"
    path.write_text(f'{{"question": "q", "probability": {{"longer": {number}}}}}')
    with pytest.raises(ReadError, match=rf"{path.name}.*an answer is {number}, which is not in \[0, 1\]"):
        read_answers(path, ["q"], ["longer"], "probability", PROBABILITY)
    journal = CallJournal(path)
    journal.keep("of longer", [0.5, number], {})
    again = CallJournal(path)
    assert again.find("of longer", 2, PROBABILITY) is None
    assert again.find("of longer", 2, ANY) == ([0.5, number], {})


# ------------------------------------------------------------------------------------------------------------ errors


def returning(value: Any) -> Any:
    """A function that gives this, as an object, which config.json can name."""
    return Returning(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            [1.0] * 5,
            r"given at step 3, asked about 6 rows, the first with prompt 'it now': it returned a list of 5 and ",
        ),
        ([0, 0, math.nan, 0, 0, 0], r"given at step 3, asked about the row with prompt 'say it': it returned nan "),
        ([0, 0, 0, 0, 1e39, 0], r"prompt 'say it now': it returned 1e\+39 \(float\), which is no number that float32 "),
        (
            [0, 10**400, 0, 0, 0, 0],
            r"prompt 'it now': it returned a whole number of some 401 digits.*that float32 holds",
        ),
        ([0, 10**6000, 0, 0, 0, 0], r"prompt 'it now': it returned a whole number of some 6,001 digits.*float32 holds"),
        ([0, 0, 0, "1", 0, 0], r"prompt 'say it': it returned '1' \(str\), which is neither a number nor None"),
        ([[0, [1, 2]], 0, 0, 0, 0, 0], r"returned \[0, \[1, 2\]\] \(list\), which is neither a number nor None"),
        ([0, 0, 0, [1], 0, 0], r"it returned \[1\] \(list\), which is neither"),
        (3.5, r"it returned 3.5 \(float\) and must return a list of 6 numbers or None, one a row"),
        (None, r"it returned None \(NoneType\) and must"),
        ({1: 2}, r"it returned \{1: 2\} \(dict\) and must"),
        (np.zeros((6, 2)), r"it returned \[0.0, 0.0\] \(list\), which is neither"),
    ],
)
def test_what_is_no_list_of_numbers_names_function_step_and_row(ask: Ask, value: Any, words: str) -> None:
    with pytest.raises(RewardError, match=words):
        ask(fn(stages.text_reward, function=returning(value)), step=2)


def test_numbers_of_other_libraries_are_numbers(ask: Ask) -> None:
    for value in (np.arange(6), [np.float64(2), True, None, 0, 1, 2], tuple(range(6))):
        assert ask(fn(stages.text_reward, function=returning(value))).shape == (3, 2, 1)


def test_a_probability_is_in_its_range(ask: Ask) -> None:
    with pytest.raises(RewardError, match=r"prompt 'say it': it returned 1.5 \(float\), which is not in \[0, 1\]"):
        ask(fn(stages.text_judge, function=returning([0, 1.5, 1])))


TRIES = itertools.count()


def broken(completions: Any) -> Any:
    next(TRIES)
    return {}["missing"]


def broken_in_a_library(completions: Any) -> Any:
    return json.loads("{")  # the line that is said


async def broken_in_its_task(completions: Any) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(broken_in_a_library, completions), 60)


@pytest.mark.parametrize("function", [broken_in_a_library, broken_in_its_task])
def test_the_line_that_is_said_is_of_the_persons_file(ask: Ask, function: Any) -> None:
    line = broken_in_a_library.__code__.co_firstlineno + 1
    with pytest.raises(RewardError, match=rf"raised JSONDecodeError: .* \({re.escape(__file__)}, line {line}\)"):
        ask(fn(stages.text_reward, function=function, retries=0))


async def third_time(completions: Any) -> Any:
    if next(TRIES) < 2:
        raise OSError("busy")
    return [0.5] * len(completions)


def test_an_exception_is_tried_again_and_then_said(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignjax.asking.function_calls.FIRST_PAUSE", 0.001)
    monkeypatch.setattr(__name__ + ".TRIES", itertools.count())
    with pytest.raises(
        RewardError, match=r"broken at step 1, .*: it raised KeyError: 'missing' \(.*test_answers.py, lin"
    ):
        ask(fn(stages.text_reward, function=broken, retries=2))
    assert next(TRIES) == 3
    monkeypatch.setattr(__name__ + ".TRIES", itertools.count())
    assert (ask(fn(stages.text_reward, function=third_time, retries=2)) == 0.5).all()
    monkeypatch.setattr(__name__ + ".TRIES", itertools.count())
    with pytest.raises(RewardError, match=r"it raised OSError: busy .*, in 2 attempts"):
        ask(fn(stages.text_reward, function=third_time, retries=1))


LET_GO = threading.Event()


def stuck(completions: Any) -> Any:
    LET_GO.wait(20)


async def asleep(completions: Any) -> Any:
    await asyncio.sleep(20)


@pytest.mark.parametrize("function", [stuck, asleep])
def test_a_function_that_gives_no_answer_is_left_behind(ask: Ask, function: Any) -> None:
    LET_GO.clear()
    began = time.monotonic()
    with pytest.raises(RewardError, match=r"it gave no answer for 0.05 s"):
        ask(fn(stages.text_reward, function=(function, hits), timeout=0.05, retries=0))
    LET_GO.set()
    assert time.monotonic() - began < 10
