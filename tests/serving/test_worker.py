"""What the worker samples is what `generate` samples, whoever asks beside; what it scores is what the scorer says."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import sampling as behaviors
from alignjax.config import ConfigError, fn
from alignjax.sampling import Filters, Sampling, combined_model, generate
from alignjax.serving import worker as module
from alignjax.serving.jobs import Done, Job, Wanted
from alignjax.serving.worker import Worker, lane_sizes
from alignjax.types import Batch
from tests.serving.conftest import Asked
from tests.support.tiny import context_of, parameters, scorer

PROMPTS = [[1, 70, 71, 72], [1, 90], [1, *range(60, 97)], [1, 5, 4]]


def lockstep(opened, prompt, example, sampling, seed):
    """Completions by `sampling.generate`: (tokens [N,T], valid [N,T], log-probs [N,T])."""
    tokens = jnp.array([prompt])
    batch = Batch(prompt=tokens, prompt_valid=tokens >= 0, example_id=jnp.array([example]))
    drawn = generate(context_of(opened.model, policy=opened.params), batch, jax.random.key(seed), sampling)
    return [np.asarray(part[0]) for part in (drawn.tokens, drawn.valid, drawn.logps["policy"])]


def test_samples_and_their_log_probs_are_those_of_generate(opened, worker):
    sampling = Sampling(5, 12, filters=Filters(0.8, 7, 0.9, 0.02), stop=(75, 90))
    wanted = Wanted(12, 5, 0.8, 7, 0.9, 0.02, seed=3, example=2, stop_ids=frozenset((75, 90)))
    asked = Asked(worker, (PROMPTS[0], wanted))  # five completions in three slots
    tokens, valid, logps = lockstep(opened, PROMPTS[0], 2, sampling, 3)
    assert len({tuple(row) for row in tokens}) > 1
    for number in range(5):
        on = valid[number]
        assert asked.ids(number=number) == tokens[number][on].tolist()
        scored = [piece.scored.logp for piece in asked.pieces(number=number)]
        np.testing.assert_allclose(scored, logps[number][on], atol=1e-5)
        last = asked.pieces(number=number)[-1]
        assert last.finish == ("stop" if last.scored.token in (75, 90) else "length")


def test_of_a_behavior_samples_are_those_of_generate(opened):
    """Two models in one slot, each with its cache: proxies of the same network with other weights."""
    params = {"policy": opened.params, "reference": parameters(opened.model, 5)}
    behaviour = fn(behaviors.dera, lam=1.5)
    whole = combined_model(behaviour, dict.fromkeys(params, opened.model))
    wanted = Wanted(12, 2, 0.8, seed=3, example=2, stop_ids=frozenset((75, 90)))
    with Worker(dataclasses.replace(opened, model=whole, params=params), slots=2, max_length=96) as own:
        asked = Asked(own, (PROMPTS[0], wanted))
    tokens = jnp.array([PROMPTS[0]])
    batch = Batch(prompt=tokens, prompt_valid=tokens >= 0, example_id=jnp.array([2]))
    sampling = Sampling(2, 12, behaviour, filters=Filters(0.8), stop=(75, 90))
    drawn = generate(context_of(opened.model, **params), batch, jax.random.key(3), sampling)
    alone = lockstep(opened, PROMPTS[0], 2, dataclasses.replace(sampling, behaviour=fn(behaviors.own)), 3)[0]
    assert not np.array_equal(drawn.tokens[0], alone), "the behavior is another policy"
    for number in range(2):
        assert asked.ids(number=number) == np.asarray(drawn.tokens[0, number])[drawn.valid[0, number]].tolist()


def test_what_stands_beside_changes_nothing(worker):
    wanted = [
        Wanted(20, 1, temperature, top_k, top_p, seed=seed)
        for temperature, top_k, top_p, seed in ((1.0, 0, 1.0, 5), (0.0, 0, 1.0, 1), (0.7, 5, 0.8, 5), (1.3, 0, 0.5, 2))
    ]
    wanted[0] = dataclasses.replace(wanted[0], top=3, n=2)
    asked = list(zip(PROMPTS, wanted, strict=True))
    together = Asked(worker, *asked)
    for number, one in enumerate(asked):
        alone = Asked(worker, one)
        assert alone.reports[0] == together.reports[number] if number else True
        assert [alone.pieces(0, n) for n in range(one[1].n)] == [together.pieces(number, n) for n in range(one[1].n)]


def test_a_seed_is_a_seed_and_large_ones_are_others(worker):
    ids = [Asked(worker, (PROMPTS[1], Wanted(16, seed=seed))).ids() for seed in (7, 7, 8, 7 + 2**32, -1)]
    assert ids[0] == ids[1]
    assert len(set(map(tuple, ids))) == 4


@pytest.mark.parametrize("prompt", PROMPTS[1:3])
def test_a_prompt_is_scored_as_the_scorer_does(opened, worker, prompt):
    asked = Asked(worker, (prompt, Wanted(0, top=4, echo=True)))
    scores = asked.scores()
    tokens = jnp.array([prompt])
    batch = Batch(
        prompt=tokens[:, :1],
        prompt_valid=tokens[:, :1] >= 0,
        tokens=tokens[:, None, 1:],
        valid=tokens[:, None, 1:] >= 0,
    )
    wanted = np.asarray(scorer(opened.model)(opened.params, batch))[0, 0]
    assert [each.token for each in scores] == prompt
    assert scores[0].logp is None
    np.testing.assert_allclose([each.logp for each in scores[1:]], wanted, atol=1e-5)
    for each in scores[1:]:
        best = [logp for _, logp in each.top]
        assert best == sorted(best, reverse=True)
        assert len(best) == 4
        assert each.logp <= best[0] + 1e-6
        for token, logp in each.top:
            assert logp == pytest.approx(each.logp, abs=1e-6) if token == each.token else True
    assert [piece.finish for piece in asked.pieces()] == ["length"]


def test_likeliest_tokens_of_completions_are_those_of_the_prompt_scored_again(worker):
    asked = Asked(worker, (PROMPTS[0], Wanted(6, top=5, seed=1)))
    again = Asked(worker, (PROMPTS[0] + asked.ids(), Wanted(0, top=5, echo=True))).scores()[len(PROMPTS[0]) :]
    for piece, scored in zip(asked.pieces(), again, strict=True):
        assert piece.scored.token == scored.token
        assert [token for token, _ in piece.scored.top] == [token for token, _ in scored.top]
        np.testing.assert_allclose(piece.scored.logp, scored.logp, atol=1e-5)


def test_stop_texts_end_a_completion_and_are_not_in_it(opened, worker):
    free = Asked(worker, (PROMPTS[0], Wanted(40, seed=4)))
    text = free.text()
    assert text == opened.tokenizer.decode(free.ids())
    stop = text[5:8]
    asked = Asked(worker, (PROMPTS[0], Wanted(40, seed=4, stop_texts=("never said", stop))))
    assert asked.text() == text[: text.index(stop)]
    assert asked.pieces()[-1].finish == "stop"
    assert asked.ids() == free.ids()[: len(asked.ids())]


def test_cancelled_jobs_leave_their_slots(worker):
    seen = []

    def report(each):
        seen.append(each)
        job.cancelled = True

    job = Job((1, 9), Wanted(60, 2), report)
    worker.submit(job)
    Asked(worker, *[(prompt, Wanted(4)) for prompt in PROMPTS])
    assert isinstance(seen[-1], Done)
    assert len(seen) < 60


def test_what_cannot_be_answered_is_refused(worker):
    for prompt, wanted, message in (
        ([], Wanted(1), "empty"),
        ([1, 260], Wanted(1), "a token 260, and the model has 260"),
        ([1, -1], Wanted(1), "a token -1"),
        ([1] * 90, Wanted(7), "90 tokens and the completion up to 7, and together they may have 96"),
    ):
        with pytest.raises(ConfigError, match=message):
            Asked(worker, (prompt, wanted))
    Asked(worker, ([1] * 90, Wanted(6)))


def test_a_failure_is_told_and_does_not_last(opened, monkeypatch):
    with Worker(opened, slots=3, max_length=96) as own:
        monkeypatch.setattr(module, "next_tokens", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Asked(own, (PROMPTS[0], Wanted(3, 4)))
        monkeypatch.undo()
        assert len(Asked(own, (PROMPTS[0], Wanted(3, stop_ids=frozenset()))).ids()) == 3
    with pytest.raises(module.Closed):
        Asked(own, (PROMPTS[0], Wanted(3)))


def test_lanes_grow_to_the_longest():
    assert lane_sizes(40) == (40,)
    assert lane_sizes(256) == (256,)
    assert lane_sizes(1024) == (256, 1024)
    assert lane_sizes(5000) == (256, 1024, 4096, 5000)
