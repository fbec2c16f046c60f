"""Published weights give the numbers here that they give in `transformers`: every family, every switch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from alignjax.losses import load_balancing
from alignjax.models import huggingface, transformer
from alignjax.sampling import Filters, Sampling, generate
from alignjax.types import Batch
from tests.support.published import BY_LENGTH, CASES, SIZES, loaded, theirs, written
from tests.support.tiny import as_jax, context_of, ragged, slow_but

ROWS, P, T = 3, 7, 6
DRAW = np.random.default_rng(0)
PROMPT_VALID = np.arange(P) >= P - np.array([[4], [P], [2]])
BATCH = Batch(
    prompt=jnp.asarray(np.where(PROMPT_VALID, DRAW.integers(3, SIZES["vocab_size"], (ROWS, P)), 0), jnp.int32),
    prompt_valid=jnp.asarray(PROMPT_VALID),
    tokens=jnp.asarray(DRAW.integers(3, SIZES["vocab_size"], (ROWS, 2, T)), jnp.int32),
    valid=jnp.asarray(np.arange(T) < np.array([[[6], [3]], [[1], [5]], [[4], [6]]])),
)
# A row padded on the left, one on the right, one not at all.
TOKENS = DRAW.integers(3, SIZES["vocab_size"], (ROWS, P + T))
VALID = np.stack([np.arange(P + T) >= 5, np.arange(P + T) < 9, np.arange(P + T) >= 0])


@functools.partial(jax.jit, static_argnames="network")
def ours(network: Any, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits of the padded rows, log-probs of the completions, and a greedy continuation of the prompts."""
    hidden, _, _ = network.extend(params, None, jnp.asarray(TOKENS)[:, None], jnp.asarray(VALID)[:, None])
    context = context_of(network, policy=params)
    (logps,) = context.score("policy", batch).values()
    greedy = generate(context, batch, jax.random.key(0), Sampling(1, T, filters=Filters(0.0), stop=()))
    return network.heads["lm"].apply(params, hidden)[:, 0], logps, greedy.tokens[:, 0]


@torch.no_grad()
def expected(model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    positions = torch.tensor(np.maximum(np.cumsum(VALID, axis=1) - 1, 0))  # which learned ones depend on
    logits = model(torch.tensor(TOKENS), attention_mask=torch.tensor(VALID), position_ids=positions).logits
    logps = np.zeros(BATCH.tokens.shape)
    for row, n in np.ndindex(*BATCH.tokens.shape[:2]):
        prompt = np.asarray(BATCH.prompt[row])[PROMPT_VALID[row]]
        completion = np.asarray(BATCH.tokens[row, n])[np.asarray(BATCH.valid[row, n])]
        ids = torch.tensor(np.concatenate([prompt, completion]))[None].long()
        found = torch.log_softmax(model(ids).logits[0], -1)[len(prompt) - 1 : -1]
        logps[row, n, : len(completion)] = found.gather(1, ids[0, len(prompt) :, None])[:, 0]
    prompts = torch.tensor(np.asarray(BATCH.prompt)).long()
    model.generation_config.eos_token_id = None
    out = model.generate(
        prompts, attention_mask=torch.tensor(PROMPT_VALID).long(), do_sample=False, max_new_tokens=T, pad_token_id=0
    )
    return logits.numpy(), logps, out[:, P:].numpy()


@pytest.mark.parametrize("case", [slow_but("llama3", "gemma2", name=case) for case in CASES])
def test_a_language_model(case: str, root: Path) -> None:
    folder = written(case, root)
    network = transformer(huggingface.config_of(folder))
    params = huggingface.load(folder, network)
    assert jax.tree.structure(params) == jax.tree.structure(jax.eval_shape(network.init, jax.random.key(0)))
    logits, logps, tokens = ours(network, params, BATCH)
    their_logits, their_logps, their_tokens = expected(theirs(case))
    assert their_logits.std() > 0.5
    np.testing.assert_allclose(np.asarray(logits)[VALID], their_logits[VALID], atol=2e-4)
    np.testing.assert_allclose(logps, their_logps, atol=2e-4)
    np.testing.assert_array_equal(tokens, their_tokens)


@pytest.mark.slow
@pytest.mark.parametrize("case", BY_LENGTH)
def test_positions_that_depend_on_the_longest_sequence(case: str, root: Path) -> None:
    """A pass with a sequence longer than the original context turns otherwise than one without, as there."""
    folder = written(case, root)
    network = transformer(huggingface.config_of(folder))
    params, model = huggingface.load(folder, network), theirs(case)
    assert huggingface.positions_of(folder) == 8
    for length in (8, P + T):
        ids = TOKENS[:, :length]
        hidden, _, _ = network.extend(params, None, jnp.asarray(ids)[:, None], jnp.ones((ROWS, 1, length), bool))
        logits = network.heads["lm"].apply(params, hidden)[:, 0]
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(torch.tensor(ids)).logits, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_balance_is_that_of_transformers(kind: str, root: Path) -> None:
    """Their own function on their own logits, where the completion's tokens alone are counted."""
    network, weights = loaded(written(kind, root))
    batch = as_jax(ragged(seed=4, n=1, vocab=SIZES["vocab_size"]))
    loss = jax.jit(lambda params: load_balancing(context_of(network, policy=params), batch)[0].value())
    tokens = np.concatenate([batch.prompt, batch.tokens[:, 0]], axis=1)
    valid = np.concatenate([batch.prompt_valid, batch.valid[:, 0]], axis=1)
    counted = np.concatenate([np.zeros_like(batch.prompt_valid), np.asarray(batch.mask[:, 0] > 0)], axis=1)
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
    inputs = {"input_ids": tokens, "attention_mask": valid, "position_ids": positions}
    with torch.no_grad():
        given = {name: torch.tensor(np.asarray(value)).long() for name, value in inputs.items()}
        out = theirs(kind)(**given, output_router_logits=True)
    c = network.config
    logits = tuple(layer.reshape(-1, c.experts) for layer in out.router_logits)
    expected = load_balancing_loss_func(logits, c.experts, c.experts_per_token, torch.tensor(counted).long())
    np.testing.assert_allclose(loss(weights), float(expected), rtol=1e-5)
