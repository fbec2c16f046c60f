"""What is said of curves of gold over d = sqrt(KL): published forms fitted by least squares, with a plain one beside
them, where a curve peaks and what is lost from there to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Run = Mapping[str, Sequence[float]]  # {"kl", "gold", "proxy", "entropy"} of a policy's points, in order, SFT first
Points = tuple[np.ndarray, np.ndarray]  # d and gold
WIDTH = 0.2  # of a bin of d: a run that rests far out would else be weighed by how long it rests there
BENT = np.geomspace(0.02, 20, 120)  # rates at which the plain form may level out
DRAWS = 2000
# Of best-of-n and of RL (arXiv:2210.10760), and of direct losses as of RL (arXiv:2406.02900).
PUBLISHED = {"quadratic": "d (a - b d)", "logarithmic": "d (a - b log d)"}
FORMS = {**PUBLISHED, "saturating": "a (1 - exp(-b d))"}


def binned(run: Run) -> Points:
    """The means of d and gold over the points of a run in every bin of d, SFT left out."""
    d, gold = np.sqrt(np.maximum(run["kl"], 0))[1:], np.asarray(run["gold"], float)[1:]
    bins = (d / WIDTH).astype(int)
    means = [(d[bins == each].mean(), gold[bins == each].mean()) for each in np.unique(bins[d > 0])]
    return np.array(means)[:, 0], np.array(means)[:, 1]


def columns(form: str, d: np.ndarray) -> np.ndarray:
    """What a and b multiply in a published form [..,2]."""
    return np.stack([d, -(d**2) if form == "quadratic" else -d * np.log(d)], axis=-1)


def fitted(form: str, d: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The coefficients a, b of least squares."""
    if form in PUBLISHED:
        return np.linalg.lstsq(columns(form, d), gold, rcond=None)[0]
    shape = 1 - np.exp(-BENT[:, None] * d)
    height = shape @ gold / (shape**2).sum(-1)
    best = ((gold - height[:, None] * shape) ** 2).sum(-1).argmin()
    return np.array([height[best], BENT[best]])


def predicted(form: str, coefficients: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The gold score that a form gives."""
    a, b = coefficients
    return columns(form, d) @ coefficients if form in PUBLISHED else a * (1 - np.exp(-b * d))


def left_out(form: str, runs: Sequence[Points]) -> float:
    """The root mean square of what a form misses in a run, fitted to the points of all others."""
    misses = []
    for number, (d, gold) in enumerate(runs):
        rest = [
            np.concatenate(each)
            for each in zip(*(run for other, run in enumerate(runs) if other != number), strict=True)
        ]
        misses.append(gold - predicted(form, fitted(form, *rest), d))
    return float(np.sqrt(np.mean(np.concatenate(misses) ** 2)))


def summary(form: str, runs: Sequence[Points]) -> dict[str, Any]:
    """A form fitted to the points of all runs: coefficients with percentile intervals over resampled runs, R^2, and
    what it misses in runs that it has not seen; None for the last with one run."""
    d, gold = (np.concatenate(each) for each in zip(*runs, strict=True))
    best = fitted(form, d, gold)
    draw = np.random.default_rng(0)
    again = []
    for pick in draw.integers(len(runs), size=(DRAWS, len(runs))) if form in PUBLISHED else []:
        again.append(fitted(form, *(np.concatenate(each) for each in zip(*(runs[i] for i in pick), strict=True))))
    low, high = np.percentile(again, [2.5, 97.5], axis=0) if again else (best * np.nan, best * np.nan)
    error = gold - predicted(form, best, d)
    return {
        "coefficients": best.tolist(), "low": low.tolist(), "high": high.tolist(),
        "explained": float(1 - (error**2).sum() / ((gold - gold.mean()) ** 2).sum()),
        "missed": left_out(form, runs) if len(runs) > 1 else None,
    }  # fmt: skip


def peaks(runs: Sequence[Run]) -> list[dict[str, float]]:
    """For every run the point at which the mean of the *other* runs peaks: its gold and KL there, and what is lost from
    there to the end. A run's own highest point would be above its end by chance alone."""
    gold = np.array([run["gold"] for run in runs])
    kl = np.array([run["kl"] for run in runs])
    found = []
    for number, own in enumerate(gold):
        others = np.delete(gold, number, axis=0) if len(gold) > 1 else gold
        best = int(others.mean(0).argmax())
        found.append({"gold": own[best], "kl": kl[number, best], "lost": own[best] - own[-1]})
    return found


def gold_at(run: Run, nats: float) -> float | None:
    """The gold score where a run first comes to a KL, along straight lines between its points; None if it does not."""
    kl, gold = run["kl"], run["gold"]
    for before, after in zip(range(len(kl)), range(1, len(kl)), strict=False):
        if kl[before] < nats <= kl[after]:
            share = (nats - kl[before]) / (kl[after] - kl[before])
            return float(gold[before] + share * (gold[after] - gold[before]))
    return None
