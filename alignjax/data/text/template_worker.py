"""The process in which chat templates are rendered: Jinja in a sandbox, with limits on time and memory.

`template_process` runs this file by its path, so that it imports neither jax nor alignjax. It reads requests from its
input, writes an answer to each, and ends at the end of its input: with whoever started it. What a template sees and
does is what `transformers` gives it, which tests hold.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import itertools
import json
import marshal
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if TYPE_CHECKING or __name__ != "__main__":
    from alignjax.data.text.template_calls import unwritten_call
    from alignjax.data.text.template_limits import MEBIBYTES, SECONDS, Clock, Spent, limit_memory
else:  # run by its path, with its folder as the last place of modules
    from template_calls import unwritten_call
    from template_limits import MEBIBYTES, SECONDS, Clock, Spent, limit_memory

Message = dict[str, Any]
Words = Mapping[str, Any]

TEXT = 2**26  # characters that one rendering may have
SENTENCE = 300  # characters of a template's own words in a message
SKELETONS = 1024  # kept at once

# Stands for the content of message k as chr(MARK + k), of Unicode's private use: what is written around it is frame.
MARK, MARKS = 0xF0000, 65_000
_MARKED = re.compile(f"([{chr(MARK)}-{chr(MARK + MARKS)}])")

# Variables that the tag {% generation %} writes around its body, and what they hold where its places are asked for.
OPENED, CLOSED = "generation_opened__", "generation_closed__"
_AROUND = {OPENED: chr(MARK + MARKS + 1), CLOSED: chr(MARK + MARKS + 2)}
_GENERATED = re.compile(f"([{''.join(_AROUND.values())}])")

# Names under which messages carry their reasoning, as transformers hands them on.
REASONING = ("reasoning_content", "thinking", "reasoning")


class Refused(Exception):
    """Says in a sentence why a row cannot be rendered."""


class _Generation(Extension):
    """A tag {% generation %} that marks the assistant's words for whoever trains on them: its body, and around it what
    the variables OPENED and CLOSED hold, where they are set."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        opened, closed = (nodes.Output([nodes.Name(name, "load")], lineno=line) for name in (OPENED, CLOSED))
        return nodes.Scope([opened, *body, closed], lineno=line)


class _Namespace(Namespace):
    """Jinja's namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a template may set a name "self"
        for name in (values := dict(*args[1:], **kwargs)):
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")


def _refuse(message: Any) -> None:
    raise Refused(f"the chat template says: {str(message)[:SENTENCE]}")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as templates want it: Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def compiled(template: str) -> jinja2.Template:
    """Returns a template compiled in a sandbox.

    Args:
        template: Its text.

    Raises:
        Exception: Whatever the text of a stranger makes Jinja and Python raise.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": _Namespace}
    environment.filters["tojson"] = _to_json
    return environment.from_string(template)


