"""`alignjax serve` as a process: it says where it is, answers the `openai` package, and Ctrl-C ends it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file
from starlette.testclient import TestClient

from alignjax.cli import main
from alignjax.cli.open_model import open_model
from tests.test_open_model import folder_of


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_folder_is_served_until_a_signal_also_in_the_middle_of_answers(tmp_path, number):
    folder = folder_of(tmp_path / "chatty")
    words = [sys.executable, "-m", "alignjax.cli", "serve", str(folder), "--port", "0", "--slots", "2"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        said = [process.stderr.readline() for _ in range(2)]
        assert "LlamaForCausalLM" in said[0]
        assert "There is no authentication: whoever is on this machine can ask" in said[1]
        assert "64 tokens" in said[1]
        client = openai.OpenAI(base_url=re.search(r"http://127\.0\.0\.1:\d+/v1", said[1])[0], api_key="none")
        talk = [{"role": "user", "content": "Why?"}]
        ask = {"model": "chatty", "messages": talk, "max_tokens": 5, "seed": 1}
        whole = client.chat.completions.create(**ask, extra_body={"return_token_ids": True})
        assert whole.usage.prompt_tokens == len(open_model(str(folder)).prompt_ids([talk])[0])
        assert 1 <= len(whole.choices[0].token_ids) <= 5
        stream = client.chat.completions.create(**ask, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content
        asking = {
            "model": "chatty",
            "prompt": [[3, 4]] * 60,
            "n": 10,
            "max_tokens": 60,
            "extra_body": {"stop_token_ids": []},
        }
        ends = []

        def ask_long(**more):
            try:
                ends.append(
                    list(client.completions.create(**asking, **more)) if more else client.completions.create(**asking)
                )
            except openai.APIError as error:
                ends.append(error)

        client = client.with_options(max_retries=0)
        long = client.completions.create(**asking, stream=True)
        next(iter(long))
        threads = [threading.Thread(target=ask_long, kwargs=more) for more in ({}, {"stream": True})]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == "stopped\n"
        for thread in threads:
            thread.join(timeout=30)
        assert len(ends) == 2
        assert all(isinstance(end, openai.APIError) for end in ends), ends


@pytest.mark.slow
def test_a_behavior_is_served(tmp_path, monkeypatch):
    """At lambda 0 it is the reference, whatever WHERE is; of a model with itself, the model; between, another one."""
    one, other, answers = folder_of(tmp_path / "one"), folder_of(tmp_path / "other"), []
    weights = load_file(other / "model.safetensors")
    save_file({name: -2 * value for name, value in weights.items()}, other / "model.safetensors")
    asked = {"model": "m", "prompt": "Why?", "max_tokens": 8, "seed": 1, "logprobs": 1}

    def ask(app, listening):
        answers.append(TestClient(app).post("/v1/completions", json=asked).json()["choices"][0]["logprobs"])

    monkeypatch.setattr("alignjax.serving.run_server.serve_until_interrupted", ask)
    dera = ["--behaviour", "dera", "--reference", str(other), "--lambda"]
    for where, more in ((one, []), (other, []), (one, [*dera, "0"]), (other, [*dera, "1.5"]), (one, [*dera, "0.5"])):
        assert main(["serve", str(where), "--port", "0", "--name", "m", *more]) == 0
    found = [np.array(answer["token_logprobs"]) for answer in answers]
    assert answers[0]["tokens"] != answers[1]["tokens"]
    for same in (2, 3):
        assert answers[same]["tokens"] == answers[1]["tokens"]
        np.testing.assert_allclose(found[same], found[1], atol=1e-5)
    assert not any(answers[4]["tokens"] == answer["tokens"] for answer in answers[:2])


def test_what_is_wrong_is_said_before_weights_are_read(tmp_path, capsys, monkeypatch):
    assert main(["serve", str(tmp_path / "nowhere"), "--port", "0"]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--host", "no.such.host.invalid"]) == 2
    assert "cannot listen at no.such.host.invalid:8000" in capsys.readouterr().err
    for more, message in (
        (["--behavior", "dera", "--lambda", "1.5"], "--behavior dera needs --references WHERE"),
        (["--behaviour", "dear"], "there is no behavior 'dear'. Did you mean 'dera'?"),
        (["--behavior", "contrastive", "--amateur", "no-system"], "a request to a server has one prompt"),
        (["--slot", "2"], "there is no flag --slot. Did you mean 'slots'?"),
    ):
        assert main(["serve", str(tmp_path), *more]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["serve", str(tmp_path), "--port", "70000"]) == 2
    assert "65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "alignjax.serving.run_server", raising=False)
    assert main(["serve", str(tmp_path)]) == 2
    assert "alignjax serve needs uvicorn: pip install 'alignjax[serve]'" in capsys.readouterr().err
