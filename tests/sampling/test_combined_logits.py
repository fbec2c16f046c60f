"""What streams combine to: optima in closed form for one token, enumeration for strings, and the sampler itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from alignjax import algorithms, games, losses, roles, sampling, stages
from alignjax.config import ConfigError, fn
from alignjax.losses import divergences
from alignjax.sampling.behaviors import stream_names
from alignjax.types import Batch
from tests.sampling.test_generate import PROMPTS, STOP, TOKENS, completions
from tests.support.tiny import context_of, model, parameters, sgd

V = 7
NAMES = ("policy", "reference", "expert", "anti_expert", "plain", "reward", "draft")
LOGITS = {name: np.random.default_rng(seed).normal(size=(2, 3, V)) * 2 for seed, name in enumerate(NAMES)}
LOGPS = {name: log_softmax(value, axis=-1) for name, value in LOGITS.items()}
NOW = sampling.History(jnp.zeros((2, 3, 4), jnp.int32), {}, jnp.zeros((), jnp.int32))
MASKED = -1e29

_combined = jax.jit(lambda behaviour, logits: behaviour(logits, NOW))


def log_distribution(behaviour: Any, logits: Any = LOGITS, **hyper: Any) -> np.ndarray:
    """The log-probs that a behavior gives, normalized, float64; -inf where it never draws."""
    found = np.asarray(_combined(fn(behaviour, **hyper), logits), np.float64)
    return log_softmax(np.where(found < MASKED, -np.inf, found), axis=-1)


def constant(values: np.ndarray, tolerance: float = 1e-8) -> bool:
    """Whether numbers are the same for every token: of a gradient by probabilities, that they are a maximum's."""
    return bool(np.ptp(values, axis=-1).max() < tolerance)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0, 1.7])
def test_realigned_to_beta_over_lam(float64: None, lam: float) -> None:
    """A policy that is optimal at beta becomes the optimum at beta / lam; `tilted` is other code."""
    game = games.intransitive(np.array([0.1, 0.2, 0.3, 0.4]), 0.5, seed=1)
    reward = np.array([1.0, -0.3, 0.4, 0.0])
    streams = {"policy": np.log(games.tilted(game, reward, 0.5)) + 3, "reference": np.log(game.reference) - 1}
    expected = game.reference if lam == 0 else games.tilted(game, reward, 0.5 / lam)
    np.testing.assert_allclose(np.exp(log_distribution(sampling.dera, streams, lam=lam)), expected, rtol=1e-9)


def test_several_references_are_those_of_a_sum_of_kls(float64: None) -> None:
    """At the optimum of E r - sum_k b_k KL(pi || ref_k) the gradient is the same for all tokens; with b / lam too."""
    names, b = ("reference", "expert", "plain"), np.array([0.3, 0.5, 1.2])
    reward = np.random.default_rng(9).normal(size=V)
    mean = sum(part * LOGPS[name] for part, name in zip(b, names, strict=True)) / b.sum()
    streams = {**LOGITS, "policy": mean + reward / b.sum()}
    for lam in (0.6, 1.0, 2.5):
        found = log_distribution(sampling.dera, streams, lam=lam, references=names, weights=tuple(b))
        pulls = sum(part / lam * (found - LOGPS[name]) for part, name in zip(b, names, strict=True))
        assert constant(reward - pulls)
    assert not constant(reward - pulls * 1.01)


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_contrast_among_plausible_tokens(float64: None, alpha: float) -> None:
    found = log_distribution(sampling.contrastive, beta=0.7, alpha=alpha)
    plausible = np.exp(LOGPS["policy"]) >= alpha * np.exp(LOGPS["policy"]).max(-1, keepdims=True)
    np.testing.assert_array_equal(np.isfinite(found), plausible)
    assert plausible.all() == (alpha == 0)
    rest = found - LOGPS["policy"] - 0.7 * (LOGPS["policy"] - LOGPS["reference"])
    for row, on in zip(rest.reshape(-1, V), plausible.reshape(-1, V), strict=True):
        assert constant(row[on])
    none = log_distribution(sampling.contrastive, {**LOGITS, "reference": LOGITS["policy"]}, beta=2.0, alpha=0.0)
    np.testing.assert_allclose(none, LOGPS["policy"], atol=1e-9)


def test_proxy_tuning_moves_the_policy_as_the_expert_moved(float64: None) -> None:
    """Of a base that is the small model it makes the tuned small model, and of no tuning the base."""
    same = {**LOGITS, "policy": LOGITS["anti_expert"]}
    np.testing.assert_allclose(log_distribution(sampling.proxy_tuning, same), LOGPS["expert"], atol=1e-9)
    untuned = {**LOGITS, "expert": LOGITS["anti_expert"] + 2}
    np.testing.assert_allclose(log_distribution(sampling.proxy_tuning, untuned, alpha=1.6), LOGPS["policy"], atol=1e-9)
    half = log_distribution(sampling.proxy_tuning, alpha=0.5) - LOGPS["policy"]
    whole = log_distribution(sampling.proxy_tuning) - LOGPS["policy"]
    assert constant(2 * half - whole)


