"""An engine behind HTTP, played by a thread: what it is asked, what becomes of its answers, and of what goes wrong."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alignjax import roles, stages
from alignjax.config import ConfigError, fn
from alignjax.sampling import engine_client
from alignjax.train.state import create_state
from alignjax.train.step import abstract_experience, make_experience
from alignjax.types import Algorithm, Batch, Role
from alignjax.workspace import Workspace
from tests.support.tiny import as_jax, model, ragged, scorer

NETWORK = model(layers=1)
PROMPTS = Batch(**{name: getattr(as_jax(ragged(seed=2)), name) for name in ("prompt", "prompt_valid", "example_id")})
STOP = (2, 5)
Handler = Callable[[int, dict[str, Any]], Any]


def completion(seed: int, number: int, length: int) -> dict[str, Any]:
    """A completion that stops early, or at its length, drawn from the seed."""
    draw = np.random.default_rng((seed, number))
    size = int(draw.integers(1, length + 1))
    tokens = [*draw.integers(6, 23, size - 1).tolist(), 5 if size < length else 7]
    why = "stop" if size < length else "length"
    logps = {"token_logprobs": (-draw.random(size)).tolist()}
    return {"index": number, "text": "", "token_ids": tokens, "finish_reason": why, "logprobs": logps}


def honest(count: int, body: dict[str, Any]) -> Any:
    choices = [completion(body["seed"], number, body["max_tokens"]) for number in range(body["n"])]
    return 200, json.dumps({"choices": choices[::-1]})  # in any order


class Engine:
    """A server that answers with `handler(how often this prompt was asked before, body)`: (status, text)."""

    def __init__(self) -> None:
        self.handler: Handler = honest
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy, self.busiest, self.lock = 0, 0, threading.Lock()
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    count = sum(other["prompt"] == body["prompt"] for other in outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append({**dict(self.headers), "path": self.path})
                    outer.busy += 1
                    outer.busiest = max(outer.busiest, outer.busy)
                status, text = outer.handler(count, body)
                with outer.lock:
                    outer.busy -= 1
                self.send_response(status)
                self.send_header("Content-Length", str(len(text) + (50 if status == 206 else 0)))  # 206: cut off
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who was interrupted has hung up
                    self.wfile.write(text.encode())
                self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(engine_client, "LONGEST_PAUSE", 0.01)
    made = Engine()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def ask(engine: Engine, batch: Batch = PROMPTS, *, seed: int = 0, **changes: Any) -> Batch:
    given = {"url": engine.url, "model": "policy", "n": 2, "max_tokens": 6, "stop": STOP, "retries": 2, **changes}
    context: Any = None
    return engine_client.ask_engine(context, batch, jax.random.key(seed), **given)


def test_ids_go_in_and_ids_come_out(engine: Engine) -> None:
    answered = ask(engine, temperature=0.7, top_p=0.9)
    asked = {tuple(body["prompt"]): body for body in engine.bodies}
    assert len(asked) == len(engine.bodies) == 4
    assert {headers["path"] for headers in engine.headers} == {"/v1/completions"}
    for row in range(4):
        there = np.asarray(PROMPTS.prompt_valid[row])
        body = asked[tuple(np.asarray(PROMPTS.prompt[row])[there].tolist())]
        fields = ("model", "n", "max_tokens", "temperature", "top_p", "stop_token_ids", "return_token_ids", "logprobs")
        assert [body[name] for name in fields] == ["policy", 2, 6, 0.7, 0.9, [2, 5], True, 1]
        for number in range(2):
            sent = completion(body["seed"], number, 6)
            valid = np.asarray(answered.valid[row, number])
            assert np.asarray(answered.tokens[row, number])[valid].tolist() == sent["token_ids"]
            logps = np.asarray(answered.logps["engine"][row, number])
            np.testing.assert_allclose(logps[valid], sent["logprobs"]["token_logprobs"], rtol=1e-6)
            assert not np.any(logps[~valid])
    np.testing.assert_array_equal(answered.mask, answered.valid)


def test_seeds_are_of_the_example_and_the_step(engine: Engine) -> None:
    one = ask(engine)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(ask(engine, PROMPTS.take(order)).tokens, np.asarray(one.tokens)[order])
    assert np.any(ask(engine, seed=1).tokens != one.tokens)
    assert len({body["seed"] for body in engine.bodies}) == 8


def test_stages_score_what_came_back_and_ask_once_only(engine: Engine, tmp_path: Path) -> None:
    """The two stages in an experience: log-probs by our scorer at temperature 1 and at the engine's, the gap to what
    the engine said; the second time the answers are replayed, and the weights not sent."""
    sent: list[int] = []

    def send(context: Any, *, role: str = "policy") -> None:
        sent.append(int(context.step))
        assert context.params(role)["embed"].shape == (23, 16)

    made = stages.engine(url=engine.url, model="policy", n=2, max_tokens=6, stop=STOP, temperature=0.5, sync=fn(send))
    algorithm = Algorithm(made, roles={"policy": Role(NETWORK, roles.fresh())})
    state = create_state(algorithm, 0, Workspace(tmp_path))
    shapes, _ = abstract_experience(algorithm, state, PROMPTS)
    batch, metrics = make_experience(algorithm, tmp_path / "answers")(state, PROMPTS)
    form = lambda leaf: (leaf.shape, str(leaf.dtype))  # noqa: E731
    assert jax.tree.map(form, shapes) == jax.tree.map(form, batch)
    scores = scorer(NETWORK)(state.roles["policy"], batch)
    np.testing.assert_allclose(batch.logps["policy"], scores, atol=1e-5)
    # p^(1/t) / sum p^(1/t): two tokens' odds at temperature 1/2 are the square of their odds, and some other token is
    # always possible.
    assert float(np.asarray(batch.logps["sampler"] - 2 * scores)[np.asarray(batch.valid)].min()) > 0
    gap = np.abs(batch.logps["engine"] - scores)[np.asarray(batch.valid)].mean()
    np.testing.assert_allclose(metrics["engine_logps/sampler_gap/engine"], gap, rtol=1e-5)
    again, _ = make_experience(algorithm, tmp_path / "answers")(state, PROMPTS)
    np.testing.assert_array_equal(again.tokens, batch.tokens)
    assert len(engine.bodies) == 4
    assert sent == [0]


def fails_first(times: int, answer: Callable[[], Any]) -> Handler:
    return lambda count, body: answer() if count < times else honest(count, body)


def slow() -> Any:
    time.sleep(0.6)
    return 200, "{}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: (503, "warming up"), "HTTP 503: warming up"),
        (lambda: (429, "later"), "HTTP 429: later"),
        (lambda: (200, '{"choices": [{"token_'), "the answer is not JSON"),
        (lambda: (206, "{}"), "IncompleteRead"),
        (slow, "no answer for 0.2 s"),
    ],
    ids=["down", "busy", "half", "cut", "slow"],
)
def test_what_another_attempt_may_mend_is_tried_again(engine: Engine, answer: Any, reason: str) -> None:
    plain = ask(engine)
    engine.bodies.clear()
    engine.handler = fails_first(2, answer)
    np.testing.assert_array_equal(ask(engine, timeout=0.2).tokens, plain.tokens)
    assert len(engine.bodies) == 12
    engine.handler = fails_first(100, answer)
    with pytest.raises(engine_client.EngineError, match=rf"prompts failed.*example \d+: {reason}.*in 1 attempts"):
        ask(engine, timeout=0.2, retries=0)


def changed(**fields: Any) -> Handler:
    def handler(count: int, body: dict[str, Any]) -> Any:
        choices = [completion(body["seed"], number, body["max_tokens"]) | fields for number in range(body["n"])]
        return 200, json.dumps({"choices": choices})

    return handler


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (lambda count, body: (400, '{"error": "unknown model"}'), "HTTP 400: .*unknown model"),
        (lambda count, body: (200, '{"choices": []}'), "0 choices where n=2"),
        (lambda count, body: (200, "[]"), "no list of choices"),
        (changed(token_ids=None), "the engine must know return_token_ids"),
        (changed(token_ids=[7] * 9, finish_reason="length"), "9 tokens where 1 to max_tokens=6"),
        (changed(token_ids=[7, 7], finish_reason="length"), "2 tokens, cut short of max_tokens=6"),
        (changed(token_ids=[7, 8], finish_reason="stop"), r"stopped at token 8, which is not in stop=\[2, 5\]"),
        (changed(token_ids=[7, 5, 8, 2], finish_reason="stop"), r"went on after token 5, which is in stop=\[2, 5\]"),
        (changed(finish_reason="abort"), "finish_reason is 'abort'"),
        (changed(logprobs=None), "set logprobs=False"),
    ],
)
def test_what_no_attempt_would_mend_is_said_at_once(engine: Engine, handler: Handler, reason: str) -> None:
    engine.handler = handler
    with pytest.raises(engine_client.EngineError, match=rf"of 4 prompts failed.*{reason}.*--resume"):
        ask(engine, concurrency=1)
    assert len(engine.bodies) < 4  # the others were not asked any more, nor was anybody twice


def test_one_prompt_that_fails_is_named(engine: Engine) -> None:
    last = np.asarray(PROMPTS.prompt[3])[np.asarray(PROMPTS.prompt_valid[3])].tolist()
    engine.handler = lambda count, body: (404, "gone") if body["prompt"] == last else honest(count, body)
    example = int(PROMPTS.example_id[3])
    with pytest.raises(
        engine_client.EngineError, match=f"1 of 4 prompts failed; the first, example {example}: HTTP 404"
    ):
        ask(engine)


def test_a_failure_stops_the_others_attempts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three are told to wait, and would for minutes; then the fourth fails."""
    monkeypatch.setattr(engine_client, "LONGEST_PAUSE", 100.0)
    last = np.asarray(PROMPTS.prompt[3])[np.asarray(PROMPTS.prompt_valid[3])].tolist()

    def handler(count: int, body: dict[str, Any]) -> Any:
        if body["prompt"] != last:
            return 503, "warming up"
        while len(engine.bodies) < 4:
            time.sleep(0.01)
        return 404, "gone"

    engine.handler = handler
    begun = time.monotonic()
    with pytest.raises(
        engine_client.EngineError, match=r"1 of 4 prompts failed, 3 were not asked any more.*HTTP 404: gone"
    ):
        ask(engine, retries=20)
    assert time.monotonic() - begun < 20


def test_requests_run_side_by_side_up_to_the_limit(engine: Engine) -> None:
    def waits(count: int, body: dict[str, Any]) -> Any:
        time.sleep(0.05)
        return honest(count, body)

    engine.handler = waits
    ask(engine, concurrency=2)
    assert engine.busiest == 2


def test_no_engine_and_no_token_are_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(engine_client.EngineError, match=r"refused.*in 2 attempts"):
        ask(engine, url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(ConfigError, match="no such variable"):
        ask(engine, api_key_variable="NOT_THERE")
    monkeypatch.setenv("A_TOKEN", "xyz")
    ask(engine, api_key_variable="A_TOKEN")
    assert engine.headers[-1]["Authorization"] == "Bearer xyz"
    with pytest.raises(ConfigError, match="this one has some"):
        ask(engine, PROMPTS.replace(tokens=PROMPTS.prompt[:, None]))
