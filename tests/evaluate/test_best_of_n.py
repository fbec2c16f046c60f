"""Best-of-n against all ways in which n samples can fall."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from alignjax.config import DataError
from alignjax.evaluate.best_of_n import best_of_n, best_of_n_kl, best_of_n_kl_bound, best_of_n_value

P = np.array([0.1, 0.35, 0.2, 0.05, 0.3])
REWARD = np.array([0.5, -1.0, 2.0, 0.5, 0.5])  # three are tied
WORTH = np.array([1.0, 0.2, 0.4, 0.9, 0.0])


def by_hand(n: int) -> np.ndarray:
    """Every n samples in every order, the first of the best being kept."""
    found = np.zeros(len(P))
    for drawn in itertools.product(range(len(P)), repeat=n):
        found[max(drawn, key=lambda k: REWARD[k])] += P[list(drawn)].prod()  # max keeps the first
    return found


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_distribution_is_that_of_all_draws(n: int) -> None:
    np.testing.assert_allclose(best_of_n(P, REWARD, n=n), by_hand(n), rtol=1e-12)
    both = best_of_n(np.stack([P, P[::-1]]), np.stack([REWARD, REWARD[::-1]]), n=n)
    np.testing.assert_allclose(both, [by_hand(n), by_hand(n)[::-1]], rtol=1e-12)


def test_its_kl_is_within_the_bound_and_comes_to_it() -> None:
    """Below it where ties and likely completions are; equal for very many of which none is likely."""
    for n in (2, 5, 50):
        exact = best_of_n_kl(P, REWARD, n=n)
        best = best_of_n(P, REWARD, n=n)
        assert exact == pytest.approx(sum(q * math.log(q / p) for p, q in zip(P, best, strict=True) if q > 0))
        assert 0 < exact < best_of_n_kl_bound(n) - 0.01
        many = best_of_n_kl(np.full(20_000, 1 / 20_000), np.random.default_rng(0).normal(size=20_000), n=n)
        assert best_of_n_kl_bound(n) - 1e-3 < many <= best_of_n_kl_bound(n)
    assert best_of_n_kl_bound(1) == 0
    assert best_of_n_kl(P, REWARD, n=1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_estimate_is_unbiased(n: int) -> None:
    """Its mean over all ways to draw N = 5 samples, each by its probability, is the exact value, with ties; of the
    reward and of something else. The naive estimate, the best of all five, is not."""
    draws = np.array(list(itertools.product(range(len(P)), repeat=5)))
    chance = P[draws].prod(-1)
    for value in (None, WORTH):
        estimate = best_of_n_value(REWARD[draws], n=n, value=None if value is None else value[draws])
        exact = best_of_n(P, REWARD, n=n) @ (REWARD if value is None else value)
        assert chance @ estimate == pytest.approx(exact, rel=1e-12)
    if n < 5:
        assert abs(chance @ REWARD[draws].max(-1) - best_of_n(P, REWARD, n=n) @ REWARD) > 0.01


def test_fewer_samples_than_n_are_refused() -> None:
    with pytest.raises(DataError, match="best-of-8 from 5 samples"):
        best_of_n_value(np.zeros((2, 5)), n=8)
