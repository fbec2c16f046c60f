"""Chat templates as published models have them are rendered as `transformers` renders them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from alignjax.config import ConfigError, DataError
from alignjax.data import load_tokenizer
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.text.chat import load_template, render, turn_end
from alignjax.data.text.template_worker import Refused, Renderer

TALK = [
    {"role": "system", "content": "  Be kind & brief <now>.\n"},
    {"role": "user", "content": "How are you?\n"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nWell, thanks — ça va."},
    {"role": "user", "content": " And 1 < 2? "},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "a + b é", "parameters": {"b": 1, "a": [2]}}}]

TEMPLATES = {
    "marked turns": """{%- if messages[0]['role'] != 'system' %}
    {{- '<|turn|>system\\nYou are helpful.<|end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if not loop.first %}{{ '\\n' }}{% endif %}
<|turn|>{{ message['role'] + '\\n' + message['content'] + '<|end|>' }}
{% endfor %}
{% if add_generation_prompt %}
<|turn|>assistant
{% endif %}
""",
    "headers, a date and tools": """{{- bos_token }}
{%- if not date is defined %}{% set date = strftime_now("%d %b %Y") %}{% endif %}
{%- set ns = namespace(system="", rest=messages) %}
{%- if messages[0].role == "system" %}
    {%- set ns.system = messages[0].content | trim %}
    {%- set ns.rest = messages[1:] %}
{%- endif %}
[system]
Today: {{ date }}
{{ ns.system }}
{%- if tools is not none %}

Tools:
    {%- for tool in tools %}
{{ tool | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{%- for m in ns.rest %}
[{{ m.role }}]
{{ m.content | trim }}{{ eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
[assistant]
{% endif %}""",
    "strict alternation": """{{ bos_token }}{% set talk = messages %}{% if messages[0]['role'] == 'system' %}
    {% set talk = messages[1:] %}
    {% set system = messages[0]['content'] %}
{% endif %}
{% for m in talk %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {% endif %}
    {% if m['role'] == 'user' %}
        {{ '[INST] ' + (system + '\\n\\n' if loop.last and system is defined else '') + m['content'] + ' [/INST]' }}
    {% else %}
        {{ ' ' + m['content'].strip() + eos_token }}
    {% endif %}
{% endfor %}""",
    "roles by another name": """{% for m in messages if m.role != 'system' %}
{% set role = 'model' if m.role == 'assistant' else m.role %}
<start>{{ role }}
{{ m.content | trim }}<end>
{% endfor %}{% if add_generation_prompt %}<start>model
{% endif %}""",
    "thoughts, loop controls, a macro": """{%- macro turn(role, text) -%}
<{{ role }}>{{ text }}</{{ role }}>
{%- endmacro -%}
{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- if m.role == "user" %}{% set ns.last = messages | length - 1 - loop.index0 %}{% break %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == "system" %}{% continue %}{% endif %}
    {%- set text = m.content %}
    {%- if '</think>' in text and loop.index0 < ns.last %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if m.role == "assistant" %}{% generation %}{{ turn("assistant", text) }}{% endgeneration %}
    {%- else %}{{ turn(m.role, text) }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<assistant>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}""",
}


def tokenizer_of(template: str) -> Any:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    found.chat_template = template
    return found


@pytest.mark.parametrize("open_turn", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_rendering_is_that_of_transformers(name: str, open_turn: bool) -> None:
    template = TEMPLATES[name]
    theirs = tokenizer_of(template)
    for talk, words in ((TALK, {}), (TALK[1:], {"tools": TOOLS}), (TALK[1:2], {"enable_thinking": False})):
        expected = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=open_turn, **words)
        assert render(talk, template, open_turn, bos_token="<s>", eos_token="</s>", **words) == expected
        assert expected.strip()


def test_what_a_template_refuses() -> None:
    with pytest.raises(BadRow, match=r"^the chat template says: Roles must alternate"):
        render([TALK[1], TALK[1]], TEMPLATES["strict alternation"])
    with pytest.raises(BadRow, match="the chat template failed"):
        render(TALK, "{{ messages[0].content + 1 }}")


def test_the_template_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        load_template(str(tmp_path))
    several = [{"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": "{{ 2 }}"}]
    for given, expected in (("{{ 3 }}", "3"), (several, "2")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
        assert render(TALK, str(tmp_path)) == expected
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ 3')
    with pytest.raises(DataError, match=r"tokenizer_config\.json cannot be read: not JSON"):
        load_template(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ 4 }}\n")
    assert render(TALK, str(tmp_path)) == "4"


@pytest.mark.parametrize("beside", [False, True])
def test_of_several_templates_that_of_tools_is_taken_where_a_row_has_tools(beside: bool, tmp_path: Path) -> None:
    first, second = (TEMPLATES[name] for name in ("marked turns", "headers, a date and tools"))
    theirs = tokenizer_of(first)
    theirs.chat_template = {"default": first, "tool_use": "  \n" + second + "\n\n", "rag": "{{ 1 }}"}
    theirs.save_pretrained(tmp_path, save_jinja_files=beside)
    assert (tmp_path / "additional_chat_templates").is_dir() == beside
    template = load_template(str(tmp_path))
    for words in ({}, {"tools": TOOLS}, {"tools": []}):
        for open_turn in (True, False):
            expected = theirs.apply_chat_template(TALK[1:], tokenize=False, add_generation_prompt=open_turn, **words)
            marks = {"bos_token": "<s>", "eos_token": "</s>"}
            assert render(TALK[1:], template, open_turn, **marks, **words) == expected
            theirs.chat_template, several = template, theirs.chat_template  # as `export` writes it
            assert (
                theirs.apply_chat_template(TALK[1:], tokenize=False, add_generation_prompt=open_turn, **words)
                == expected
            )
            theirs.chat_template = several
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    for wrong, words in (
        ([{"name": "default", "template": 3}], "a list of other things"),
        ([{"name": "rag", "template": "x"}], "none that is called 'default'"),
        ([{"name": "default", "template": "x"}] * 2, "each name once"),
        ([{"name": ["default"], "template": "x"}], "a list of other things"),
    ):
        if not beside:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}))
            with pytest.raises(ConfigError, match=words):
                load_template(str(tmp_path))


# ------------------------------------------------------------------------------------------------------- special tokens

WORDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|stop|>", "filler", "word")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="word")).save(
        str(tmp_path / "tokenizer.json")
    )
    return tmp_path


def write(folder: Path, **files: Any) -> None:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def test_special_tokens_are_those_that_the_files_name(folder: Path) -> None:
    """Names come before numbers, those of special_tokens_map.json first, as `transformers` 5 has it, an explicit one
    before all; what nobody names is the end token."""
    assert load_tokenizer(folder).eos == WORDS.index("<|im_end|>")  # by its spelling
    write(folder, generation_config={"bos_token_id": 0, "eos_token_id": [0, 3]})
    found = load_tokenizer(folder)
    assert (found.bos, found.eos, found.stops) == (0, 0, (3,))
    write(folder, special_tokens_map={"eos_token": {"content": "<|stop|>"}, "pad_token": "filler"})
    found = load_tokenizer(folder / "tokenizer.json")
    assert (found.bos, found.eos, found.stops, found.pad) == (0, 3, (0,), 4)
    write(folder, tokenizer_config={"eos_token": "<|im_end|>", "bos_token": None, "add_bos_token": False})
    assert load_tokenizer(folder).eos == 3
    (folder / "special_tokens_map.json").write_text('{"pad_token": "filler"}')
    found = load_tokenizer(folder)
    assert (found.bos, found.eos, found.stops, found.pad) == (0, 2, (0, 3), 4)
    assert load_tokenizer(folder, eos="<|im_start|>").eos == 1
    assert found.decode([5, 0, 3, 4, 5, 2]) == "word word"
    write(folder, tokenizer_config={"eos_token": "<|gone|>"})
    with pytest.raises(ConfigError, match=r"tokenizer_config.json: eos_token is '<\|gone\|>'"):
        load_tokenizer(folder)


def test_another_file_under_the_name_of_a_sentencepiece_model(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(ConfigError, match=r"tokenizer.model is not a SentencePiece model"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("written", "end"),
    [("<|im_end|>", ["<|im_end|>"]), ("{{ eos_token }}", ["<|stop|>"]), ("word", ["<|stop|>"]), ("", ["<|stop|>"])],
)
def test_an_assistant_turn_ends_as_the_template_ends_it(folder: Path, written: str, end: list[str]) -> None:
    """The first special token after the content, and EOS where the template writes none."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["<|im_end|>", "<|stop|>"])
    backend.save(str(folder / "tokenizer.json"))
    write(folder, tokenizer_config={"eos_token": "<|stop|>", "bos_token": "<|im_start|>"})
    template = "{% for m in messages %}{{ m.content }}" + written + "\n{% endfor %}"
    ids = turn_end(load_tokenizer(folder), template)
    assert [WORDS[number] for number in ids] == end


def called(name: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": {}}}]}


TURN = "{{ m.role }}: {{ m.content }}"
LISTED = "{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}"
WRITES = {
    "all": "{% for c in m.tool_calls %}<{{ c.function.name }}>{% endfor %}",
    "first": "{% for c in (m.tool_calls or [])[:1] %}<{{ c.function.name }}>{% endfor %}",
    "last message": "{% if loop.last %}{% for c in m.tool_calls %}<{{ c.function.name }}>{% endfor %}{% endif %}",
    "known": "{% for c in m.tool_calls %}{% if c.function.name not in ['add', 'take'] %}"
    "{{ raise_exception('no such tool') }}{% endif %}<{{ c.function.name }}>{% endfor %}",
    "none": "",
}


@pytest.mark.parametrize(
    ("writes", "lost"), [("all", None), ("known", None), ("first", "take"), ("none", "add"), ("last message", "add")]
)
def test_a_call_that_the_template_does_not_write_is_refused(writes: str, lost: str | None) -> None:
    """Also where the function's name stands in the list of tools."""
    renderer = Renderer(LISTED + "{% for m in messages %}" + TURN + WRITES[writes] + "\n{% endfor %}")
    both = called("add")
    both["tool_calls"] += called("take")["tool_calls"]
    turns = [
        {"role": "user", "content": "go"},
        both,
        {"role": "tool", "content": "3"},
        {"role": "user", "content": "?"},
    ]
    words = {"tools": list(both["tool_calls"])}
    row = {"turns": turns, "ends": [{"role": "assistant", "content": "Three."}]}
    for asked in (row, row | {"each_turn": True}):
        if lost is None:
            assert "<add><take>" in renderer.text(turns, False, words)
            renderer.row(asked, words)
        else:
            with pytest.raises(Refused, match=f"does not write the call of '{lost}' in message 2"):
                renderer.row(asked, words)
