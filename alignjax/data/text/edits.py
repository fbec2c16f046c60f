"""Masks of the tokens that an edit between two texts touched, by a script over token ids or over lines of them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from difflib import SequenceMatcher

import numpy as np

from alignjax.config import ConfigError


def _changed(first: Sequence[Hashable], second: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """(bool [len first], bool [len second]): what the script replaces or deletes, and what it inserts instead."""
    sides = np.zeros(len(first), bool), np.zeros(len(second), bool)
    # Without autojunk, which takes what is frequent in long sequences for noise.
    for kind, start, end, other_start, other_end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if kind != "equal":
            sides[0][start:end], sides[1][other_start:other_end] = True, True
    return sides


def edit_masks(original: Sequence[int], revised: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Marks what a revision changed, token by token.

    The script is difflib's, of longest common runs, which reads like an edit but is not always the shortest one. Equal
    texts have no edits; against an empty text all is edited.

    Args:
        original: Token ids.
        revised: Token ids.

    Returns:
        (bool [len original], bool [len revised]): tokens of the original that the revision deleted or replaced, tokens
        of the revision that are new.
    """
    return _changed([int(token) for token in original], [int(token) for token in revised])


def lines_of(tokens: Sequence[int], newlines: Collection[int]) -> list[tuple[int, ...]]:
    """Returns runs of tokens, each up to and with a token of `newlines`; a last line may be without one.

    Args:
        tokens: Token ids [T].
        newlines: The ids whose text ends a line.
    """
    lines: list[tuple[int, ...]] = []
    start = 0
    for end, token in enumerate(tokens, 1):
        if int(token) in newlines or end == len(tokens):
            lines.append(tuple(int(t) for t in tokens[start:end]))
            start = end
    return lines


def line_edit_masks(
    original: Sequence[int], revised: Sequence[int], newlines: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Marks what a revision changed by whole lines: every token of each line that the other side lacks.

    Args:
        original: Token ids.
        revised: Token ids.
        newlines: Ids of the tokens that contain a line break and so end a line. A token that also holds the start of
            the next line (an indent) belongs to the line that it ends.

    Returns:
        Masks as of `edit_masks`.

    Raises:
        ConfigError: There are no such ids: a tokenizer that cannot write a line break has no lines.
    """
    if not newlines:
        raise ConfigError("no token of this tokenizer holds a line break; compare token by token instead")
    sides = lines_of(original, newlines), lines_of(revised, newlines)
    first, second = (
        np.repeat(changed, np.asarray([len(line) for line in lines], int))
        for changed, lines in zip(_changed(*sides), sides, strict=True)
    )
    return first, second