def test_linear_alignment_maximizes_what_it_says(float64: None) -> None:
    rho = 1.7
    found = log_distribution(sampling.linear_alignment, rho=rho, nucleus=1.0)
    advantage = LOGPS["policy"] - LOGPS["plain"]
    assert constant(advantage - (found - LOGPS["policy"]) / rho)
    cut = log_distribution(sampling.linear_alignment, rho=rho, nucleus=0.6, nucleus_temperature=0.5)
    nucleus = np.asarray(sampling.top_p(jnp.asarray(LOGITS["policy"] / 0.5), 0.6)) > MASKED
    np.testing.assert_array_equal(np.isfinite(cut), nucleus)
    wider = np.asarray(sampling.top_p(jnp.asarray(LOGITS["policy"]), 0.6)) > MASKED
    assert (wider != nucleus).any(), "the temperature of the nucleus matters here"
    np.testing.assert_allclose(cut, log_softmax(np.where(nucleus, found, -np.inf), axis=-1), atol=1e-9)


def test_guidance_is_the_optimum_for_the_rewards(float64: None) -> None:
    """Rewards of two models, sums of log-probs; the KL to the policy at strength 1 / alpha."""
    alpha, weights, names = 2.2, (0.25, 0.75), ("reward", "draft")
    found = log_distribution(sampling.genarm, alpha=alpha, rewards=names, weights=weights)
    reward = weights[0] * LOGPS["reward"] + weights[1] * LOGPS["draft"]
    assert constant(reward - (found - LOGPS["policy"]) / alpha)


def test_an_autoregressive_reward_model_of_a_game_in_closed_form(float64: None) -> None:
    """The loss rests where log-probs are the true rewards over beta, up to the one constant that normalizes them: any
    reward of whole strings is such a model's."""
    beta, base = 0.3, games.sequence_game(0.2, seed=2, vocab=3, length=3)
    reward = np.random.default_rng(3).normal(size=base.actions)
    game = games.TabularGame(expit(np.subtract.outer(reward, reward)), base.reference, 0.2, base.language)
    loss = fn(losses.autoregressive_reward, beta=beta)
    at = games.conditionals(game.language, softmax(reward / beta)[None])
    _, slope = games.expected_gradient(game, loss, {"logits": jnp.asarray(at)})
    _, away = games.expected_gradient(game, loss, {"logits": jnp.asarray(1.1 * at)})
    assert np.abs(slope["logits"]).max() < 1e-12 < 1e-4 < np.abs(away["logits"]).max()


@pytest.mark.parametrize("alpha", [None, 0.3, 1.0])
def test_several_objectives_have_one_optimum(float64: None, alpha: float | None) -> None:
    """f'(pi / ref) is the weighted mean of those of the policies up to a constant, f' by the code of f-DPO, and pi sums
    to 1 without being divided."""
    names, weights = ("policy", "expert", "plain"), np.array([0.5, 0.2, 0.3])
    more = {} if alpha is None else {"alpha": alpha, "reference": "reference"}
    raw = np.asarray(_combined(fn(sampling.mod, policies=names, weights=tuple(2 * weights), **more), LOGITS))
    found = log_softmax(raw, axis=-1)
    score = fn(divergences.alpha_divergence, alpha=alpha or 0.0)
    scores = [np.asarray(score(jnp.asarray(LOGPS[name] - LOGPS["reference"]))) for name in names]
    wanted = sum(part * each for part, each in zip(weights, scores, strict=True))
    assert constant(np.asarray(score(jnp.asarray(found - LOGPS["reference"]))) - wanted, 1e-6)
    if alpha is None:
        return
    np.testing.assert_allclose(raw, found, atol=1e-9)
    near = log_distribution(sampling.mod, policies=names, weights=tuple(weights), alpha=1e-4, reference="reference")
    np.testing.assert_allclose(near, log_distribution(sampling.mod, policies=names, weights=tuple(weights)), atol=1e-2)
    alone = log_distribution(sampling.mod, policies=("expert",), **more)
    np.testing.assert_allclose(alone, LOGPS["expert"], atol=1e-9)


