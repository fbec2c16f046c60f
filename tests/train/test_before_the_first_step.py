"""Weights, labels and lengths are looked at before a step is taken: later they would be called a divergence, or cost
hours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError, fn
from alignjax.models.huggingface import Pretrained
from alignjax.pair_layout import check_pairs, pair_view
from alignjax.train.loop import _check_start, _labels_looked_at
from alignjax.train.resolve import _check_lengths, check_losses
from alignjax.train.state import abstract_state
from alignjax.train.step import abstract_experience, make_update
from alignjax.types import Batch, Context, Mean, Metrics
from tests.support.toy_recipes import recipe


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.5, 1.5])
def test_labels_are_probabilities(wrong: float) -> None:
    preference, weight = np.full((3, 2, 2), 0.25, np.float32), np.zeros((3, 2, 2), np.float32)
    weight[:2, 0, 1] = 0.5
    assert _labels_looked_at(Batch(preference=preference, pair_weight=weight), 4).preference is preference
    preference[2, 0, 1] = wrong  # this pair counts nothing
    _labels_looked_at(Batch(preference=preference, pair_weight=weight), 4)
    preference[1, 1, 0] = wrong
    with pytest.raises(ConfigError, match="preference of batch 4 of the source has a value that is not a probability"):
        _labels_looked_at(Batch(preference=preference, pair_weight=weight), 4)
    with pytest.raises(ConfigError, match="preference of batch 0"):
        _labels_looked_at(Batch(preference=preference), 0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.5])
def test_weights_of_pairs_are_finite(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"pair_weight of batch 1 .* not a finite number from 0"):
        _labels_looked_at(Batch(pair_weight=np.full((1, 2, 2), wrong)), 1)


def test_weights_that_are_broken_at_the_start_are_not_called_diverged() -> None:
    algorithm: Any = SimpleNamespace(
        roles={"policy": SimpleNamespace(model="some"), "memory": SimpleNamespace(model=None)}
    )
    good = {"policy": {"embed": jnp.ones(3)}, "memory": {"priority": jnp.full(2, jnp.inf)}}
    _check_start(algorithm, SimpleNamespace(roles=good))  # type: ignore[arg-type]
    bad: Any = SimpleNamespace(roles={**good, "policy": {"embed": jnp.array([1.0, jnp.nan, 2.0])}})
    with pytest.raises(ConfigError, match=r"role 'policy' starts with numbers that are not finite \(embed\)"):
        _check_start(algorithm, bad)


PUBLISHED = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("positions", "said"), [(20, None), (19, "8 tokens .* and 12 .*, 20 together, .* 19 "), (None, None)]
)
def test_lengths_are_compared_with_positions(positions: int | None, said: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED, "max_position_embeddings": positions}))
    filled = Batch(prompt=np.zeros((1, 8), np.int32), tokens=np.zeros((1, 3, 12), np.int32))
    roles = {"policy": SimpleNamespace(start=Pretrained(str(tmp_path), "ab"))}
    resolved: Any = SimpleNamespace(algorithm=SimpleNamespace(roles=roles), filled=filled)
    if said is None:
        return _check_lengths(resolved)
    with pytest.raises(ConfigError, match=said):
        return _check_lengths(resolved)


def test_pairs_are_of_completions_that_exist() -> None:
    """An index beyond the last would be taken for the last in silence."""
    check_pairs(((0, 1), (2, 0)), 3)
    for pairs in (((0, 3),), ((1, 1),), ((-1, 0),)):
        with pytest.raises(ConfigError, match="do not fit a batch with 3 completions a prompt"):
            check_pairs(pairs, 3)
    with pytest.raises(ConfigError, match="are none"):
        check_pairs((), 1)
    one = Batch(tokens=jnp.zeros((2, 1, 4), jnp.int32), valid=jnp.ones((2, 1, 4), bool))
    with pytest.raises(ConfigError, match=r"pairs=\(\(0, 1\),\) do not fit a batch with 1 completions"):
        pair_view(one, ((0, 1),), 3)


def reads(context: Context, batch: Batch, *, output: str) -> tuple[Mean, Metrics]:
    (numbers,) = context.score(output, batch).values()
    return Mean.of(numbers, batch.valid), {}


def needs_scores(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    return Mean.of(batch.need("completions", "score", of="needs_scores")), {}


@pytest.mark.parametrize("name", ["sft", "online_ipo", "rloo"])
def test_what_a_loss_reads_is_there_before_anything_is_sampled(name: str) -> None:
    algorithm, numbers = recipe(name), np.zeros((2, 2, 5), np.int32)
    batch = Batch(prompt=numbers[:, 0], prompt_valid=numbers[:, 0] == 0, example_id=np.arange(2, dtype=np.int32))
    if not algorithm.experience:
        valid = numbers == 0
        batch = batch.replace(tokens=numbers, valid=valid, mask=valid, preference=np.full((2, 2, 2), 0.5, np.float32))
        batch = batch.with_logps(reference=np.zeros((2, 2, 5), np.float32))
    state = abstract_state(algorithm)

    def looked_at(losses: dict[str, Any]) -> None:
        changed = dataclasses.replace(algorithm, losses={**algorithm.losses, **losses})
        filled = abstract_experience(changed, state, batch)[0]
        if algorithm.experience:
            check_losses(SimpleNamespace(algorithm=changed, bare_state=state, filled=filled))  # type: ignore[arg-type]
        else:  # nothing comes before the update
            jax.eval_shape(make_update(changed), state, filled)

    looked_at({"more": fn(reads, output="policy:value")})
    for output, said in (
        ("policy:critic", r"score\('policy:critic'\): role 'policy' has no head 'critic'.*value"),
        ("nobody", "there is no role 'nobody'"),
    ):
        with pytest.raises(ConfigError, match=said):
            looked_at({"more": fn(reads, output=output)})
    with pytest.raises(ConfigError, match=r"needs_scores needs batch\.completions"):
        looked_at({"more": fn(needs_scores)})
