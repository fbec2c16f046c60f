from __future__ import annotations

import pytest

from alignjax.config import ConfigError
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.text.chat import completion_text, messages_of, render, shared_turns, split_transcript

TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def test_the_open_turn() -> None:
    assert render(TALK[:1]) == "User: hello\nAssistant:"
    assert render(TALK, open_turn=False) == "User: hello\nAssistant: good day\n"


def test_a_template_from_a_file(tmp_path) -> None:
    (tmp_path / "t.jinja").write_text("{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{% endfor %}")
    assert render(TALK, str(tmp_path / "t.jinja")) == "<user><assistant>"
    with pytest.raises(ConfigError, match="neither a Jinja template nor a file"):
        render(TALK, "no such file")
    with pytest.raises(ConfigError, match="does not parse"):
        render(TALK, "{% for %}")


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ raise_exception('no') }}"],
)
def test_templates_run_in_a_sandbox(template: str) -> None:
    with pytest.raises(BadRow, match="template"):
        render(TALK, template)


@pytest.mark.parametrize("value", [None, "text", [], ["text"], [{"role": "user"}], [{"role": "user", "content": 1}]])
def test_what_is_not_a_conversation(value) -> None:
    with pytest.raises(BadRow, match="field 'here'"):
        messages_of(value, "here")


def test_completions() -> None:
    assert completion_text("plain", "c") == "plain"
    assert completion_text(TALK[1:], "c") == "good day"
    for bad in (TALK, TALK[:1]):
        with pytest.raises(BadRow, match="one assistant message"):
            completion_text(bad, "c")


def test_shared_turns() -> None:
    other = [TALK[0], {"role": "assistant", "content": "hm"}]
    assert shared_turns(TALK, other) == (TALK[:1], TALK[1:], other[1:])
    assert shared_turns(TALK, TALK) == (TALK[:1], TALK[1:], TALK[1:])
    with pytest.raises(BadRow, match="share no first message"):
        shared_turns(TALK, [{"role": "user", "content": "else"}, TALK[1]])


def test_transcripts() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"
    assert split_transcript(text) == ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "d")
    with pytest.raises(BadRow, match="no assistant turn"):
        split_transcript("\n\nHuman: a")
    with pytest.raises(BadRow, match="does not end in an assistant turn"):
        split_transcript(f"{text}\n\nHuman: e")
