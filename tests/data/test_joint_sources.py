"""Pairs whose sides have instructions of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError
from alignjax.data import BOS, EOS, JointPreferences, Preferences, Prompts, joint_preferences, preferences, tokenizer_of
from alignjax.types import Batch
from tests.support.tiny import context_of, model, parameters

SIZES: dict[str, Any] = {"batch_size": 4, "prompt_length": 24, "completion_length": 16, "shuffle": False}
FRAME: dict[str, Any] = {"vocab_size": 261, "prefix": "Q: ", "suffix": " A:", "test_fraction": 0.0}


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> JointPreferences:
    rows = [
        {
            "prompt_chosen": f"name {n}",
            "chosen": f"good {n}",
            "prompt_rejected": f"a longer name {n}",
            "rejected": f"no {n}",
        }
        for n in range(8)
    ]
    rows[2] = {"prompt": "shared", "chosen": "good", "rejected": "bad", "weight": 2}
    return JointPreferences(path=written(tmp_path_factory.mktemp("joint") / "joint.jsonl", rows), **FRAME)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Preferences:
    rows = [{"prompt": f"name {n}", "chosen": f"good {n}", "rejected": f"not {n} at all"} for n in range(8)]
    return Preferences(path=written(tmp_path_factory.mktemp("shared") / "pairs.jsonl", rows), **FRAME)


def test_each_side_is_its_instruction_and_its_response(joint: JointPreferences) -> None:
    source, tokenizer = joint_preferences(None, 0, dataset=joint, **SIZES), tokenizer_of(joint)
    batch = source[0]
    assert (source.spec.prompt.shape, source.spec.tokens.shape) == ((4, 1), (4, 2, 39))
    assert batch.tokens.shape == (4, 2, 39)
    assert (batch.prompt == BOS).all()
    assert batch.prompt_valid.all()
    for row, texts in (
        (1, ("Q: name 1 A:good 1", "Q: a longer name 1 A:no 1")),
        (2, ("Q: shared A:good", "Q: shared A:bad")),
    ):
        for side, text in enumerate(texts):
            valid = batch.valid[row, side]
            ids = batch.tokens[row, side][valid]
            assert valid.tolist() == sorted(valid.tolist(), reverse=True)
            assert ids[-1] == EOS
            assert tokenizer.decode(ids[:-1]) == text
    assert batch.pair_weight[:, 0, 1].tolist() == [1, 1, 2, 1]
    assert batch.preference[0].tolist() == [[0.5, 1], [0, 0.5]]


def test_what_counts_is_the_response_or_all(joint: JointPreferences) -> None:
    whole = joint_preferences(None, 0, dataset=joint, **SIZES)[0]
    conditional = joint_preferences(None, 0, dataset=joint, instructions="conditional", **SIZES)[0]
    np.testing.assert_array_equal(whole.tokens, conditional.tokens)
    np.testing.assert_array_equal(whole.mask, whole.valid)
    tokenizer = tokenizer_of(joint)
    for row in (0, 1, 3):
        for side, text in enumerate((f"good {row}", f"no {row}")):
            assert tokenizer.decode(whole.tokens[row, side][conditional.mask[row, side] == 1][:-1]) == text


NETWORK = model(vocab=300)


@jax.jit
def _margins(policy: Any, reference: Any, batch: Batch) -> tuple[Any, Any]:
    context = context_of(NETWORK, policy=policy, reference=reference)
    loss, metrics = losses.dpo(context, batch, beta=0.1)
    return loss.value(), metrics["margin"].value()


def margins(batch: Batch) -> tuple[Any, Any]:
    """(DPO's loss, the margin) of each pair, by a real network and reference."""
    return _margins(parameters(NETWORK, 1), parameters(NETWORK, 2), batch)


@pytest.mark.parametrize("instructions", ["joint", "conditional"])
def test_with_matching_instructions_it_is_dpo(instructions: str, shared: Preferences) -> None:
    plain = preferences(None, 0, dataset=shared, **SIZES)[0]
    batch = joint_preferences(None, 0, dataset=shared, instructions=instructions, **SIZES)[0]
    for ours, theirs in zip(margins(batch), margins(plain), strict=True):
        assert abs(float(theirs)) > 1e-2
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_with_different_instructions_joint_is_not_conditional(joint: JointPreferences) -> None:
    """The difference is what the policy says about the instructions themselves."""
    found = [
        margins(joint_preferences(None, 0, dataset=joint, instructions=kind, **SIZES)[0])[1]
        for kind in ("joint", "conditional")
    ]
    assert abs(float(jnp.subtract(*found))) > 1e-2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_length": 12}, "prompts of more than .* set long_prompts='skip'"),
        ({"completion_length": 3}, "completions of more than 2 tokens .*set long_completions='skip'"),
        ({"prompt_length": 4}, "prompt_length=4 leaves no room"),
        ({"completion_length": 1}, "completion_length=1 leaves no room"),
        ({"completion_length": 3, "long_completions": "skip"}, "no row is left"),
        ({"instructions": "both"}, "one of joint, conditional"),
        ({"split": "validation"}, "one of train, test"),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, Any], said: str, joint: JointPreferences) -> None:
    with pytest.raises(ConfigError, match=said):
        _ = joint_preferences(None, 0, dataset=joint, **{**SIZES, **changes})[0]


def test_long_instructions_are_skipped_or_cut(joint: JointPreferences) -> None:
    tokenizer = tokenizer_of(joint)
    frame = 1 + len(tokenizer.encode("Q: ")) + len(tokenizer.encode(" A:"))
    longest = max(len(tokenizer.encode(f"a longer name {n}")) for n in range(8))
    small = {**SIZES, "prompt_length": frame + longest - 1}
    skipped = joint_preferences(None, 0, dataset=joint, long_prompts="skip", **{**small, "batch_size": 1})
    assert 0 < skipped.size < 8
    assert skipped.counts["skipped_long_prompts"] == 8 - skipped.size
    for policy, cut in (("truncate_left", slice(1, None)), ("truncate_right", slice(None, -1))):
        source = joint_preferences(None, 0, dataset=joint, long_prompts=policy, **small)
        assert source.counts["cut_long_prompts"] == 8 - skipped.size
        row, ids = 1, tokenizer.encode("a longer name 1")
        if len(ids) == longest:
            body = source[0].tokens[row, 1][len(tokenizer.encode("Q: ")) :][: longest - 1]
            np.testing.assert_array_equal(body, ids[cut])


def test_bad_rows_are_named(tmp_path: Path) -> None:
    rows = [
        {"prompt_chosen": "a", "chosen": "b", "prompt_rejected": "c", "rejected": "b"},  # the same response elsewhere
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt_chosen": "a", "chosen": "b", "rejected": "c"},
    ]
    dataset = JointPreferences(path=written(tmp_path / "rows.jsonl", rows), **FRAME)
    account = dataset.prepare(report=lambda text: None)
    (found,) = account["files"].values()
    assert set(found["bad_rows"]) == {"both sides are the same", "missing field 'prompt_rejected'"}
    with pytest.raises(ConfigError, match="needed: joint_preferences"):
        joint_preferences(None, 0, dataset=Prompts(path=dataset.path), **SIZES)
