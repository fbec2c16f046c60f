"""What rows of a file hold, counted as they pass: lengths, rows that stand twice, ties, answers; and rows written with
marks around what is learned of them."""

from __future__ import annotations

import array
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from alignjax.data.datasets.framing import OTHERS, Framed, Tokens, encoded
from alignjax.data.datasets.records import Record, ended
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.data.text.words import nfc

SHOWN = 10  # lines that are named
LEARNED = "⟦", "⟧"  # around what is learned


class Piece(NamedTuple):
    """A part of a row as the model sees it: its text, and whether it is learned."""

    text: str
    learned: bool


@dataclasses.dataclass
class RowSummary:
    """A count of records that grows as they pass; of each it keeps some numbers and never its text.

    Args:
        tokenizer: What lengths are counted in; None for bytes of UTF-8.
        frame: The texts around every prompt that is no conversation.
        records: How many there are.
        conversations: How many of them a chat template wrote.
        repeated: How many are the same as one before, prompt and completions.
        repeats: The numbers of the first of them.
        echoes: How many have a prompt of text with which all completions begin.
        ties: How many hold a pair or two completions of a list that are as good as each other.
        numbers: How many have an answer that is a number.
        texts: How many have another answer.
        prompt_lengths: The length of each prompt, frame included.
        completion_lengths: That of each completion, its end included.
    """

    tokenizer: Tokenizer | None = None
    frame: tuple[str, str] = ("", "")
    records: int = 0
    conversations: int = 0
    repeated: int = 0
    repeats: list[str] = dataclasses.field(default_factory=list)
    echoes: int = 0
    ties: int = 0
    numbers: int = 0
    texts: int = 0
    prompt_lengths: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))
    completion_lengths: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))
    _known: set[bytes] = dataclasses.field(default_factory=set)
    _prompts: set[bytes] = dataclasses.field(default_factory=set)

    @property
    def prompts(self) -> int:
        """The number of different prompts."""
        return len(self._prompts)

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return "bytes" if self.tokenizer is None else "tokens"

    def add(self, record: Record) -> None:
        """Counts a record."""
        self.records += 1
        self.conversations += bool(record.framed)
        self._prompts.add(_digest(record.prompt))
        whole = _digest(json.dumps([record.prompt, *record.completions]))
        if whole in self._known:
            self.repeated += 1
            if len(self.repeats) < SHOWN:
                self.repeats.append(
                    ":".join(str(record.meta[name]) for name in ("file", "line") if name in record.meta)
                )
        self._known.add(whole)
        asked = "" if record.framed else record.prompt.strip()
        self.echoes += bool(asked and record.completions) and all(
            text.lstrip().startswith(asked) for text in record.completions
        )
        self.ties += record.preference == 0.5 or (1 < len(record.scores) != len(set(record.scores)))
        self.numbers += not math.isnan(record.answer)
        self.texts += math.isnan(record.answer) and "answer" in record.meta
        prompt, completions = self.pieces(record)
        self.prompt_lengths.append(_size(prompt))
        self.completion_lengths.extend(map(_size, completions))

    def pieces(self, record: Record) -> tuple[list[Piece], list[list[Piece]]]:
        """Returns a record as the model sees it: its prompt and each completion in pieces, tokens where there is a
        tokenizer and texts where there is none.

        Args:
            record: The record.
        """
        if self.tokenizer is None:
            return _as_texts(record, self.frame)
        return _as_tokens(record, self.frame, self.tokenizer)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(nfc(text).encode(), digest_size=8).digest()


def _size(pieces: Sequence[Piece]) -> int:
    """The length of a prompt or completion: one for a token, and its bytes for a text, which is the only one alone."""
    return sum(len(piece.text.encode()) for piece in pieces) if isinstance(pieces, _Texts) else len(pieces)


class _Texts(list[Piece]):
    """Pieces that are texts and no tokens."""


def _as_texts(record: Record, frame: tuple[str, str]) -> tuple[list[Piece], list[list[Piece]]]:
    if not record.framed:
        prompt = _Texts([Piece(frame[0] + record.prompt + frame[1], False)])
        return prompt, [_Texts([Piece(text, True)]) for text in record.completions]
    (item, *others) = record.framed
    ends = [_spans(item, k) for k in range(len(item.ends))]
    for other in others:
        ends += [_spans(other, k) for k in range(len(other.ends))] + [_Texts([Piece(other.prompt, False)])]
    return _Texts([Piece(item.prompt, False)]), ends


def _spans(item: Framed, number: int) -> list[Piece]:
    """A completion that a template wrote, cut where what is learned begins and ends."""
    text, stop = item.ends[number]
    pieces, last = _Texts(), 0
    for start, end in item.turns or ((0, stop),):
        pieces += [Piece(text[last:start], False)] if start > last else []
        pieces.append(Piece(text[start:end], True))
        last = end
    return pieces


def _as_tokens(record: Record, frame: tuple[str, str], tokenizer: Tokenizer) -> tuple[list[Piece], list[list[Piece]]]:
    if record.framed:
        rows, _ = encoded(record.framed, tokenizer)
        (prompt, completions), others = rows[0], [each for other, ends in rows[1:] for each in (*ends, other)]
        return list(_tokens(prompt, tokenizer, False)), [list(_learned(c, tokenizer)) for c in (*completions, *others)]
    opening = [] if tokenizer.opening is None else [tokenizer.opening]
    before, asked, behind = (tokenizer.encode(text) for text in (frame[0], record.prompt, frame[1]))
    ids = [*opening, *before, *asked, *behind]
    answers = [Tokens(tokenizer.encode(text)) for text in record.completions]
    return list(_tokens(Tokens(ids), tokenizer, False)), [list(_learned(each, tokenizer)) for each in answers]


def _tokens(tokens: Tokens, tokenizer: Tokenizer, learned: bool) -> Iterator[Piece]:
    for number in tokens.ids:
        yield Piece(_spelled(int(number), tokenizer), learned)


def _learned(tokens: Tokens, tokenizer: Tokenizer) -> Iterator[Piece]:
    parts = list(tokens.parts) or [None] * len(tokens.ids)
    for place, number in enumerate(ended(tokens, tokenizer)):
        yield Piece(_spelled(int(number), tokenizer), place >= len(parts) or parts[place] != OTHERS)


def _spelled(number: int, tokenizer: Tokenizer) -> str:
    """A token as text: what it decodes to, and a special one by its name."""
    return tokenizer.decode([number]) or str(tokenizer.backend.id_to_token(number))


def marked(pieces: Iterable[Piece], between: str = "") -> str:
    """Returns pieces as one text, with LEARNED around what is learned.

    Args:
        pieces: The pieces.
        between: What is written between them.
    """
    text, inside = "", False
    for number, piece in enumerate(pieces):
        if piece.learned != inside:
            text += LEARNED[not piece.learned]
            inside = piece.learned
        elif number:
            text += between
        text += piece.text
    return text + (LEARNED[1] if inside else "")
