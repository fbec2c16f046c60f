"""Questions about texts, answered: by the file of an earlier call where it holds the answers, else by the functions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.asking.function_calls import Call, Calls
from alignjax.asking.function_keywords import LogExtra, TrainerState, accepted, keywords, log_nothing
from alignjax.asking.named_functions import described
from alignjax.asking.questions import Question, by_prompts
from alignjax.asking.stored_answers import CallJournal, read_answers, write_answers
from alignjax.config import Fn
from alignjax.stages.text_functions import functions_of, name_of, names_of, text_judge

ANY, PROBABILITY = (-math.inf, math.inf), (0.0, 1.0)  # what a reward, and what a judge may be


def answered(
    calls: Calls, asked: Fn, questions: Sequence[Question], state: TrainerState | None, path: Path | None
) -> list[list[float]]:
    """Returns what the functions of a text_reward or text_judge say of each question, NaN for no opinion.

    Args:
        calls: Calls functions.
        asked: A text_reward or a text_judge, whose hyper-parameters say how to ask.
        questions: Completions, or pairs of them.
        state: The step; None outside of a run.
        path: The file of the answers; None: nowhere.

    Returns:
        A number a function, for each question.

    Raises:
        RewardError: A function failed.
    """
    names = names_of(asked.kwargs["function"])
    field, range = ("probability", PROBABILITY) if asked.function is text_judge else ("scores", ANY)
    stored = None if path is None else read_answers(path, [each.digest for each in questions], names, field, range)
    if stored is not None:
        return [[math.nan if number is None else float(number) for number in line] for line in stored]
    journal = CallJournal(path)
    numbers, extra = _said(calls, asked, questions, state, journal)
    if path is not None:
        lines = []
        for number, (question, line) in enumerate(zip(questions, numbers, strict=True)):
            values = (None if math.isnan(each) else each for each in line)
            logged = {name: values[number] for name, values in extra.items() if values[number] is not None}
            said: dict[str, Any] = {field: dict(zip(names, values, strict=True))}
            said |= {"extra": logged} if logged else {}
            step = {} if state is None else {"step": state.global_step + 1}
            lines.append(step | question.line(said))
        write_answers(path, lines)
        journal.remove()
    return numbers


def _said(
    calls: Calls, asked: Fn, questions: Sequence[Question], state: TrainerState | None, journal: CallJournal
) -> tuple[list[list[float]], dict[str, list[Any]]]:
    """What the functions say of each question, and the columns that they log beside."""
    # Calls are cut by whole prompts; with both orders every one is made a second time with its pairs turned round.
    # Answers come in the order of the calls: functions, then orders, then cuts.
    if not questions:
        return [], {}
    functions, kwargs = functions_of(asked.kwargs["function"]), asked.kwargs
    cuts = by_prompts(questions, kwargs["prompts_per_call"] or len(questions))
    orders = (False, True) if kwargs.get("both_orders") else (False,)
    settings = {
        "range": PROBABILITY if asked.function is text_judge else ANY,
        "timeout": float(kwargs["timeout"]),
        "retries": kwargs["retries"],
    }
    places = [(function, turned, *cut) for function in functions for turned in orders for cut in cuts]
    every = []
    for function, turned, start, stop in places:
        some = [each.turned() if turned else each for each in questions[start:stop]]
        every.append(_call(function, some, state, settings, f"{turned} {start}"))
    parts = iter(_answers(calls, every, kwargs["concurrency"], journal))
    columns = []
    for _ in functions:
        both = [[number for _ in cuts for number in next(parts)] for _ in orders]
        turned_back = [[1 - number for number in numbers] for numbers in both[1:]]
        columns.append([_mean(numbers) for numbers in zip(both[0], *turned_back, strict=True)])
    extra: dict[str, list[Any]] = {}
    for (_, _, start, stop), (_, _, log) in zip(places, every, strict=True):
        for name, values in log.columns.items():
            extra.setdefault(name, [None] * len(questions))[start:stop] = values
    return [list(line) for line in zip(*columns, strict=True)], extra


def _answers(
    calls: Calls, every: Sequence[tuple[str, Call, LogExtra]], concurrency: int, journal: CallJournal
) -> list[list[float]]:
    """What each of the calls gave: as the journal has it, and from the function where it has not."""
    # A call alone is not kept in the journal: the file of the step has it a moment later.
    answers: dict[int, list[float]] = {}
    for number, (digest, call, log) in enumerate(every):
        if (held := journal.find(digest, len(call.prompts), call.range)) is not None:
            answers[number] = [math.nan if each is None else float(each) for each in held[0]]
            log.columns |= held[1]
    left = [number for number in range(len(every)) if number not in answers]

    def came(place: int, numbers: list[float]) -> None:
        digest, _, log = every[left[place]]
        if len(every) > 1:
            journal.keep(digest, [None if math.isnan(each) else each for each in numbers], log.columns)

    made = calls.answers([every[number][1] for number in left], concurrency, came)
    answers |= dict(zip(left, made, strict=True))
    return [answers[number] for number in range(len(every))]


def _mean(numbers: Sequence[float]) -> float:
    """The mean of the numbers that are there, NaN of none."""
    there = [number for number in numbers if not math.isnan(number)]
    return sum(there) / len(there) if there else math.nan


def _call(
    function: Any, questions: Sequence[Question], state: TrainerState | None, settings: Mapping[str, Any], place: str
) -> tuple[str, Call, LogExtra]:
    """One call of one function, with a digest by which it is known, and what hears what it logs."""
    log = LogExtra(len(questions))
    more = {"trainer_state": state or TrainerState(0, 0), "log_extra": log, "log_metric": log_nothing}
    given = keywords(function, questions) | {name: more[name] for name in accepted(function, more)}
    prompts = [question.shown for question in questions]
    step = None if state is None else state.global_step + 1
    source = json.dumps(described(function), sort_keys=True)
    known_by = " ".join([name_of(function), source, place, *(each.digest for each in questions)])
    digest = hashlib.sha256(known_by.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return digest, Call(function=function, keywords=given, prompts=prompts, step=step, **settings), log