def test_of_strings_it_is_an_approximation_that_grows_with_lam(float64: None) -> None:
    """By the amount that `dera` states for tau = 0.1, exactly none at lam 0 and 1."""
    found: dict[float, list[float]] = {lam: [] for lam in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)}
    for seed in range(20):
        game = games.sequence_game(0.1, seed=seed, vocab=3, length=3)
        policy = games.nash(game)
        logits = jnp.asarray(games.conditionals(game.language, policy[None]))
        for lam, values in found.items():
            token = games.sampled_distribution(game, {"logits": logits}, fn(sampling.dera, lam=lam))
            string = games.geometric_mixture(game, policy, 1 - lam)  # the optimum at tau / lam of the policy's reward
            values.append(float(np.abs(token - string).sum() / 2))
    assert max(found[0.0] + found[1.0]) < 1e-12
    stated = ((0.5, 0.0149, 0.0307), (1.5, 0.0445, 0.0986), (2.0, 0.1048, 0.272), (3.0, 0.2123, 0.6903))
    for lam, mean, most in stated:
        assert np.mean(found[lam]) == pytest.approx(mean, abs=1e-4)
        assert max(found[lam]) == pytest.approx(most, abs=1e-4)


# ---------------------------------------------------------------------------------------------- by the sampler itself

NETWORK = model()
PARAMS = {name: parameters(NETWORK, seed) for seed, name in enumerate(("policy", "draft", "third"))}


@jax.jit
def _sampled(params: Any, stage: Any) -> Batch:
    return stage(context_of(NETWORK, **params), PROMPTS, jax.random.key(5))[0]


def sampled(behaviour: Any, **changes: Any) -> Batch:
    stage = {"n": 3, "max_tokens": TOKENS, "stop": STOP, **changes, "behaviour": behaviour}
    return _sampled(PARAMS, fn(stages.generate, **stage))


@pytest.mark.parametrize("slots", [None, 2])
def test_a_population_speaks_with_one_voice_per_completion(slots: int | None) -> None:
    """Whole completions have the probability sum_k w_k pi_k(y); member by member at every token they do not."""
    names, weights = ("policy", "draft", "third"), (0.5, 0.2, 0.3)
    together, mixed = (
        sampled(fn(sampling.pluralistic, streams=names, weights=weights, per_token=each), slots=slots)
        for each in (False, True)
    )
    for batch, exact in ((together, True), (mixed, False)):
        by_stream = np.stack([np.asarray(batch.logps[name], np.float64).sum(-1) for name in names], axis=-1)
        gap = np.abs(np.log(np.exp(by_stream) @ weights) - np.asarray(batch.logps["sampler"], np.float64).sum(-1))
        assert (gap.max() < 1e-4) == exact


def test_the_strong_model_takes_over_where_it_is_sure() -> None:
    """Until its own mean log-prob of a full window reaches the threshold the draft speaks, greedily; then it does, at
    the temperature of the sampling, for good. At the latest after `longest` tokens."""
    window, chance = 2, 0.05
    batch = sampled(fn(sampling.weak_to_strong, threshold=chance, window=window, longest=4), stop=())
    draft = sampled(fn(sampling.own, stream="draft"), stop=(), temperature=0.0)
    strong = np.asarray(batch.logps["policy"])
    sure = np.zeros(strong.shape, bool)
    for t in range(window, TOKENS):
        sure[..., t] = strong[..., t - window : t].mean(-1) >= np.log(chance)
    switched = np.maximum.accumulate(sure | (np.arange(TOKENS) >= 4), axis=-1)
    begin = switched.argmax(-1)
    assert len(np.unique(begin)) > 1, "some switch before the limit"
    sampler = np.asarray(batch.logps["sampler"])
    np.testing.assert_allclose(sampler[switched], strong[switched], atol=1e-5)
    np.testing.assert_allclose(sampler[~switched], 0, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(batch.tokens)[~switched], np.asarray(draft.tokens)[~switched])
    few = sampled(fn(sampling.weak_to_strong, threshold=chance, window=window, longest=4), stop=(), slots=5)
    np.testing.assert_array_equal(few.tokens, batch.tokens)


def test_streams_are_the_strings_and_tuples_of_strings() -> None:
    behaviour = fn(sampling.dera, lam=2.0, references=("reference", "third", "policy"), weights=(1, 2, 3))
    assert stream_names(behaviour.kwargs) == ("policy", "reference", "third")
    play = {"judge": fn(stages.preference_model, separator=3), "optimizer": fn(sgd), "start": roles.fresh()}
    recipe = algorithms.online_ipo(NETWORK, behaviour=behaviour, max_tokens=4, **play)
    assert "logprobs" not in [stage.name for stage in recipe.experience.values()], (
        "the sampler has scored the reference"
    )
    assert len(completions(sampled(fn(sampling.dera, lam=0.5, references=("draft", "third"))))) == 12


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"dera: weights=\(1.0, 2.0\) for the streams reference; one each"):
        log_distribution(sampling.dera, lam=0.5, weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match="needs reference"):
        log_distribution(sampling.mod, policies=("policy",), alpha=0.5)
