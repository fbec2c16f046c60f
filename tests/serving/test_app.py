"""The application as its clients see it: the `openai` package, plain HTTP, and our own engine client."""

from __future__ import annotations

import asyncio
import json
import threading

import openai
import pytest
from starlette.testclient import TestClient

from alignjax.config import ConfigError
from alignjax.serving import app as module
from alignjax.serving.app import make_app
from alignjax.serving.jobs import Wanted
from tests.serving.conftest import LENGTH, Asked


@pytest.fixture(scope="module")
def http(opened, worker):
    with TestClient(make_app(opened, worker), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(http):
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=http, max_retries=0)


def post(http, path, **body):
    return http.post(path, json=body)


def test_prompts_of_all_four_forms_give_the_same(client, opened, worker):
    ids = opened.text_ids("To be")
    assert ids[0] == opened.tokenizer.bos
    ask = {"model": "tiny", "max_tokens": 9, "seed": 3, "extra_body": {"return_token_ids": True}}
    wanted = Wanted(9, seed=3, stop_ids=frozenset(opened.stops), continues=True)
    asked = Asked(worker, (ids, wanted))
    for prompt in ("To be", ["To be"], ids, [ids]):
        answer = client.completions.create(prompt=prompt, **ask)
        assert answer.object == "text_completion"
        (choice,) = answer.choices
        assert choice.token_ids == asked.ids()
        assert choice.text == asked.text()
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, len(asked.ids()))
    both = client.completions.create(prompt=["To be", "Or not"], n=2, **ask).choices
    assert [choice.index for choice in both] == [0, 1, 2, 3]
    assert both[0].token_ids == asked.ids()
    assert both[3].token_ids == Asked(worker, (opened.text_ids("Or not"), Wanted(9, 2, seed=3, example=1))).ids(0, 1)


def test_log_probs_of_prompt_and_completion(client, opened, worker):
    text = "Café ☃"  # of two and three bytes a character
    ids = opened.text_ids(text)
    ask = {"model": "tiny", "prompt": text, "seed": 3, "logprobs": 2, "echo": True}
    (scored,) = client.completions.create(max_tokens=0, **ask).choices
    scores = Asked(worker, (ids, Wanted(0, top=2, echo=True))).scores()
    assert scored.text == text
    assert scored.finish_reason == "length"
    told = scored.logprobs
    assert told.token_logprobs == [each.logp for each in scores]
    assert told.token_logprobs[0] is told.top_logprobs[0] is None
    assert told.tokens[:5] == ["<bos>", "C", "a", "f", "bytes:\\xc3"]
    assert told.text_offset == [0, 0, 1, 2, 3, 3, 4, 5, 5, 5]  # of each byte of a character, where the character is
    for each, tops in zip(scores[1:], told.top_logprobs[1:], strict=True):
        assert max(tops.values()) == each.top[0][1]
        assert len(tops) == 2 + (each.token not in dict(each.top))
    (more,) = client.completions.create(max_tokens=4, **ask).choices
    assert more.logprobs.token_logprobs[:-4] == told.token_logprobs
    assert more.text.startswith(text)
    assert len(more.logprobs.tokens) == len(ids) + 4
    plain = client.completions.create(**{**ask, "logprobs": None}, max_tokens=4).choices[0]
    assert plain.text == more.text
    assert plain.logprobs is None


