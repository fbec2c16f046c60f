"""Confidence intervals over prompts by the bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

Prompts are resampled with replacement, as counts: `resampled(n, draws, seed)` is a matrix [draws, n] of how often each
prompt was drawn, so that the resampled sums of any number of quantities are one matrix product, and quantities measured
on the same prompts share their resamples (their intervals are then comparable, and differences are paired).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from alignjax.config import DataError as DataError
from alignjax.ranges import Count, Seed

Interval = dict[str, Any]  # {"mean", "low", "high": float, "n": int}
CHUNK = 2**22  # counts held at a time: draws are processed in pieces, so that 10,000 prompts do not cost gigabytes


def as_column(values: Any, name: str) -> np.ndarray:
    """Convert `values` to a float64 vector [n] of at least one finite number.

    Args:
        values: One number per prompt.
        name: What the numbers are, for the error.

    Raises:
        DataError: For another shape, no number, or numbers that are not finite.
    """
    column = np.asarray(values, np.float64)
    if column.ndim != 1 or not column.size:
        raise DataError(
            f"{name} has shape {list(column.shape)}; it must be one number per prompt, for at least one prompt"
        )
    if not np.isfinite(column).all():
        raise DataError(
            f"{name} holds {int((~np.isfinite(column)).sum())} of {column.size} values that are NaN or infinite; "
            "drop those prompts or find out where they come from"
        )
    return column


def resampled(columns: np.ndarray, *, draws: Count, seed: Seed) -> np.ndarray:
    """Average columns over bootstrap resamples of the prompts. The resamples depend on (n, draws, seed) only, never on
    the values.

    Args:
        columns: [n, K], what was measured on each of n prompts.
        draws: Number of resamples.
        seed: Their seed.

    Returns:
        Means [draws, K].

    Raises:
        DataError: For fewer than one draw.
    """
    if draws < 1:
        raise DataError(f"draws is {draws}; it must be at least 1 (a thousand or more for a 95 % interval)")
    n = len(columns)
    counts = _cached_counts(n, draws, seed) if n * draws <= CHUNK else _counts(n, draws, seed)
    return np.concatenate([piece @ columns / n for piece in counts])


def _counts(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Count how often each prompt was drawn, [draws, n] in pieces, as float64 for the products to come."""
    generator, step = np.random.default_rng(seed), max(1, CHUNK // n)
    for start in range(0, draws, step):
        yield generator.multinomial(n, np.full(n, 1 / n), size=min(step, draws - start)).astype(np.float64)


@functools.lru_cache(maxsize=2)
def _cached_counts(n: int, draws: int, seed: int) -> tuple[np.ndarray, ...]:
    """Draw `_counts` once: a tournament asks for the same resamples for every pair of its players."""
    return tuple(_counts(n, draws, seed))


def interval(
    columns: Any,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    draws: Count = 2000,
    seed: Seed = 0,
) -> Interval:
    """Compute a statistic of means over prompts, with its 95 % percentile interval of the bootstrap.

    Args:
        columns: [n] or [n, K], what was measured on each of n prompts.
        statistic: Function of the K means [.., K] -> [..], by default the first of them (a ratio of means, a
            correlation from moments, ... are other choices).
        draws: Resamples of the bootstrap.
        seed: Seed of the resamples.

    Returns:
        {"mean", "low", "high", "n"}. With one prompt there is nothing to resample, and low = high = mean.

    Raises:
        DataError: For values that are not finite.
    """
    # Whole prompts are resampled, and the statistic is taken of each resample's means: ratios and correlations then
    # carry the noise of numerator and denominator together.
    columns = np.asarray(columns, np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    for index in range(columns.shape[1]):
        as_column(columns[:, index], f"column {index}")
    of_means = statistic or (lambda means: means[..., 0])
    value = float(of_means(columns.mean(0)))
    replicates = of_means(resampled(columns, draws=draws, seed=seed))
    low, high = np.quantile(replicates, [0.025, 0.975])
    return {"mean": value, "low": float(low), "high": float(high), "n": len(columns)}
