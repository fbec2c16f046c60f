"""Weights of stale samples, on completions that can be listed: in expectation they are samples of the policy."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError, fn
from alignjax.train.step import make_experience
from alignjax.types import Algorithm, Batch, Context
from tests.stages.test_critic import EVERY, VALID, logps_of
from tests.support.tiny import run

KEY = jax.random.key(0)
TIMES = np.array([5, 1, 2, 2, 3, 2, 1])  # how often of 16 times the sampler writes each completion
DRAWN = np.repeat(np.arange(7), TIMES).reshape(4, 4)


def sampler_logps(times: np.ndarray) -> np.ndarray:
    """Log-probs [7,2] of the tokens of a sampler that writes completions so often; -inf for what it never writes."""
    first = np.array([times[0], times[1:4].sum(), times[4:].sum()]) / times.sum()
    second = np.concatenate([times[1:4] / max(times[1:4].sum(), 1), times[4:] / max(times[4:].sum(), 1)])
    with np.errstate(divide="ignore"):
        tokens = np.array([[first[row[0]], 1.0 if len(row) == 1 else second[k - 1]] for k, row in enumerate(EVERY)])
        return np.log(tokens)


@pytest.fixture
def policy(float64: None) -> np.ndarray:
    return np.asarray(logps_of(np.random.default_rng(8).normal(size=(3, 3))))


def batch_of(policy: np.ndarray, sampler: np.ndarray, drawn: np.ndarray = DRAWN) -> Batch:
    valid = VALID[drawn]
    noise = np.where(valid, 0, np.nan)  # nothing is read where nothing counts
    logps = {"policy": policy[drawn] + noise, "sampler": sampler[drawn] + noise}
    return Batch(valid=valid, mask=valid.astype(float), logps=logps)


def test_stale_samples_are_fresh_ones_in_expectation(policy: np.ndarray) -> None:
    """The mean of w f over what the sampler draws is E_policy[f], for whole completions; by tokens it is not."""
    value = np.random.default_rng(2).normal(size=7)
    probability = np.exp(policy.sum(-1))
    fresh = np.sum(probability * value)
    batch = batch_of(policy, sampler_logps(TIMES))
    made, _ = run(stages.importance, Context(), batch, KEY, mode="sequence_truncate", cap=np.inf)
    weight = made.completions["importance"]
    assert weight.shape == (4, 4, 2)
    np.testing.assert_array_equal(weight[..., 0], weight[..., 1])
    np.testing.assert_allclose(np.mean(weight[..., 0] * value[DRAWN]), fresh, rtol=1e-12)
    tokens, _ = run(stages.importance, Context(), batch, KEY, mode="token_truncate", cap=np.inf)
    by_token = tokens.completions["importance"]
    np.testing.assert_allclose(np.prod(by_token, -1, where=VALID[DRAWN]), weight[..., 0], rtol=1e-12)
    assert abs(np.mean(by_token[..., 0] * value[DRAWN]) - fresh) > 0.01


def test_of_a_truncated_sampler_the_weights_are_exact_on_what_it_can_draw(policy: np.ndarray) -> None:
    """The mean weight is the policy's mass there, and nothing else is lost."""
    times = np.array([4, 0, 3, 1, 0, 0, 0])
    drawn = np.repeat(np.arange(7), times).reshape(2, 4)
    value, probability = np.random.default_rng(3).normal(size=7), np.exp(policy.sum(-1))
    made, _ = run(
        stages.importance, Context(), batch_of(policy, sampler_logps(times), drawn), KEY,
        mode="sequence_truncate", cap=np.inf,
    )  # fmt: skip
    weight, possible = made.completions["importance"][..., 0], times > 0
    np.testing.assert_allclose(weight.mean(), probability[possible].sum(), rtol=1e-12)
    np.testing.assert_allclose(np.mean(weight * value[drawn]), np.sum((probability * value)[possible]), rtol=1e-12)


