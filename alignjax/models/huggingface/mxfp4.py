"""Matrices of experts in MXFP4, as gpt-oss is published: read as the numbers that they stand for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# A code of 4 bits: a sign, two bits of exponent, one of mantissa (OCP Microscaling Formats 1.0, table of FP4 E2M1).
_HALF = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_VALUES = np.concatenate([_HALF, -_HALF])
BLOCK = 32  # numbers that share an exponent
PARTS = ("_blocks", "_scales")


def shape_of(blocks: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...] | None:
    """Tells the shape of what two tensors stand for.

    Args:
        blocks: The shape of the codes, two in a byte, [E,F,D/32,16].
        scales: That of the exponents, [E,F,D/32].

    Returns:
        [E,D,F], or None if they do not go together.
    """
    if len(blocks) != 4 or blocks[:3] != scales or blocks[3] != BLOCK // 2:
        return None
    experts, outputs, groups, _ = blocks
    return experts, groups * BLOCK, outputs


@dataclasses.dataclass(frozen=True)
class View:
    """A matrix for each expert, [E,D,F], of which an index reads the experts and outputs that it names alone."""

    blocks: Any
    scales: Any

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        experts, inputs, outputs = index
        codes = np.asarray(self.blocks[experts, outputs])
        exponents = np.asarray(self.scales[experts, outputs]).astype(np.int32) - 127
        values = _VALUES[np.stack([codes & 15, codes >> 4], axis=-1)]  # the low half of a byte comes first
        values = np.ldexp(values.reshape(*codes.shape[:-1], BLOCK), exponents[..., None])
        return values.reshape(*codes.shape[:2], -1)[..., inputs].swapaxes(1, 2)
