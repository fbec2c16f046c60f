"""The server on a port: our own engine client samples from it, and who hangs up leaves nothing behind."""

from __future__ import annotations

import json
import socket
import time

import jax
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError
from alignjax.sampling.engine_client import EngineError
from alignjax.serving.run_server import bound, is_loopback
from alignjax.types import Batch
from tests.support.tiny import context_of, scorer


def test_we_sample_from_our_own_server_as_from_ourselves(opened, address):
    prompt = np.array([[0, 0, 1, 70, 71], [1, 80, 81, 82, 83], [0, 0, 0, 1, 90]], np.int32)
    batch = Batch(prompt=prompt, prompt_valid=np.cumsum(prompt, 1) > 0, example_id=np.array([4, 2, 9]))
    context, stop = context_of(opened.model, policy=opened.params), (*opened.stops, 75, 88)
    named = stages.engine(url=f"{address}/v1", model="tiny", n=2, max_tokens=14, stop=stop, temperature=0.9)
    ask = named["generate"].kwargs["stage"]
    sampled = ask(context, batch, jax.random.key(0))
    again = ask(context, batch, jax.random.key(0))
    np.testing.assert_array_equal(sampled.tokens, again.tokens)  # the seeds of its requests are its own
    assert len({tuple(row) for row in sampled.tokens.reshape(6, 14)}) == 6
    ours = scorer(opened.model)(opened.params, sampled.replace(logps={}, mask=None))
    np.testing.assert_allclose(sampled.logps["engine"], ours, atol=1e-5)
    other = stages.engine(url=f"{address}/v1", model="another", n=1, max_tokens=2, stop=stop)["generate"]
    with pytest.raises(EngineError, match="there is no model 'another'; this server has 'tiny'"):
        other.kwargs["stage"](context, batch, jax.random.key(0))


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_sampled_for(opened, worker, address, stream):
    host, port = address.removeprefix("http://").split(":")
    body = {"prompt": [[1, 5]] * 40, "max_tokens": 94, "n": 8, "stop": [], "stream": stream}
    content = json.dumps(body).encode()
    with socket.create_connection((host, int(port))) as connection:
        fields = {"Host": "a", "Content-Type": "application/json", "Content-Length": len(content)}
        lines = ["POST /v1/completions HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        connection.sendall("\r\n".join(lines).encode() + content)
        (lane,) = worker.lanes.values()
        while not any(lane.at_work):
            time.sleep(0.01)
    started = time.monotonic()
    while any(lane.at_work) or lane.waiting:
        time.sleep(0.01)
        assert time.monotonic() - started < 20
    tokens = 40 * 8 * 94 / 3
    assert time.monotonic() - started < tokens * 1e-3  # far from what all of it would take


def test_ports_that_cannot_be_had_are_refused():
    with bound("127.0.0.1", 0) as first:
        assert is_loopback(first)
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use; name another"
        ):
            bound("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot listen at"):
        bound("no.such.host.invalid", 8000)
    with bound("0.0.0.0", 0) as everywhere:
        assert not is_loopback(everywhere)
