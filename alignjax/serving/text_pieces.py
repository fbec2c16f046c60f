"""Tokens become text as they come: whole characters only, and nothing behind a stop."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from alignjax.data import Tokenizer

UNKNOWN = "\ufffd"  # what bytes that are no character, or not yet one, are decoded to
LONGEST_SPACED = 3  # of what stands behind a space that may still be taken out, the space with it: " n'" of " n't"
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class TextPieces:
    """Text of a sequence of tokens, a piece at a time. What the pieces say together is what the tokens say together.

    A token may hold a part of a character; the piece that completes it has it whole. Decoders look at the neighbors of
    a token (for spaces), so each piece is the difference that its tokens make behind those before.

    Args:
        tokenizer: The tokenizer.
        before: Tokens in front of the text, if the text is read as their continuation.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer, self.ids = tokenizer, list(before)
        self.start, self.said = 0, len(self.ids)

    def push(self, token: int) -> str:
        """Returns the text that is complete with this token; often a word, sometimes nothing."""
        self.ids.append(token)
        return self._piece(whole=True)

    def close(self) -> str:
        """Returns what is left at the end: bytes that did not become a character."""
        return self._piece(whole=False)

    def _piece(self, whole: bool) -> str:
        # Both texts start at the same token, so whatever the decoder does at a beginning is in both.
        earlier = self.tokenizer.decode(self.ids[self.start : self.said])
        text = self.tokenizer.decode(self.ids[self.start :])
        if whole and (text.endswith(UNKNOWN) or (self.tokenizer.cleans_up and " " in text[-LONGEST_SPACED:])):
            return ""
        if text != earlier:  # else a token without text, a mark of the template's: nothing to stand on
            self.start = self.said
        self.said = len(self.ids)
        return text[len(earlier) :]


class StopTexts:
    """Text up to the first of some stops. Its end is held back while it may be the beginning of one.

    Args:
        stops: Texts, none empty; the first of them that appears ends the text, and is not part of it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held = tuple(stops), ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Returns the text that is certain now, and whether a stop has appeared."""
        if not self.stops:
            return piece, False
        text = self.held + piece
        if places := [place for stop in self.stops if (place := text.find(stop)) >= 0]:
            self.held = ""
            return text[: min(places)], True
        keep = max(
            (size for stop in self.stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def close(self) -> str:
        """Returns what was held back and began no stop after all."""
        held, self.held = self.held, ""
        return held


@functools.cache
def _bytes_by_character() -> dict[str, int]:
    """The bytes that the characters of a byte-level vocabulary stand for: printable ones for themselves, the others in
    the order of their numbers for those from 256 on."""
    themselves = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [number for number in range(256) if number not in themselves]
    return {chr(n): n for n in themselves} | {chr(256 + place): n for place, n in enumerate(others)}


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """Returns the bytes of a token as they stand in a text; those of its name, if it is a special one.

    Args:
        tokenizer: The tokenizer.
        token: Its id.
    """
    name = tokenizer.backend.id_to_token(token)
    if name is None:  # a row of the model that the tokenizer has no token for
        return b""
    if token in tokenizer.backend.get_added_tokens_decoder() or token in tokenizer.hidden:
        return name.encode()
    if byte := _BYTE.fullmatch(name):
        return bytes([int(byte[1], 16)])
    if "ByteLevel" in type(tokenizer.backend.decoder).__name__ and all(c in _bytes_by_character() for c in name):
        return bytes(map(_bytes_by_character().get, name))  # type: ignore[arg-type]
    anchor = [token, token]  # the second is what it is inside of a text
    first, both = tokenizer.backend.decode(anchor[:1]), tokenizer.backend.decode(anchor)
    return both[len(first) :].encode()


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""Returns a token as text; one that is no whole characters as its bytes, `bytes:\xe2\x9c`.

    Args:
        tokenizer: The tokenizer.
        token: Its id.
    """
    raw = token_bytes(tokenizer, token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
