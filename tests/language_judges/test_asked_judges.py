"""Language models as judges, behind a server that answers well, badly, late or not at all."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignjax import language_judges, stages
from alignjax.asking import RewardError, check_named
from alignjax.config import ConfigError, fn
from alignjax.language_judges import Endpoint, EndpointError, endpoint as module
from alignjax.language_judges.verdicts_in_text import met, preferred, scored
from alignjax.train.run_record import config_json
from tests.language_judges.conftest import Server
from tests.support.asked import Ask, lines_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)


def part(text: str, name: str) -> str:
    return text.split(f"<{name}>\n")[1].split(f"\n</{name}>")[0]


def longer(count: int, asked: str, body: Any) -> str:
    """Prefers the longer answer, and of two as long the first."""
    verdict = "A" if len(part(asked, "answer_A")) >= len(part(asked, "answer_B")) else "B"
    return f"Well. {json.dumps({'reason': 'It is {longer}.', 'verdict': verdict})}"


PAIRS = {"prompts": ["p", "q", "p"], "completions": [("long one", "short"), ("ab", "cd"), ("a", "abc")]}
NO_PAUSE = {"concurrency": 4, "timeout": 5.0}


def logged(function: Any, **given: Any) -> tuple[list[Any], dict[str, list[Any]]]:
    columns: dict[str, list[Any]] = {}
    return function(log_extra=lambda name, values: columns.update({name: list(values)}), **given), columns


def test_a_pair_is_asked_about_in_both_orders(server: Server) -> None:
    server.handler = longer
    judge = fn(language_judges.pairwise, endpoint=Endpoint(server.url, "m", **NO_PAUSE))
    said, columns = logged(judge, **PAIRS)
    assert said == [1, 0.5, 0]
    assert columns["pairwise/disagreement"] == [0, 1, 0]
    assert columns["pairwise/prompt_tokens"] == [20] * 3
    assert columns["pairwise/completion_tokens"] == [6] * 3
    assert columns["pairwise/reason"][0] == "It is {longer}. | It is {longer}."
    assert judge.replace(swap=False)(**PAIRS) == [1, 1, 0]
    assert {body["model"] for body in server.bodies} == {"m"}
    assert {head["path"] for head in server.headers} == {"/v1/chat/completions"}
    assert not any("Authorization" in head for head in server.headers)


def test_questions_go_out_together_and_the_same_one_once(server: Server) -> None:
    def slow(count: int, asked: str, body: Any) -> str:
        time.sleep(0.1)
        return longer(count, asked, body)

    server.handler = slow
    judge = fn(language_judges.pairwise, endpoint=Endpoint(server.url, "m", **NO_PAUSE))
    said, columns = logged(judge, prompts=["p"] * 6, completions=[*PAIRS["completions"], *PAIRS["completions"]])
    assert said == [1, 0.5, 0] * 2
    assert len(server.bodies) == 6
    assert server.busiest == 4
    assert columns["pairwise/prompt_tokens"] == [20, 20, 20, 0, 0, 0]


def test_answers_are_cached_by_content(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.handler = longer
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    there = Endpoint(server.url, "m", "JUDGE_KEY", cache=str(tmp_path / "judged"), **NO_PAUSE)
    judge = fn(language_judges.pairwise, endpoint=there)
    assert judge(**PAIRS) == [1, 0.5, 0]
    assert {head["Authorization"] for head in server.headers} == {"Bearer sk-very-secret"}
    asked = len(server.bodies)
    said, columns = logged(judge, **PAIRS)
    assert said == [1, 0.5, 0]
    assert len(server.bodies) == asked == 6
    assert columns["pairwise/prompt_tokens"] == [0] * 3
    warmer = Endpoint(server.url, "m", "JUDGE_KEY", temperature=0.5, cache=there.cache)
    others = (Endpoint(server.url, "n", "JUDGE_KEY", cache=there.cache), warmer)
    for other in others:
        judge.replace(endpoint=other)(**PAIRS)
    assert len(server.bodies) == 18
    files = list((tmp_path / "judged").iterdir())
    assert len(files) == 18
    assert not any("secret" in file.read_text() for file in files)
    assert "secret" not in json.dumps(config_json(fn(stages.text_judge, function=judge)))
    for file in files:
        file.write_text('{"answer": 3}')
    with pytest.raises(Exception, match=r"\.json.*it holds no answer.*the question is asked again"):
        judge(**PAIRS)


BAD = [
    (429, "later", {"Retry-After": "0"}),
    (500, "oh", {}),
    (200, "{", {}),
    (200, "[]", {}),
    (200, '{"choices": [{"message": {"content": 3}}]}', {}),
]


@pytest.mark.parametrize("bad", BAD)
def test_what_another_attempt_may_mend_is_asked_again(server: Server, bad: Any) -> None:
    server.handler = lambda count, asked, body: bad if count < 2 else longer(count, asked, body)
    judge = fn(language_judges.pairwise, endpoint=Endpoint(server.url, "m", retries=2, **NO_PAUSE))
    assert judge(**PAIRS) == [1, 0.5, 0]
    assert len(server.bodies) == 18
    server.handler = lambda count, asked, body: bad
    with pytest.raises(EndpointError, match=rf"{server.url}: .*in 3 attempts"):
        judge(**PAIRS)


def test_what_no_attempt_mends_ends_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    server.handler = lambda count, asked, body: (401, "no such key: sk-very-secret", {})
    judge = fn(language_judges.pairwise, endpoint=Endpoint(server.url, "m", "JUDGE_KEY", concurrency=1))
    with pytest.raises(EndpointError, match=r"HTTP 401: no such key: \*\*\*$"):
        judge(**PAIRS)
    assert len(server.bodies) == 1


def test_a_server_that_hangs_and_one_that_is_not_there(server: Server) -> None:
    def hangs(count: int, asked: str, body: Any) -> str:
        time.sleep(0.3 if count == 0 else 0)
        return longer(count, asked, body)

    server.handler = hangs
    judge = fn(language_judges.pairwise, endpoint=Endpoint(server.url, "m", timeout=0.1, retries=3))
    assert judge(**PAIRS) == [1, 0.5, 0]
    nobody = Endpoint("http://127.0.0.1:9/v1", "m", retries=1)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9/v1: .*in 2 attempts"):
        judge.replace(endpoint=nobody)(**PAIRS)


def test_a_model_is_told_once_that_its_answer_cannot_be_read(server: Server) -> None:
    def mumbles(count: int, asked: str, body: Any) -> str:
        first = next(message["content"] for message in body["messages"] if message["role"] == "user")
        if part(first, "request") == "q":
            return "Hard to say."
        return longer(count, first, body) if len(body["messages"]) > 2 else "I like A {verdict}."

    server.handler = mumbles
    judge = fn(language_judges.pairwise, endpoint=Endpoint(server.url, "m", **NO_PAUSE))
    said, columns = logged(judge, **PAIRS)
    assert said == [1, None, 0]
    assert columns["pairwise/disagreement"] == [0, None, 0]
    assert columns["pairwise/prompt_tokens"] == [40] * 3
    assert len(server.bodies) == 12
    roles = [message["role"] for message in server.bodies[-1]["messages"]]
    assert roles in (["system", "user"], ["system", "user", "assistant", "user"])
    assert judge.replace(endpoint=Endpoint(server.url, "m", corrections=0))(**PAIRS) == [None] * 3


CRITERIA = (("It is polite.", 2.0), ("It is short.", 1.0), ("It lies.", -1.5))


def by_words(count: int, asked: str, body: Any) -> str:
    """Finds a criterion met if the answer has its last word."""
    answer = part(asked, "answer")
    lines = [line.rstrip(".").split()[-1] for line in part(asked, "criteria").splitlines()]
    return "```json\n" + json.dumps({"criteria": [{"reason": "so", "met": word in answer} for word in lines]}) + "\n```"


def test_a_rubric_weighs_what_is_met(server: Server) -> None:
    server.handler = by_words
    judge = fn(language_judges.rubric, endpoint=Endpoint(server.url, "m"), criteria=CRITERIA)
    said = ["polite short", "polite", "lies", "polite short lies"]
    marks, columns = logged(judge, prompts=["p"] * 4, completions=said)
    assert marks == pytest.approx([1, 2 / 3, -0.5, 0.5])
    assert columns["rubric/completion_tokens"] == [3] * 4
    rows = [[{"criterion": "It is kind.", "weight": 3}], None, [{"criterion": "It ends."}], []]
    more = judge.replace(column="of")(prompts=["p"] * 4, completions=["kind", "polite", "short ends", "lies"], of=rows)
    assert more == pytest.approx([0.5, 2 / 3, 0.5, -0.5])
    only = fn(language_judges.rubric, endpoint=Endpoint(server.url, "m"), column="of")
    assert only(prompts=["p"] * 4, completions=["kind"] * 4, of=rows) == [1, None, 0, None]
    with pytest.raises(ValueError, match="the criterion 'kind'"):
        only(prompts=["p"], completions=["kind"], of=[["kind"]])


def test_a_score_is_read_in_either_form(server: Server) -> None:
    def marks(count: int, asked: str, body: Any) -> str:
        number = len(part(asked, "answer"))
        assert ("<reference_answer>\nyes" in asked) == (number > 1)
        return (
            f"Feedback: 2 faults. [RESULT] {number}" if number % 2 else json.dumps({"feedback": "f", "score": number})
        )

    server.handler = marks
    judge = fn(language_judges.pointwise, endpoint=Endpoint(server.url, "m", corrections=0), reference="right")
    said = {"prompts": ["p"] * 4, "completions": ["x", "xx", "xxx", "xxxxxx"], "right": [None, "yes", "yes", "yes"]}
    scores, columns = logged(judge, **said)
    assert scores == [1, 2, 3, None]
    assert columns["pointwise/reason"][1] == "f"


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ('{"verdict": "A"}', 1), ('{"verdict": "tie"} ', 0.5), ('first {"verdict": "A"}, no: {"verdict": " b"}', 0),
        ("so [[B]]", 0), ("[[A]] ... [[C]]", 0.5), ('{"a": {"verdict": "B"}}', 0), ('{"verdict": "A"', None),
        ('{"verdict": 1}', None), ("A", None), ("", None), ("{" * 5000, None),
        ('{"reason": "a } in {", "verdict": "A"}', 1),
    ],
)  # fmt: skip
def test_verdicts_are_read_wherever_they_stand(text: str, preference: float | None) -> None:
    assert preferred(text) == preference


def test_scores_and_shares_that_cannot_be() -> None:
    assert scored('{"score": "4"}', 1, 5) == 4
    for text in ('{"score": 6}', '{"score": true}', '{"score": NaN}', "[RESULT] 0", "4", '{"score": "x"}'):
        assert scored(text, 1, 5) is None
    assert met('{"criteria": [{"met": "yes"}, {"met": 0.5}, false]}', 3) == [1, 0.5, 0]
    for criteria in ("[true]", "[true, 2]", "[true, null]", "{}", "[true, true"):
        text = f'{{"criteria": {criteria}}}'
        assert met(text, 2) is None


def test_an_endpoint_that_cannot_be_asked_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    good = Endpoint("http://127.0.0.1:9/v1", "m")
    for function, words in (
        (fn(language_judges.pairwise, endpoint=Endpoint("127.0.0.1", "m")), "must begin with http"),
        (
            fn(language_judges.pairwise, endpoint=Endpoint(good.url, "m", "JUDGE_KEY")),
            "no environment variable 'JUDGE_KEY'",
        ),
        (fn(language_judges.pairwise, endpoint="gpt"), "write endpoint=language_judges.Endpoint"),
        (fn(language_judges.rubric, endpoint=good), "needs criteria="),
        (fn(language_judges.rubric, endpoint=good, criteria=("polite",)), r"a criterion is \(text, weight\)"),
        (fn(language_judges.rubric, endpoint=good, criteria=(("lies", -1.0),)), "no criterion has a weight above 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_named(function, "here")
    with pytest.raises(ConfigError, match=r"Endpoint\.concurrency is 0"):
        Endpoint(good.url, "m", concurrency=0)


def test_judged_in_a_run_and_replayed(server: Server, ask: Ask, tmp_path: Path) -> None:
    """What a failing server had answered for other prompts before is not asked again."""

    def half(count: int, asked: str, body: Any) -> Any:
        if part(asked, "request") == "say it":
            return longer(count, asked, body)
        time.sleep(0.5)
        return 500, "down", {}

    server.handler = half
    judge = fn(language_judges.pairwise, endpoint=Endpoint(server.url, "m", retries=0))
    asked = fn(stages.text_judge, function=judge, prompts_per_call=1, retries=0, concurrency=3)
    with pytest.raises(RewardError, match=r"pairwise .*HTTP 500: down"):
        ask(asked, folder=tmp_path)
    before = sum(part(body["messages"][-1]["content"], "request") == "say it" for body in server.bodies)
    server.handler = longer
    answer = ask(asked, folder=tmp_path)
    np.testing.assert_array_equal(answer[:, 0], [1, 1, 0])
    assert sum(part(body["messages"][-1]["content"], "request") == "say it" for body in server.bodies) == before == 2
    (file,) = tmp_path.iterdir()
    assert lines_of(file)[0]["extra"]["pairwise/disagreement"] == 0
    count = len(server.bodies)
    np.testing.assert_array_equal(ask(asked, folder=tmp_path), answer)
    assert len(server.bodies) == count
