"""Best-of-n: what it samples from, how far that is from the policy, and what it is worth, from more samples than n.

Of completions of equal reward each is as likely to be the best as it was to be drawn. float64 NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaln

from alignjax.config import DataError
from alignjax.ranges import Count


def best_of_n(probability: Any, reward: Any, *, n: Count) -> np.ndarray:
    """Probabilities of best-of-n: pi(y) / pi(r = r_y) times pi(r <= r_y)^n - pi(r < r_y)^n (arXiv:2401.01879).

    Args:
        probability: The policy's, of all completions [..,K].
        reward: Theirs [..,K].
        n: Samples of which the best is kept.

    Returns:
        Probabilities [..,K].
    """
    p, r = np.broadcast_arrays(np.asarray(probability, np.float64), np.asarray(reward, np.float64))
    below, upto = _around(r, p)
    tied = upto - below
    return np.where(tied > 0, p / np.where(tied > 0, tied, 1), 0) * (upto**n - below**n)


def best_of_n_kl(probability: Any, reward: Any, *, n: Count) -> np.ndarray:
    """KL(best-of-n || policy) in nats, exactly, by enumeration.

    Args:
        probability: The policy's, of all completions [..,K].
        reward: Theirs [..,K].
        n: Samples of which the best is kept.

    Returns:
        The KL [..].
    """
    best = best_of_n(probability, reward, n=n)
    ratio = np.where(best > 0, best, 1) / np.where(best > 0, np.asarray(probability, np.float64), 1)
    return np.sum(best * np.log(ratio), axis=-1)


def best_of_n_kl_bound(n: Count) -> float:
    """The most that KL(best-of-n || policy) can be: log n - (n - 1) / n nats (arXiv:2401.01879), which it comes to
    where no completion is likely and none are tied.

    Args:
        n: Samples of which the best is kept.
    """
    return float(np.log(n) - (n - 1) / n)


def best_of_n_value(reward: Any, *, n: Count, value: Any = None) -> np.ndarray:
    """The value of best-of-n of each prompt, unbiased, from N >= n samples: the mean over all sets of n of what their
    best by `reward` is worth (as for mean rewards in arXiv:2112.09332).

    The mean reward, or with values in [0, 1] a win rate: give how often each sample beats the opponent. One number per
    prompt, as `intervals.interval` takes them.

    Args:
        reward: What picks, of N samples of each prompt [B,N].
        n: Samples of which the best is kept.
        value: What is measured [B,N]; None: the reward itself.

    Returns:
        Estimates [B].

    Raises:
        DataError: With fewer than n samples.
    """
    r = np.asarray(reward, np.float64)
    if r.shape[-1] < n:
        raise DataError(f"best-of-{n} from {r.shape[-1]} samples of a prompt; draw at least {n}")
    below, upto = _around(r, np.ones_like(r))

    def sets(size: np.ndarray) -> np.ndarray:
        """The share of all sets of n that lie within `size` of the samples."""
        enough = np.maximum(size, n)
        logs = gammaln(enough + 1) - gammaln(enough - n + 1) - gammaln(r.shape[-1] + 1) + gammaln(r.shape[-1] - n + 1)
        return np.where(size >= n, np.exp(logs), 0)

    share = (sets(upto) - sets(below)) / (upto - below)
    return np.sum(share * (r if value is None else np.asarray(value, np.float64)), axis=-1)


def _around(reward: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mass of smaller rewards, and of those that are no larger, for every completion [..,K]."""
    rows = zip(reward.reshape(-1, reward.shape[-1]), mass.reshape(-1, mass.shape[-1]), strict=True)
    below, upto = [], []
    for r, p in rows:
        order = np.argsort(r)
        running = np.concatenate([[0.0], np.cumsum(p[order])])
        below.append(running[np.searchsorted(r[order], r, "left")])
        upto.append(running[np.searchsorted(r[order], r, "right")])
    return np.reshape(below, reward.shape), np.reshape(upto, reward.shape)
