"""Chat messages and transcripts as text: templates, what ends a turn, and the split of a transcript into prompt and
completion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError
from alignjax.data.datasets.framing import end_of
from alignjax.data.datasets.parsing import BadRow, as_json, checked_text, is_text
from alignjax.data.text.special_tokens import NAMING, json_object
from alignjax.data.text.template_process import rendered
from alignjax.data.text.template_worker import REASONING
from alignjax.data.text.tokenizers import Tokenizer, tokenizer_file
from alignjax.gguf_files import is_gguf
from alignjax.outside import user_path

# Plain words, so that it costs a tokenizer that was trained on ordinary text few tokens.
DEFAULT_TEMPLATE = """{{ bos_token }}{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"

# Stands for the content of a message where the text around it is asked for: of Unicode's private use, so in no text.
_CONTENT = "\U000f0000"


def load_template(template: str, tokenizer: str = "") -> str:
    """Returns a chat template as text.

    Args:
        template: The text itself (anything with Jinja marks in it), the path of a file or of the folder of a published
            tokenizer, or "" for that of the tokenizer, or a plain one if it has none.
        tokenizer: The file or folder of the tokenizer, if it was published.

    Raises:
        ConfigError: No such file exists, it is no text, or the folder has no template.
    """
    if not template:
        folder = tokenizer_file(tokenizer).parent if tokenizer else None
        return (_published(folder) if folder else None) or DEFAULT_TEMPLATE
    if "{{" in template or "{%" in template:
        return template
    path = user_path(template)
    if is_gguf(path):
        path = tokenizer_file(path).parent
    if path.is_dir():
        published = _published(path)
        if not published:
            raise ConfigError(
                f"{path} has no chat template: neither chat_template.jinja nor one in tokenizer_config.json"
            )
        return published
    if not path.is_file():
        raise ConfigError(f"chat_template is {template!r}: neither a Jinja template nor a file that exists")
    return _text_of(path)


def _published(folder: Path) -> str | None:
    """The template of a published tokenizer: of chat_template.jinja and the folder beside it, else of
    tokenizer_config.json. Of several the one that is called "default", and "tool_use" where a row has tools."""
    config, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    more = {each.stem: _text_of(each) for each in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if file.is_file() or more:
        return _chosen({"default": _text_of(file), **more} if file.is_file() else more, folder)
    template = json_object(config).get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
        named = {entry["name"]: entry.get("template") for entry in entries}
        if len(named) < len(template) or not all(isinstance(text, str) for text in named.values()):
            raise ConfigError(
                f"{config}: chat_template is a list of other things than objects with a name and a template, each name "
                "once; correct it, or name a template with chat_template="
            )
        return _chosen({name: str(text) for name, text in named.items()}, config) if named else None
    if template is not None and not isinstance(template, str):
        raise ConfigError(
            f"{config}: chat_template is {type(template).__name__}, must be text or a list of named texts"
        )
    return template


def _chosen(named: Mapping[str, str], where: Path) -> str:
    """The template among several, by their names. Two become one text, which looks whether a row has tools."""
    if "default" not in named:
        raise ConfigError(
            f"{where} has chat templates {', '.join(map(repr, named))} and none that is called 'default'; put the "
            "text of one into chat_template"
        )
    default, tools = (named.get(name, "").removesuffix("\n") for name in ("default", "tool_use"))
    # The plus keeps Jinja from taking space off around the tags, so that each is written as it is by itself.
    both = f"{{% if tools is not none +%}}{tools}{{%+ else +%}}{default}{{%+ endif +%}}"
    return both if "tool_use" in named else named["default"]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the chat template {path} cannot be read as text in UTF-8: {error}") from None


def messages_of(value: Any, field: str) -> list[dict[str, str]]:
    """Returns the value of a field as a list of {role, content} messages.

    Args:
        value: The value.
        field: The name of the field, for the message.

    Raises:
        BadRow: If it is no such list, or an empty one.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise BadRow(f"field {field!r} is not a list of messages")
    for message in value:
        content = message.get("content") if isinstance(message, Mapping) else None
        content = "" if content is None and isinstance(message, Mapping) and message.get("tool_calls") else content
        if not is_text(content) or not is_text(message.get("role")):
            raise BadRow(f"field {field!r} holds a message without a role and a content that are text")
    return [{name: each for name, each in message.items() if each is not None} for message in value]


def template_words(tokenizer: Tokenizer | None, path: str = "") -> dict[str, str]:
    """Returns what templates read beside the messages: the special tokens that a tokenizer's files name.

    Ours has none to write: it puts BOS in front of every prompt and EOS behind every completion by their ids, and to it
    "<bos>" is text.

    Args:
        tokenizer: The tokenizer that the text will be encoded with; None for ours.
        path: Its file or folder, if it was published.
    """
    if tokenizer is None or tokenizer.backend.encode_special_tokens:
        return dict.fromkeys(("bos_token", "eos_token"), "")
    folder = tokenizer_file(path).parent if path else None
    files = [json_object(folder / name) for name in NAMING[:2]] if folder else []
    named = {name: token for file in reversed(files) for name, token in file.items() if name.endswith("_token")}
    spelled = {name: token.get("content") if isinstance(token, dict) else token for name, token in named.items()}
    words = {name: token for name, token in spelled.items() if isinstance(token, str)}
    return words if named else {"eos_token": str(tokenizer.backend.id_to_token(tokenizer.eos))}


def render(messages: Sequence[Mapping[str, Any]], template: str = "", open_turn: bool = True, **words: Any) -> str:
    """Returns messages as text, rendered in a process of its own.

    BOS is put in front of a prompt when it is encoded: templates that write bos_token or eos_token get empty strings.

    Args:
        messages: {role, content} each.
        template: See `load_template`.
        open_turn: Adds the start of the assistant's next turn.
        words: What else the template reads (tools, bos_token="<s>", enable_thinking=False, ...).

    Raises:
        BadRow: The template refuses the messages, or fails.
        ConfigError: The template does not parse, or takes more time or memory than a template may.
    """
    row = {"turns": as_json(list(messages), "messages"), "open": open_turn}
    words = {"bos_token": "", "eos_token": "", **as_json(words, "words of the template")}
    (answer,) = rendered(load_template(template), words, [row])
    if "bad" in answer:
        raise BadRow(answer["bad"])
    return answer["prompt"]


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
    talk = [{"role": role, "content": _CONTENT} for role in ("system", "user", "assistant")]
    try:
        written = render(talk[1:], template, open_turn=False, **template_words(tokenizer))
    except BadRow:
        written = render(talk, template, open_turn=False, **template_words(tokenizer))
    ids, text = end_of(tokenizer, written.rpartition(_CONTENT)[2])
    return tuple(ids) if text else (tokenizer.eos,)


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
    called = json.dumps(messages[0]["tool_calls"], default=str) if messages[0].get("tool_calls") else ""
    return checked_text(messages[0].get("content", "") + called, field)


def without_thinking(message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a message of the assistant without what it thinks before it answers: the fields that hold its reasoning,
    and a block of <think> at the start of its content, whose opening tag a template may have written. Messages of
    others stay as they are.

    Args:
        message: The message.

    Raises:
        BadRow: A block does not end.
    """
    if message["role"] != "assistant":
        return dict(message)
    plain = {name: value for name, value in message.items() if name not in REASONING}
    content = plain.get("content")
    if isinstance(content, str):
        head, ended, tail = content.partition("</think>")
        opened = head.lstrip().startswith("<think>")
        if opened and not ended:
            raise BadRow("what the assistant thinks does not end: there is a <think> without </think>")
        if ended and (opened or "<think>" not in head):
            plain["content"] = tail.lstrip()
    return plain


def shared_turns(
    chosen: Any, rejected: Any, names: tuple[str, str] = ("chosen", "rejected")
) -> tuple[list[dict[str, str]], Any, Any]:
    """Separates two conversations that start alike into their common prompt and their ends: the convention where rows
    have no prompt.

    Args:
        chosen: The messages of the better one.
        rejected: The messages of the other.
        names: Their fields, for messages.

    Returns:
        (prompt messages, rest of chosen, rest of rejected).

    Raises:
        BadRow: If they do not start alike.
    """
    first, second = messages_of(chosen, names[0]), messages_of(rejected, names[1])
    most = min(len(first), len(second)) - 1
    same = next((k for k in range(most) if first[k] != second[k]), most)
    if same < 1:
        alone = names[0] == names[1]
        raise BadRow(
            f"field {names[0]!r} has no message before the last one"
            if alone
            else f"no prompt, and {names[0]} and {names[1]} share no first message"
        )
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
    if HUMAN in tail:
        raise BadRow(f"field {field!r} does not end in an assistant turn")
    return head + mark, tail.strip()