def test_a_stream_says_what_the_whole_answer_says(client):
    ask = {"model": "tiny", "prompt": ["ab", "cd"], "n": 2, "max_tokens": 12, "seed": 1, "logprobs": 1}
    for more in ({}, {"echo": True}, {"stop": ["q", "e"]}):
        whole = client.completions.create(**ask, **more)
        usage, parts = None, {index: [] for index in range(4)}
        for chunk in client.completions.create(**ask, **more, stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                parts[choice.index].append(choice)
        assert usage == whole.usage
        for choice in whole.choices:
            told = parts[choice.index]
            assert "".join(part.text for part in told) == choice.text
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                said = [one for part in told for one in getattr(part.logprobs, name)]
                assert said == getattr(choice.logprobs, name)
            assert [part.finish_reason for part in told] == [None] * (len(told) - 1) + [choice.finish_reason]
        assert all(len(told) > 3 for told in parts.values()) or more


def test_a_chat_is_written_by_the_template(client, opened, worker):
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    ids = opened.tokenizer.encode("System: Be brief.\nUser: Hi\nAssistant:")
    asked = Asked(worker, ([opened.tokenizer.bos, *ids], Wanted(8, 2, 0.9, seed=5, top=1)))
    ask = {"model": "tiny", "messages": talk, "n": 2, "temperature": 0.9, "seed": 5, "max_completion_tokens": 8}
    answer = client.chat.completions.create(**ask, logprobs=True, top_logprobs=1)
    for number, choice in enumerate(answer.choices):
        assert choice.message.role == "assistant"
        assert choice.message.content == asked.text(0, number)
        for told, piece in zip(choice.logprobs.content, asked.pieces(0, number), strict=True):
            assert told.logprob == piece.scored.logp
            assert told.top_logprobs[0].logprob == piece.scored.top[0][1]
        raw = b"".join(
            bytes(told.bytes)
            for told in choice.logprobs.content
            if told.token not in ("<pad>", "<bos>", "<eos>", "<sep>")
        )
        assert raw.decode(errors="replace") == choice.message.content
    said = {0: "", 1: ""}
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert [said[number] for number in (0, 1)] == [choice.message.content for choice in answer.choices]
    rest = client.chat.completions.create(model="tiny", messages=talk, temperature=0)
    assert rest.usage.total_tokens == LENGTH or rest.choices[0].finish_reason == "stop"


def test_requests_at_once_are_answered_as_alone(client):
    ask = {"model": "tiny", "max_tokens": 16, "temperature": 0.9}
    prompts = [("one", 1), ("two and three", 2), ("", 3), ("four", 3), ("five five five five", 0)]
    alone = [client.completions.create(prompt=prompt, seed=seed, **ask).choices[0].text for prompt, seed in prompts]
    together = [None] * len(prompts)

    def fetch(number):
        prompt, seed = prompts[number]
        together[number] = client.completions.create(prompt=prompt, seed=seed, **ask).choices[0].text

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


MESSAGES = [{"role": "user", "content": "Hi"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        (COMPLETIONS, {}, "'prompt' is missing", "prompt"),
        (COMPLETIONS, {"prompt": "a", "temprature": 1}, "Did you mean 'temperature'?", "temprature"),
        (COMPLETIONS, {"prompt": "a", "temperature": "hot"}, 'temperature is "hot"; it must be', "temperature"),
        (COMPLETIONS, {"prompt": "a", "temperature": -1}, "at least 0", "temperature"),
        (COMPLETIONS, {"prompt": "a", "n": 0}, "a whole number from 1", "n"),
        (COMPLETIONS, {"prompt": "a", "n": 2000}, "more than 1024 completions", "n"),
        (COMPLETIONS, {"prompt": "a", "logprobs": 21}, "from 0 to 20", "logprobs"),
        (COMPLETIONS, {"prompt": "a", "stop": ["x", ""]}, "an empty text", "stop"),
        (COMPLETIONS, {"prompt": "a", "stop": [1]}, "must be text", "stop"),
        (COMPLETIONS, {"prompt": "a", "presence_penalty": 0.5}, "not built here", "presence_penalty"),
        (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "not built here", "suffix"),
        (COMPLETIONS, {"prompt": []}, "empty list", "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, "the prompt is empty", "prompt"),
        (COMPLETIONS, {"prompt": [1, 260]}, "a token 260", "prompt"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "must be", "prompt"),
        (COMPLETIONS, {"prompt": "a" * 90}, "together they may have 96", "prompt"),
        (COMPLETIONS, {"prompt": "a", "stream_options": {}, "stream": None, "max_tokens": -1}, "from 0", "max_tokens"),
        (CHAT, {"messages": []}, "messages is an empty list; give a message at least", "messages"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt[0] is -1; it must be text or a whole number from 0", "prompt"),
        (COMPLETIONS, {"prompt": [[1], [2, -1]]}, "prompt[1][1] is -1; it must be a whole number from 0", "prompt"),
        (COMPLETIONS, {"prompt": ["a", 1]}, "prompt[1] is 1; it must be text", "prompt"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 95}, "together they may have 96", "max_tokens"),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 95}, "together they ma", "max_completion_tokens"),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 99}], "max_tokens": 1}, "together they", "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, "without a role and a content", "messages"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "other parts", "messages"),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 1}, "logprobs=true", "top_logprobs"),
        (CHAT, {"messages": MESSAGES, "tools": [{"type": "function"}]}, "not built here", "tools"),
        (CHAT, {"messages": MESSAGES, "prompt": "a"}, "no field 'prompt'", "prompt"),
        (CHAT, {"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, "names messages", "messages"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_field(http, path, body, message, param):
    answer = post(http, path, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


TEXT, YES = ("a",), (True, False)
# Values that each parameter has, of which everything else is another kind: the table of docs/serving.md.
WHOLE, NUMBERS, LISTS, OBJECTS = (1, 2), (0.5, 1), ([],), ({},)
PARAMETERS = {
    "model": (*TEXT,), "n": WHOLE, "temperature": NUMBERS, "top_p": NUMBERS, "top_k": (-1, *WHOLE), "min_p": NUMBERS,
    "seed": (-1, *WHOLE), "stop": (*TEXT, *LISTS), "stop_token_ids": LISTS, "stream": YES, "stream_options": OBJECTS,
    "return_token_ids": YES, "user": TEXT, "max_tokens": WHOLE,
}  # fmt: skip
OF_COMPLETIONS = {"prompt": (*TEXT, *LISTS), "logprobs": WHOLE, "echo": YES}
OF_CHATS = {
    "messages": LISTS, "max_completion_tokens": WHOLE, "logprobs": YES, "top_logprobs": WHOLE,
    "chat_template_kwargs": OBJECTS,
}  # fmt: skip
OTHERS = [True, "a", [], {}, 1.5, -1, -0.5, 1e30, [None], [{}], [-1], [1.5], [[{}]], {"a": 1}]
RAW = ["NaN", "-Infinity", "Infinity", "1e999", "-1e999", "1" + "0" * 400, str(2**64), "[1" + "0" * 30 + "]", "[NaN]"]
TAKEN = {  # values that are of the kind of a parameter after all
    "stop_token_ids": ([],), "seed": (-1,), "top_k": (-1,), "temperature": (1.5, 1e30),
    "stream_options": ({}, {"a": 1}), "chat_template_kwargs": ({"a": 1},),
}  # fmt: skip


def is_of(name, value, taken):
    """Whether a value is one that the parameter has: of the same JSON type as one of these, and no refused one."""
    if isinstance(value, (list, dict)) and value:
        return value in TAKEN.get(name, ())
    if isinstance(value, float) or (isinstance(value, int) and value < 0):
        return value in TAKEN.get(name, ())
    return type(value) in {type(each) for each in taken}


@pytest.mark.parametrize(
    ("path", "name", "taken"),
    [
        (path, name, taken)
        for path, own in ((COMPLETIONS, OF_COMPLETIONS), (CHAT, OF_CHATS))
        for name, taken in (PARAMETERS | own).items()
    ],
)
def test_every_parameter_of_another_kind_is_refused_by_its_name(http, path, name, taken):
    """Other types, numbers that are negative, no numbers, or too large: each with status 400 and the parameter."""
    content = {"prompt": "a"} if path == COMPLETIONS else {"messages": MESSAGES}
    content |= {"stream": True} if name == "stream_options" else {}
    wrong = [json.dumps(value) for value in OTHERS if not is_of(name, value, taken)]
    raw = RAW if name != "temperature" else [value for value in RAW if value != str(2**64)]
    for value in (*wrong, *raw):
        body = json.dumps(content | {name: "@"}).replace('"@"', value)
        answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (value, answer.text)
        error = answer.json()["error"]
        assert error["param"] == name, (value, error)
        assert error["type"] == "invalid_request_error"
        assert name in error["message"]


def test_parameters_of_the_tokenizers_routes_are_refused_by_name(http):
    for path, body, param in (
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": 3}, "messages"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "no"}, "add_special_tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [260]}, "tokens"),
        ("/detokenize", {"tokens": [10**30]}, "tokens"),
        ("/detokenize", {"tokens": [1], "text": "a"}, "text"),
    ):
        answer = post(http, path, **body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param


def test_bodies_that_are_no_requests_are_refused_in_words(http, client, monkeypatch):
    for content, message in (
        (b"{", "not JSON"),
        (b'{"prompt": "a", "prompt": "b"}', "a key stands twice"),
        (b"[" * 300, "nested more than"),
        (b"\xff", "cannot be read"),
        (b"[1]", "must be a JSON object"),
        (rb'{"prompt": "a", "max_tokens": 1, "stop": ["\udc00"]}', r"a text holds \udc00, half of a surrogate pair"),
    ):
        answer = http.post(COMPLETIONS, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]
    answer = http.post(COMPLETIONS, content=b"{}", headers={"Content-Type": "text/plain"})
    assert "send JSON with Content-Type" in answer.json()["error"]["message"]
    monkeypatch.setattr(module, "LARGEST_BODY", 10)
    assert "more than 10 bytes" in post(http, COMPLETIONS, prompt="abcdef").json()["error"]["message"]
    monkeypatch.undo()
    assert http.get("/v1/nothing").json()["error"]["message"].startswith("GET /v1/nothing: Not Found")
    assert http.get(COMPLETIONS).status_code == 405
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="tiny", prompt="a" * 200)
    assert raised.value.code == "context_length_exceeded"
    monkeypatch.setattr(module, "MOST_PENDING", 1)
    with pytest.raises(openai.RateLimitError, match="ask again later"):
        client.completions.create(model="tiny", prompt=["a", "b"])


def test_a_bug_shows_no_traceback_to_the_client(http, monkeypatch, caplog):
    monkeypatch.setattr(module, "read_completions", lambda *_: {}["secret"])
    answer = post(http, COMPLETIONS, prompt="a")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == module.BUG
    assert "secret" not in answer.text


def test_a_text_without_tokens_is_refused_by_field(http, opened, monkeypatch):
    def text_ids(self, text):
        raise ConfigError("the tokenizer has no token for 'a'")

    monkeypatch.setattr(type(opened), "text_ids", text_ids)
    answer = post(http, COMPLETIONS, prompt=["a", "b"])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    assert "no token for 'a'" in answer.json()["error"]["message"]


def test_models_health_and_the_tokenizer(http, client, opened):
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert http.get("/v1/models/other").status_code == 404
    assert http.get("/health").json() == {"status": "ok"}
    info = http.get("/tokenizer_info").json()
    assert (info["eos_token"], info["bos_token"], info["model_max_length"]) == ("<eos>", "<bos>", LENGTH)
    assert info["chat_template"] == opened.frame.chat.template
    plain = post(http, "/tokenize", prompt="Café", add_special_tokens=False).json()
    assert plain["tokens"] == opened.tokenizer.encode("Café")
    assert post(http, "/tokenize", prompt="Café").json()["tokens"] == [opened.tokenizer.bos, *plain["tokens"]]
    assert post(http, "/tokenize", prompt="<eos>", add_special_tokens=False).json()["tokens"] == [opened.tokenizer.eos]
    talk = post(http, "/tokenize", messages=MESSAGES).json()["tokens"]
    assert post(http, "/detokenize", tokens=talk).json()["prompt"] == "<bos>User: Hi\nAssistant:"
    for path, body in (("/tokenize", {}), ("/tokenize", {"prompt": 1}), ("/detokenize", {"token": [1]})):
        assert post(http, path, **body).status_code == 400


def test_who_hangs_up_within_a_request_is_no_error(opened, worker):
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"", "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
    }  # fmt: skip
    sent, parts = [], iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(parts)

    async def send(message):
        sent.append(message)

    asyncio.run(make_app(opened, worker)(scope, receive, send))  # an exception would be the log's traceback
    assert sent[0]["status"] == 499
