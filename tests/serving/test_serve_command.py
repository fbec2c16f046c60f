"""`alignjax serve` as a process: it says where it is, answers the `openai` package, and Ctrl-C ends it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time

import openai
import pytest

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


def test_what_is_wrong_is_said_before_weights_are_read(tmp_path, capsys, monkeypatch):
    assert main(["serve", str(tmp_path / "nowhere"), "--port", "0"]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--host", "no.such.host.invalid"]) == 2
    assert "cannot listen at no.such.host.invalid:8000" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--port", "70000"]) == 2
    assert "65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "alignjax.serving.run_server", raising=False)
    assert main(["serve", str(tmp_path)]) == 2
    assert "alignjax serve needs uvicorn: pip install 'alignjax[serve]'" in capsys.readouterr().err
