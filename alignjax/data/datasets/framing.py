"""Conversations as their template writes them: which tokens are content, which are frame, and which are learned.

A template writes a frame around the contents of messages: marks of who speaks and where a turn ends. Tokens carry which
they are, so that truncation cuts contents and nothing else, and so that what is learned is what the policy is to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from alignjax.data.text.tokenizers import Tokenizer

# What a token of a conversation is part of. A completion learns all but OTHERS.
FRAME, CONTENT, SYSTEM, OTHERS = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Framed:
    """A prompt and what may follow it, as a template writes them.

    Args:
        prompt: The text before the completions: the template's own, the assistant's turn opened.
        contents: (start, end, CONTENT or SYSTEM) of the contents in it; None where the template does not show them.
        ends: (text, where the content ends in it) of what the template writes after the prompt for each completion.
        turns: (start, end) of what the assistant says in the text of the one completion, its last turn included: what
            is learned of a conversation, each with the end of its turn. () where all of it is.
    """

    prompt: str
    contents: tuple[tuple[int, int, int], ...] | None
    ends: tuple[tuple[str, int], ...] = ()
    turns: tuple[tuple[int, int], ...] = ()


class Tokens(NamedTuple):
    """Token ids, and for each what it is part of; without parts, ids of a plain text."""

    ids: Any  # a list or an array, as `parts` is
    parts: Any = ()


def framed(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Framed:
    """Returns a conversation as it was rendered.

    Args:
        row: What was asked for, as of `conversation`.
        answer: What `rendered` gave for it.
    """
    slots, roles = answer["slots"], [message["role"] for message in row["turns"]]
    contents = slots and tuple((a, b, SYSTEM if roles[k] in ("system", "developer") else CONTENT) for a, b, k in slots)
    ends = tuple((text, stop) for text, stop in answer["ends"])
    return Framed(answer["prompt"], contents, ends, tuple((a, b) for a, b in answer["learned"]))


def encoded(items: Sequence[Framed], tokenizer: Tokenizer) -> tuple[list[tuple[Tokens, list[Tokens]]], int]:
    """Returns the tokens of conversations: those of each prompt, and those of each completion up to and with the end of
    the turn.

    Prompt and completion are encoded as one text, so that they are the tokens of the whole conversation. Where one of
    these reaches over the border, the prompt keeps the tokens that it has by itself, as it has when a completion is
    sampled, and the completion is encoded by itself.

    Args:
        items: The conversations.
        tokenizer: The tokenizer. One of ours puts BOS in front by its id; the template of another one writes it.

    Returns:
        ((prompt, completions) of each conversation, the number of completions where a token reached over the border).
    """
    # An end is cut behind its first special token before anything is encoded: what a template writes after it is no
    # part of the completion. Without a special token EOS ends the turn, behind the content.
    backend, straddling = tokenizer.backend, 0
    marks = [[end_of(tokenizer, text[stop:])[1] for text, stop in item.ends] for item in items]
    texts: list[str] = []
    for item, marked in zip(items, marks, strict=True):
        ends = (text[:stop] + mark for (text, stop), mark in zip(item.ends, marked, strict=True))
        texts += [item.prompt, *(item.prompt + end for end in ends)]
    encodings = iter(backend.encode_batch(texts, add_special_tokens=False))
    results: list[tuple[Tokens, list[Tokens]]] = []
    for item, marked in zip(items, marks, strict=True):
        prompt, completions, before = next(encodings), [], len(item.prompt)
        size = len(prompt.ids)
        for (text, stop), mark in zip(item.ends, marked, strict=True):
            whole = next(encodings)
            if whole.ids[:size] == prompt.ids:
                ids = whole.ids[size:]
                places = [(start - before, end - before) for start, end in _closed(whole.offsets)[size:]]
            else:
                ids, places = _by_itself(backend, text[:stop] + mark)
                straddling += 1
            parts = _parts_of_completion(item, places, stop, mark)
            completions.append(Tokens(ids, parts) if mark else Tokens([*ids, tokenizer.eos], [*parts, FRAME]))
        ids, parts = prompt.ids, _parts_of_prompt(item, _closed(prompt.offsets))
        ours = backend.encode_special_tokens
        results.append((Tokens([tokenizer.bos, *ids], [FRAME, *parts]) if ours else Tokens(ids, parts), completions))
    return results, straddling


@lru_cache(maxsize=64)
def end_of(tokenizer: Tokenizer, after: str) -> tuple[tuple[int, ...], str]:
    """Returns the part of what a template writes after a content that ends the turn: up to and with the first special
    token; its ids, and its text. Empty where there is none.

    Args:
        tokenizer: The tokenizer that the text is encoded with.
        after: What the template writes after the content.
    """
    encoding = tokenizer.backend.encode(after, add_special_tokens=False)
    added = tokenizer.backend.get_added_tokens_decoder()
    special = {tokenizer.eos, *tokenizer.stops, *(number for number, token in added.items() if token.special)}
    for place, number in enumerate(encoding.ids):
        if number in special:
            return tuple(encoding.ids[: place + 1]), after[: encoding.offsets[place][1]]
    return (), ""


def _closed(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets without gaps: spaces that a tokenizer leaves out of a token's offsets belong to it."""
    closed, last = [], 0
    for start, end in offsets:
        closed.append((min(start, last), end))
        last = max(last, end)
    return closed


def _by_itself(backend: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids and places of a completion encoded alone: behind a line break that is taken off again, so that nothing is
    put in front of it as in front of a whole text."""
    line, behind = (backend.encode(part, add_special_tokens=False) for part in ("\n", "\n" + text))
    size = len(line.ids)
    if behind.ids[:size] == line.ids:
        return behind.ids[size:], [(start - 1, end - 1) for start, end in behind.offsets[size:]]
    alone = backend.encode(text, add_special_tokens=False)
    return alone.ids, alone.offsets


def _parts_of_completion(item: Framed, places: Sequence[tuple[int, int]], stop: int, mark: str) -> list[int]:
    """What the tokens of a completion are part of, by where they stand; each turn is learned with its end, and with a
    token in which it begins, as by the mask of `transformers`."""
    spans = [(first, last + len(mark) * item.ends[0][0].startswith(mark, last)) for first, last in item.turns]
    spoken = [not spans or any(a <= start < b or start < a < end for a, b in spans) for start, end in places]
    return [
        OTHERS if not learned else CONTENT if start < stop else FRAME
        for (start, _), learned in zip(places, spoken, strict=True)
    ]


def _parts_of_prompt(item: Framed, offsets: Iterable[tuple[int, int]]) -> list[int]:
    """What each token of a prompt is part of: content only if all of it is."""
    slots, parts = list(item.contents or ()), []
    for start, end in offsets:
        while slots and slots[0][1] < end:
            slots.pop(0)
        inside = slots and slots[0][0] <= start < end <= slots[0][1]
        parts.append(slots[0][2] if inside else FRAME)
    return parts