def test_how_stale_samples_are(policy: np.ndarray) -> None:
    """The divergences between the two distributions, which can be written down here."""
    _, metrics = run(stages.importance, Context(), batch_of(policy, sampler_logps(TIMES)), KEY)
    p, q = np.exp(policy.sum(-1)), TIMES / 16
    measured = {name: float(mean.value()) for name, mean in metrics.items()}
    np.testing.assert_allclose(measured["chi_square"], np.sum(p**2 / q) - 1, rtol=1e-6)
    np.testing.assert_allclose(measured["effective"], 1 / np.sum(p**2 / q), rtol=1e-6)
    np.testing.assert_allclose(measured["kl_from_sampler"], np.sum(p * np.log(p / q)), rtol=1e-6)
    np.testing.assert_allclose(measured["kl_to_sampler"], np.sum(q * np.log(q / p)), rtol=1e-6)
    none = run(stages.importance, Context(), batch_of(policy, policy), KEY)[1]
    same = {name: float(mean.value()) for name, mean in none.items()}
    assert same == {"chi_square": 0, "effective": 1, "kl_from_sampler": 0, "kl_to_sampler": 0, "cut": 0}


def test_weights_are_cut_off_or_left_out(policy: np.ndarray) -> None:
    batch = batch_of(policy, sampler_logps(TIMES))
    weight = np.exp(policy.sum(-1)) / (TIMES / 16)
    cap, floor = np.sort(weight)[-2], np.sort(weight)[1]
    outside = ((weight > cap) | (weight < floor))[DRAWN]
    bounds = {"cap": float(cap * 1.001), "floor": float(floor * 0.999)}
    for mode, target in (
        ("sequence_mask", np.where(outside, 0, weight[DRAWN])),
        ("sequence_truncate", np.clip(weight[DRAWN], bounds["floor"], bounds["cap"])),
    ):
        made, metrics = run(stages.importance, Context(), batch, KEY, mode=mode, **bounds)
        np.testing.assert_allclose(made.completions["importance"][..., 0], target, rtol=1e-6)
        np.testing.assert_allclose(metrics["cut"].value(), outside.mean(), rtol=1e-6)


def test_tokens_that_nobody_sampled_have_no_say(policy: np.ndarray) -> None:
    """A forced first token: of the whole only what the policy wrote is in the ratio."""
    batch = batch_of(policy, sampler_logps(TIMES))
    forced = batch.replace(mask=batch.mask * np.array([0.0, 1.0]))
    made, _ = run(stages.importance, Context(), forced, KEY, mode="sequence_truncate", cap=np.inf)
    ratio = np.exp(np.where(VALID, policy - sampler_logps(TIMES), 0))[..., 1]
    np.testing.assert_allclose(made.completions["importance"][..., 1], ratio[DRAWN], rtol=1e-6)


def refused(**logps: Any) -> Batch:
    one = np.ones((1, 1, 1))
    return Batch(valid=one != 0, logps=dict.fromkeys(logps, one))


def test_an_engines_truncated_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"an engine's, drawn from a truncated distribution.*set top_p=1"):
        stages.importance(Context(), refused(policy=0, engine=0), KEY)
    sizes = {"url": "http://nowhere", "model": "none", "n": 2, "max_tokens": 3}
    weigh = {"importance": fn(stages.importance, behaviour="engine")}
    make_experience(Algorithm({**stages.engine(**sizes), **weigh}))
    for how, words in (
        ({"temperature": 0.7}, "temperature=0.7, top_p=1"),
        ({"top_p": 0.9}, "temperature=1, top_p=0.9"),
    ):
        with pytest.raises(ConfigError, match=rf"{words}: set both to 1 in stages.engine"):
            make_experience(Algorithm({**stages.engine(**sizes, **how), **weigh}))
    with pytest.raises(ConfigError, match=r"mode='tokens_mask'\); it is one of .*'token_mask'"):
        stages.importance(Context(), refused(policy=0, sampler=0), KEY, mode="tokens_mask")
    with pytest.raises(ConfigError, match=r"importance needs batch.logps\[\"policy\"\]"):
        stages.importance(Context(), refused(sampler=0), KEY)