def _as_templates_see(message: Message) -> Message:
    """A message without null fields, and with its reasoning under every name that templates read."""
    plain = {key: value for key, value in message.items() if value is not None}
    reasoning = next((plain[key] for key in REASONING if key in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


class Renderer:
    """A compiled template, and what it writes around the contents of messages.

    Args:
        template: The text of the template.
        go_on: Called for each turn of a row of which each turn is asked for: it may take as long as a row.
    """

    def __init__(self, template: str, go_on: Callable[[], None] = lambda: None) -> None:
        self.template, self.go_on = compiled(template), go_on
        self.skeletons: dict[Any, list[str] | None] = {}

    def text(self, messages: Sequence[Message], open_turn: bool, words: Words) -> str:
        """Returns messages as text; `open_turn` adds the start of the assistant's next turn. Raises Refused."""
        if taken := {"messages", "add_generation_prompt"} & {*words}:
            raise Refused(
                f"chat_template_kwargs names {min(taken)}, which alignjax gives to the template; leave it out"
            )
        names = {"tools": None, "documents": None, **words}
        text = self.template.render(messages=list(messages), add_generation_prompt=open_turn, **names)
        if len(text) > TEXT:
            raise Refused(f"the chat template failed: it writes more than {TEXT:,} characters for one row")
        return text

    def skeleton(self, messages: Sequence[Message], open_turn: bool, words: Words) -> list[str] | None:
        """Returns what the template writes around contents: [frame, mark, frame, mark, ..., frame]; None if it refuses
        messages with marks in the place of their contents."""
        plain = not words and all(len(message) == 2 for message in messages)
        roles = tuple([(message["role"], _has_content(message)) for message in messages])
        key = (open_turn, roles) if plain else json.dumps([open_turn, words, roles, *map(_beside_content, messages)])
        if key not in self.skeletons:
            if len(self.skeletons) >= SKELETONS:
                self.skeletons.clear()
            marked = [m | {"content": chr(MARK + k)} if _has_content(m) else m for k, m in enumerate(messages[:MARKS])]
            try:
                self.skeletons[key] = _MARKED.split(self.text(marked, open_turn, words))
            except Exception:  # a template may well refuse messages that nobody would write
                self.skeletons[key] = None
        return self.skeletons[key]

    def row(self, row: Mapping[str, Any], words: Words) -> dict[str, Any]:
        """Returns a conversation and its completions as text.

        Args:
            row: turns (messages), ends (messages, each of which may follow them), open (whether the assistant's next
                turn is started), words (more of them), and each_turn (whether each turn of the assistant is asked for,
                not only the end, of which there is one).
            words: What else the template reads.

        Returns:
            prompt (text), slots ([start, end, number of the message] of every content in it; None if that is not
            known), ends ([what is written after the prompt, where its content ends]), and learned ([start, end] of what
            the assistant says in that end, where each turn is asked for). Or apart: of each turn of the assistant its
            number and such an answer, where the template writes a turn otherwise once the conversation goes on.

        Raises:
            Refused: Or anything else that a template may raise.
        """
        turns, words = [_as_templates_see(message) for message in row["turns"]], {**words, **row.get("words", {})}
        ends = [_as_templates_see(end) for end in row.get("ends", ())]
        if row.get("each_turn"):
            return self._each_turn([*turns, *ends], words)
        return self._last_turn(turns, ends, row.get("open", True), words)

    def _last_turn(
        self, turns: Sequence[Message], ends: Sequence[Message], open_turn: bool, words: Words
    ) -> dict[str, Any]:
        prompt = self.text(turns, open_turn, words)
        self._check_calls(turns, prompt, words)
        slots = _located(self.skeleton(turns, open_turn, words), prompt, turns)
        written = [self._end(turns, end, prompt, words) for end in ends]
        return {"prompt": prompt, "slots": slots, "ends": written, "learned": []}

    def _each_turn(self, messages: Sequence[Message], words: Words) -> dict[str, Any]:
        # A turn is written as it is sampled: behind the prompt that is rendered with it opened. Where the whole
        # conversation has all turns so, it is one row. A template that takes thoughts out of earlier turns writes them
        # otherwise, and then each is learned behind its own prompt.
        whole, starts = self.text(messages, False, words), []
        self._check_calls(messages, whole, words)
        spoken = [k for k, message in enumerate(messages) if k and message["role"] == "assistant"]
        places: list[tuple[int, int]] = []
        for k in spoken:
            self.go_on()
            starts.append(self.text(messages[:k], True, words))
            rest, stop = self._end(messages[:k], messages[k], starts[-1], words)
            if not whole.startswith(starts[-1] + rest[:stop]):
                parts = [(k, self._last_turn(messages[:k], messages[k : k + 1], True, words)) for k in spoken]
                return {"apart": parts}
            places.append((len(starts[-1]), len(starts[-1]) + stop))
        prompt, turns = starts[0], messages[: spoken[0]]
        size = len(prompt)
        learned = [(max(a, size) - size, b - size) for a, b in self._generated(messages, whole, words) or places]
        if not any(a < b for a, b in learned):
            raise Refused("the chat template marks none of the assistant's words with {% generation %}")
        slots = _located(self.skeleton(turns, True, words), prompt, turns)
        return {"prompt": prompt, "slots": slots, "ends": [(whole[size:], places[-1][1] - size)], "learned": learned}

    def _check_calls(self, messages: Sequence[Message], text: str, words: Words) -> None:
        """Raises Refused where the text of messages has no word of a tool call in one of them."""
        lost = unwritten_call(messages, text, lambda others: self.text(others, False, words))
        if lost is not None:
            raise Refused(
                f"the chat template does not write the call of {lost[1][:SENTENCE]!r} in message {lost[0] + 1}, so the "
                "model would not see it; use a template for tools (chat_template=), or write calls into content"
            )

    def _generated(self, messages: Sequence[Message], whole: str, words: Words) -> list[tuple[int, int]]:
        """(start, end) of what a template marks with {% generation %}; [] if it marks nothing, or works on the text
        that it has marked, so that the places are not known."""
        parts = _GENERATED.split(self.text(messages, False, {**words, **_AROUND}))
        if len(parts) == 1 or "".join(parts[::2]) != whole or parts[1::2] != [*_AROUND.values()] * (len(parts) // 4):
            return []
        ends = list(itertools.accumulate(map(len, parts[::2])))
        return list(zip(ends[:-1:2], ends[1::2], strict=True))

    def _end(self, turns: Sequence[Message], end: Message, prompt: str, words: Words) -> tuple[str, int]:
        """(what the template writes for `end` after the prompt, where in it the content ends)."""
        whole = self.text([*turns, end], False, words)
        if not whole.startswith(prompt):
            raise Refused("the chat template writes the prompt otherwise once it is answered; use another one")
        if end.get("tool_calls"):
            self._check_calls([*turns, end], whole, words)
        rest, content = whole[len(prompt) :], str(end.get("content", "")).strip()
        frames = self.skeleton([*turns, {"role": end["role"], "content": "-"}], False, words)
        if frames and len(frames) > 1 and ord(frames[-2]) == MARK + len(turns) and rest.endswith(frames[-1]):
            stop = len(rest) - len(frames[-1])
        else:
            stop = rest.rfind(content) + len(content) if content and content in rest else 0
        if not rest[:stop].strip():
            raise Refused("the chat template writes nothing of the assistant's last message")
        return rest, stop


def _has_content(message: Message) -> bool:
    return isinstance(message.get("content"), str) and not message["content"].isspace() and message["content"] != ""


def _beside_content(message: Message) -> Message:
    return {name: value for name, value in message.items() if name != "content"} if _has_content(message) else message


def _located(frames: list[str] | None, text: str, messages: Sequence[Message]) -> list[tuple[int, int, int]] | None:
    """(start, end, number of the message) of every content in a text, by the frames that must stand around them."""
    # Contents are looked for as they are and without their outer spaces; else the next frame says where one ends. If
    # anything is left over, the template writes other frames for these contents, and nothing is known.
    if frames is None or not text.startswith(frames[0]):
        return None
    slots, place = [], len(frames[0])
    for mark, frame, later in zip(frames[1::2], frames[2::2], range(len(frames) // 2 - 1, -1, -1), strict=True):
        content = messages[ord(mark) - MARK]["content"]
        end = place + len(content)
        if not (text.startswith(content, place) and text.startswith(frame, end)):
            forms = (content.strip(), content.lstrip(), content.rstrip())
            ends = [place + len(form) for form in forms if text.startswith(form, place)]
            end = next((end for end in ends if text.startswith(frame, end)), -1)
        if end < 0 and frame:
            end = text.find(frame, place) if later else len(text) - len(frame)
        if end < place or not text.startswith(frame, end):
            return None
        slots.append((place, end, ord(mark) - MARK))
        place = end + len(frame)
    return slots if place == len(text) else None


def sentence(error: BaseException) -> str:
    """Returns what went wrong in a template, in words."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, RecursionError):
        return "the chat template failed: it calls itself without an end, or is nested too deep"
    return f"the chat template failed: {str(error)[:SENTENCE] or type(error).__name__}"


def _rendered(renderer: Renderer, row: Mapping[str, Any], words: Words, clock: Clock, number: int) -> dict[str, Any]:
    """The texts of a row; or "bad" with a sentence; or "stop" with one that no further row is to be tried after."""
    try:
        return clock.limited(number, lambda: renderer.row(row, words))
    except Spent:
        return {"stop": f"the chat template takes more than {SECONDS:g} s of computing for one row"}
    except MemoryError:
        return {"stop": f"the chat template takes more than {MEBIBYTES} MiB of memory for one row"}
    except Exception as error:
        return {"bad": sentence(error)}


def _answer(
    request: Mapping[str, Any], renderers: dict[str, Renderer], clock: Clock, numbers: Iterator[int]
) -> dict[str, Any]:
    """The rows of a request rendered up to the first "stop"; or "stop" alone, where the template does not compile."""
    template = request["template"]
    try:
        if template not in renderers:
            renderers.clear()  # a run has one template, rarely two
            renderers[template] = clock.limited(next(numbers), lambda: Renderer(template, clock.go_on))
    except jinja2.TemplateSyntaxError as error:
        return {"stop": f"the chat template does not parse: {error.message} (its line {error.lineno})"}
    except Spent:
        return {"stop": f"the chat template takes more than {SECONDS:g} s to compile"}
    except MemoryError:
        return {"stop": f"the chat template takes more than {MEBIBYTES} MiB of memory to compile"}
    except Exception as error:
        return {"stop": f"the chat template does not parse: {str(error)[:SENTENCE] or type(error).__name__}"}
    rows = []
    for row in request["rows"]:
        rows.append(_rendered(renderers[template], row, request["words"], clock, next(numbers)))
        if "stop" in rows[-1]:
            break
    return {"rows": rows}


def send(pipe: Any, *parts: bytes) -> None:
    """Writes parts to a pipe, each behind its length."""
    for part in parts:
        pipe.write(len(part).to_bytes(8, "little"))
        pipe.write(part)
    pipe.flush()


def receive(pipe: Any) -> bytes:
    """Returns the next part of a pipe. Raises EOFError at its end."""
    size = pipe.read(8)
    part = pipe.read(int.from_bytes(size, "little")) if len(size) == 8 else b""
    if len(size) < 8 or len(part) < int.from_bytes(size, "little"):
        raise EOFError
    return part


def _send_answer(pipe: Any, answer: dict[str, Any]) -> None:
    """Writes an answer: its numbers as JSON, in which a text is its length, and all texts one after another."""
    texts: list[str] = []
    rows: list[Any] = []
    for row in answer.get("rows", ()):
        if "prompt" in row:
            texts.append(row["prompt"])
            texts += [text for text, _ in row["ends"]]
            rows.append(
                [len(row["prompt"]), row["slots"], [(len(text), stop) for text, stop in row["ends"]], row["learned"]]
            )
        else:
            rows.append(row)
    send(pipe, json.dumps({**answer, "rows": rows}).encode(), "".join(texts).encode("utf-8", "surrogatepass"))


def main() -> None:
    """Answers requests until the input ends."""
    pipes, renderers, numbers = (sys.stdin.buffer, sys.stdout.buffer), {}, itertools.count(1)
    sys.stdin = sys.stdout = None  # nothing else may write there
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    gc.set_threshold(20_000)  # a block makes many objects, and few of them in cycles
    limited, clock = limit_memory(), Clock()
    send(pipes[1], json.dumps({"memory_limited": limited}).encode())
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            # marshal, which must not read what strangers wrote, is quick, and whoever started this process is none
            _send_answer(pipes[1], _answer(marshal.loads(receive(pipes[0])), renderers, clock, numbers))


if __name__ == "__main__":
    main()
