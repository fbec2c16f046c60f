"""Players by behaviors of further streams: who is sampled is who the behavior says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import fn
from alignjax.evaluate import players
from alignjax.evaluate.players import Player, drawn
from alignjax.sampling import mod
from alignjax.types import Batch
from tests.sampling.test_generate import PROMPTS
from tests.support.tiny import model, parameters

NETWORK = model()
STEPS = {"sft": 0, "short": 1, "kind": 2}
BOTH = fn(mod, policies=("policy", "kind"), weights=(1.0, 0.0))


def answers(monkeypatch: Any, player: Player) -> Batch:
    monkeypatch.setattr(players, "restore_role", lambda step, role: parameters(NETWORK, STEPS[step]))
    found = drawn(
        SimpleNamespace(find=lambda step: step),  # type: ignore[arg-type]
        NETWORK, [Player("base", "sft"), player], [PROMPTS], {}, key=jax.random.key(0), max_tokens=5, stop=(2,),
    )  # fmt: skip
    return found[player.name][0]


def test_a_player_of_two_objectives(monkeypatch: Any) -> None:
    """With all weight on either policy it is that policy, token for token; between them it is neither."""
    others = (("kind", "kind", "policy"),)
    alone = {step: answers(monkeypatch, Player("one", step)) for step in ("short", "kind")}
    for weights, step in (((1.0, 0.0), "short"), ((0.0, 1.0), "kind")):
        both = answers(monkeypatch, Player("one", "short", behaviour=BOTH.replace(weights=weights), others=others))
        np.testing.assert_array_equal(both.tokens, alone[step].tokens)
    between = answers(monkeypatch, Player("one", "short", behaviour=BOTH.replace(weights=(1.0, 2.0)), others=others))
    assert all(np.any(between.tokens != each.tokens) for each in alone.values())
    assert jnp.all(between.logps["reference"] <= 0)
