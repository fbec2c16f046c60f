"""RECAP's prefixes: what is sampled behind them, what is learned from, and that the answer is whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses, stages
from alignjax.config import fn
from alignjax.exact_tasks import arithmetic
from alignjax.types import SAMPLER, Batch, Context

KEY = jax.random.key(0)


def copied(prompt, key):
    """A prefix of three tokens that says which prompt it belongs to."""
    return prompt[-1] * 10 + jnp.arange(3)


def batch_of(rows=40):
    prompt = jnp.stack(
        [jnp.zeros(rows, jnp.int32), jnp.where(jnp.arange(rows) % 2, 7, 0), jnp.arange(rows) + 1], axis=1
    )
    return Batch(prompt=prompt, prompt_valid=prompt > 0, example_id=jnp.arange(rows) + 5)


def sampled(batch, n=2, t=4):
    """Completions of lengths 1 to t that a sampler might have written."""
    draw, rows = np.random.default_rng(0), len(batch.prompt)
    tokens = jnp.asarray(draw.integers(500, 600, (rows, n, t)), jnp.int32)
    valid = jnp.asarray(np.arange(t) < draw.integers(1, t + 1, (rows, n, 1)))
    mask = valid * jnp.asarray(draw.random((rows, n, t)), jnp.float32)
    return batch.replace(tokens=tokens, valid=valid, mask=mask, logps={SAMPLER: -tokens / 1e3, "policy": -tokens / 2e3})


def test_prompts_and_prefixes_stand_together_and_come_apart_again():
    plain = batch_of()
    begun = stages.flawed_prefix(Context(), plain, KEY, write=fn(copied), length=3, share=0.3)
    whole = stages.with_prefix(Context(), sampled(begun), KEY)
    np.testing.assert_array_equal(whole.prompt, plain.prompt)
    np.testing.assert_array_equal(whole.prompt_valid, plain.prompt_valid)
    has = np.asarray(begun.prompts["prefix_valid"]).any(1)
    assert 4 < has.sum() < 20
    for row in range(40):
        own = np.asarray(plain.prompt[row])[np.asarray(plain.prompt_valid[row])].tolist()
        prefix = [10 * (row + 1) + k for k in range(3)] if has[row] else []
        shown = np.asarray(begun.prompt[row])[np.asarray(begun.prompt_valid[row])].tolist()
        assert shown == own + prefix
        assert np.asarray(begun.prompt_valid[row]).tolist() == [False] * (6 - len(shown)) + [True] * len(shown)
        for n in range(2):
            before, after = sampled(begun), whole
            text = np.asarray(before.tokens[row, n])[np.asarray(before.valid[row, n])].tolist()
            length = len(prefix) + len(text)
            assert np.asarray(after.tokens[row, n])[:length].tolist() == prefix + text
            assert np.asarray(after.valid[row, n]).tolist() == [k < length for k in range(7)]
            mask = np.asarray(before.mask[row, n])[: len(text)]
            np.testing.assert_array_equal(np.asarray(after.mask[row, n])[:length], [0.0] * len(prefix) + mask.tolist())
            logps = np.asarray(after.logps[SAMPLER][row, n])[len(prefix) : length]
            np.testing.assert_array_equal(logps, np.asarray(before.logps[SAMPLER][row, n])[: len(text)])
    assert set(whole.logps) == {SAMPLER}


def test_the_share_may_be_all_or_none_and_rows_do_not_depend_on_each_other():
    for share, expected in ((0.0, 0), (1.0, 40)):
        begun = stages.flawed_prefix(Context(), batch_of(), KEY, write=fn(copied), length=3, share=share)
        assert np.asarray(begun.prompts["prefix_valid"]).any(1).sum() == expected
    half = batch_of().take(jnp.arange(7, 20))
    some, all_ = (
        stages.flawed_prefix(Context(), rows, KEY, write=fn(copied), length=3, share=0.5) for rows in (half, batch_of())
    )
    np.testing.assert_array_equal(some.prompt, all_.prompt[7:20])


def test_nothing_is_learned_from_a_prefix():
    """The gradient of a surrogate by the log-probs is 0 there, and elsewhere what it is without a prefix."""
    begun = stages.flawed_prefix(Context(), batch_of(), KEY, write=fn(copied), length=3, share=0.5)
    short = sampled(begun)
    long = stages.with_prefix(Context(), short, KEY)

    def gradient(batch):
        advantage = jnp.broadcast_to(jnp.linspace(-1, 2, 80).reshape(40, 2, 1), batch.tokens.shape)
        filled = batch.replace(advantage=advantage, logps={SAMPLER: batch.logps[SAMPLER]})

        def value(logps):
            loss = fn(losses.surrogate, reduction=fn(losses.sequence_mean))
            return loss(Context(score=lambda *a, **k: {"policy": logps}), filled)[0].value()

        return np.asarray(jax.grad(value)(filled.logps[SAMPLER] + 0.05)), np.asarray(batch.mask) != 0

    (one, where), (other, there) = gradient(short), gradient(long)
    np.testing.assert_allclose(one[where], other[there], rtol=1e-6)
    assert np.abs(other[~there]).max() == 0


def test_flawed_drafts_are_wrong_and_second_looks_are_read_at_their_end():
    prompt = jnp.array([1, 9, 9, 0, 0, 10, 5, 3, 0, 0]) + jnp.array([0, *[4] * 9])  # 99 + 35
    keys = jax.random.split(KEY, 200)
    drafts = np.asarray(jax.jit(jax.vmap(arithmetic.wrong_draft, (None, 0)))(prompt, keys)) - 4
    assert ((drafts != [4, 3, 1, 0, 0]).sum(1) == 1).all()
    assert len({tuple(row) for row in drafts.tolist()}) > 35
    right, wrong = [8, 7, 5, 4, 4], [8, 7, 5, 4, 5]
    answers = [
        [*wrong, *right, 2],
        [*right, *wrong, 2],
        [*right, *right, 4],
        [*right, 2, 0, 0, 0, 0, 0],
        [*right, *right, 2],
    ]
    tokens = jnp.array([answers])
    batch = Batch(prompt=prompt[None], tokens=tokens, valid=tokens > 0)
    assert np.asarray(arithmetic.right_at_last(batch)).tolist() == [[1, 0, 0, 0, 1]]
