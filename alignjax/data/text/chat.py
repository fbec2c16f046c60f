"""Chat messages and transcripts as text: Jinja templates in a sandbox, and the split of a transcript into prompt and
completion."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alignjax.config import ConfigError
from alignjax.data.datasets.parsing import BadRow, checked_text, is_text
from alignjax.data.text.special_tokens import json_object
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.outside import user_path

# Plain words, so that it costs a tokenizer that was trained on ordinary text few tokens.
DEFAULT_TEMPLATE = """{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""

ASSISTANT = "\n\nAssistant:"

# Stands for the content of a message where the text around it is asked for: of Unicode's private use, so in no text.
_CONTENT = "\U000f0000"

# Templates of published models expect the next functions besides the messages; tests hold the rendering against
# `transformers`.


def _refuse(message: str) -> None:
    raise BadRow(f"the chat template says: {message}")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as templates want it: Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


class _Generation(Extension):
    """A tag {% generation %} that marks the assistant's words for whoever trains on them; here it is only its body."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    # A template comes with a data set or a model file, from strangers: no attribute access out of the sandbox.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"the chat template does not parse: {error.message} (its line {error.lineno})") from error


def load_template(template: str) -> str:
    """Returns a chat template as text.

    Args:
        template: The text itself (anything with Jinja marks in it), the path of a file or of the folder of a published
            tokenizer, or "" for the default.

    Raises:
        ConfigError: No such file exists, or the folder has no template.
    """
    if not template:
        return DEFAULT_TEMPLATE
    if "{{" in template or "{%" in template:
        return template
    path = user_path(template)
    if path.is_dir():
        return _published(path)
    if not path.is_file():
        raise ConfigError(f"chat_template is {template!r}: neither a Jinja template nor a file that exists")
    return path.read_text()


def _published(folder: Path) -> str:
    """The template of a published tokenizer: chat_template.jinja, else the one in tokenizer_config.json, of several the
    one that is called "default"."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    template = json_object(config).get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not template:
        raise ConfigError(f"{folder} has no chat template: neither chat_template.jinja nor one in {config.name}")
    return template


def messages_of(value: Any, field: str) -> list[dict[str, str]]:
    """Returns the value of a field as a list of {role, content} messages.

    Args:
        value: The value.
        field: The name of the field, for the message.

    Raises:
        BadRow: If it is no such list, or an empty one.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRow(f"field {field!r} is not a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not is_text(message.get("role")) or not is_text(message.get("content")):
            raise BadRow(f"field {field!r} holds a message without a role and a content that are text")
    return [dict(message) for message in value]


def render(messages: Sequence[Mapping[str, Any]], template: str = "", open_turn: bool = True, **words: Any) -> str:
    """Returns messages as text.

    BOS is put in front of a prompt when it is encoded: templates that write bos_token or eos_token get empty strings.

    Args:
        messages: {role, content} each.
        template: See `load_template`.
        open_turn: Adds the start of the assistant's next turn.
        words: What else the template reads (tools, bos_token="<s>", enable_thinking=False, ...).

    Raises:
        BadRow: The template refuses the messages.
        ConfigError: The template does not parse.
    """
    compiled = _compiled(load_template(template))
    try:
        names = {"tools": None, "documents": None, "bos_token": "", "eos_token": "", **words}
        return compiled.render(messages=list(messages), add_generation_prompt=open_turn, **names)
    except BadRow:
        raise
    except (jinja2.TemplateError, TypeError, ValueError) as error:  # the latter are the template's own slips
        raise BadRow(f"the chat template failed: {error}") from error


def turn_end(tokenizer: Tokenizer, template: str = "") -> tuple[int, ...]:
    """Returns the token ids that end an assistant's turn: what a completion of chat rows ends with, and a sampler stops
    at the last of.

    It is what the template writes after the content, up to and with the first special token. Where the template writes
    no special token there, the turn ends with the tokenizer's EOS alone.

    Args:
        tokenizer: The tokenizer that the text is encoded with.
        template: See `load_template`.

    Raises:
        BadRow: The template refuses a conversation of two messages, also after a system message.
        ConfigError: The template does not parse.
    """
    text = load_template(template)
    talk = [{"role": role, "content": _CONTENT} for role in ("system", "user", "assistant")]
    words = (
        {} if tokenizer.backend.encode_special_tokens else {"eos_token": tokenizer.backend.id_to_token(tokenizer.eos)}
    )
    try:
        written = render(talk[1:], text, open_turn=False, **words)
    except BadRow:
        written = render(talk, text, open_turn=False, **words)
    ids = tokenizer.encode(written.rpartition(_CONTENT)[2])
    added = tokenizer.backend.get_added_tokens_decoder()
    special = {tokenizer.eos, *tokenizer.stops, *(number for number, token in added.items() if token.special)}
    first = next((place for place, number in enumerate(ids) if number in special), None)
    return (tokenizer.eos,) if first is None else tuple(ids[: first + 1])


def prompt_text(value: Any, field: str, template: str) -> str:
    """Returns a prompt as text: itself, or its messages rendered with the assistant's turn opened.

    Args:
        value: Text or messages.
        field: The name of the field, for the message.
        template: The chat template, see `load_template`.

    Raises:
        BadRow: If it is neither, or blank.
    """
    return checked_text(value if isinstance(value, str) else render(messages_of(value, field), template), field)


def completion_text(value: Any, field: str) -> str:
    """Returns a completion as text: itself, or the content of the one assistant message in the list.

    Args:
        value: Text or messages.
        field: The name of the field, for the message.

    Raises:
        BadRow: If it is neither, or other messages than that one, or blank.
    """
    if isinstance(value, str):
        return checked_text(value, field)
    messages = messages_of(value, field)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise BadRow(f"field {field!r} must be text or one assistant message, and has {len(messages)} messages")
    return checked_text(messages[0]["content"], field)


def shared_turns(chosen: Any, rejected: Any) -> tuple[list[dict[str, str]], Any, Any]:
    """Separates two conversations that start alike into their common prompt and their ends: the convention where rows
    have no prompt.

    Args:
        chosen: The messages of the better one.
        rejected: The messages of the other.

    Returns:
        (prompt messages, rest of chosen, rest of rejected).

    Raises:
        BadRow: If they do not start alike.
    """
    first, second = messages_of(chosen, "chosen"), messages_of(rejected, "rejected")
    most = min(len(first), len(second)) - 1
    same = next((k for k in range(most) if first[k] != second[k]), most)
    if same < 1:
        raise BadRow("no prompt, and chosen and rejected share no first message")
    return first[:same], first[same:], second[same:]


def split_transcript(text: str, field: str = "transcript") -> tuple[str, str]:
    """Separates a transcript with "Human:" and "Assistant:" turns before its last answer.

    Args:
        text: The transcript.
        field: The name of the field, for the message.

    Returns:
        (everything up to and with the last "Assistant:", what follows it).

    Raises:
        BadRow: If it has no turn of the assistant.
    """
    head, mark, tail = text.rpartition(ASSISTANT)
    if not mark:
        raise BadRow(f"field {field!r} has no assistant turn")
    return head + mark, tail.strip()
