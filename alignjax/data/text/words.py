"""Words of every script, and texts that are the same to a reader. What is learned stays as its file has it."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence

import regex

# Scripts that put no spaces between words. Where their words end only a dictionary knows, so each letter with its marks
# (a grapheme cluster) counts as one.
_UNSPACED = r"[\p{scx=Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_LETTER = r"[\p{L}\p{N}]"
_WORD = regex.compile(rf"(?={_LETTER})(?={_UNSPACED})\X|(?:(?!{_UNSPACED}){_LETTER}[\p{{M}}\u200c\u200d]*)+")
_PIECE = regex.compile(rf"(?={_UNSPACED})\X|(?:(?!{_UNSPACED})\X)+")
_STARTS_UNSPACED = regex.compile(_UNSPACED)


def nfc(text: str) -> str:
    """Returns a text in normal form C, in which an accented letter is one character wherever there is one for it."""
    return unicodedata.normalize("NFC", text)


def same_text(first: str, second: str) -> bool:
    """Says whether two texts are the same to a reader, whichever way their accents are written."""
    return first == second or nfc(first) == nfc(second)


def words_of(text: str) -> list[str]:
    """Returns the words of a text in order: runs of letters, their marks and digits, in normal form C and lower case;
    of scripts without spaces each letter."""
    return _WORD.findall(nfc(text).lower())


def pieces_of(text: str) -> list[str]:
    """Returns what stands between the spaces of a text, and of scripts without spaces each letter; see `joined`."""
    return [piece for chunk in text.split() for piece in _PIECE.findall(chunk)]


def joined(pieces: Sequence[str]) -> str:
    """Returns pieces of `pieces_of` as a text, with spaces where both neighbors are of scripts that have them."""
    text = "".join(pieces[:1])
    for left, right in itertools.pairwise(pieces):
        unspaced = _STARTS_UNSPACED.match(left) or _STARTS_UNSPACED.match(right)
        text += right if unspaced else f" {right}"
    return text
