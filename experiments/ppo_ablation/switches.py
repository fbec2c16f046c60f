"""Every stabilizer of PPO-max (arXiv:2307.04964) as a switch of one run on a reward that can be hacked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax import algorithms
from alignjax.cli.config_file import imported
from alignjax.config import fn
from alignjax.ranges import Count
from alignjax.roles import fresh, restored
from alignjax.train.optimizers import adamw
from alignjax.types import Algorithm, Batch, Context, Key

hackable = imported(Path(__file__).parent.parent / "overoptimization" / "hackable.py")

SIZE, CHARGE = "medium", 1.0  # of the reward model; what a repeated letter costs, which annotators take for a gain
CRITIC = hackable.network(*hackable.SIZES[SIZE], "value")
WARM_UP = 20
# Everything on, and what each is without.
ON: dict[str, dict[str, Any]] = {
    "reward normalization": {"reward_scale": "norm"},
    "reward clip": {"reward_clip": 2.0},
    "KL penalty": {"eta": 1.0},  # times the strength that was chosen
    "advantage whitening": {"advantage_norm": True},
    "ratio clip": {"epsilon": 0.2},
    "value clip": {"value_clip": 0.2},
    "critic from the reward model": {"critic_start": restored("reward", "reward", grow=True)},
    "critic warm-up": {"warm_up": WARM_UP},
    "gradient clip": {"max_grad_norm": 1.0},
    "text loss": {"pretrain": 0.1},
    "entropy bonus": {"entropy": 0.01},
}
OFF: dict[str, Any] = {
    "reward_scale": "none", "reward_clip": math.inf, "eta": 0.0, "advantage_norm": False, "epsilon": None,
    "value_clip": math.inf, "critic_start": fresh(), "warm_up": 0, "max_grad_norm": None, "pretrain": 0.0,
    "entropy": 0.0,
}  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "everything": tuple(ON),
    **{f"without {name}": tuple(other for other in ON if other != name) for name in ON},
    **{f"{name} alone": (name,) for name in ON},
    "nothing": (),
}


def texts(context: Context, batch: Batch, key: Key, *, n: Count) -> Batch:
    """Stage: beside the batch, in the view "pretrain", what people write."""
    prompts = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, example_id=batch.example_id)
    return batch.replace(views={"pretrain": hackable.demonstrated(context, prompts, key, n=n)})


def algorithm(switched: tuple[str, ...], rate: float, eta: float) -> Algorithm:
    """PPO with some stabilizers, the KL penalty at strength eta if it is one of them."""
    given = OFF | {name: value for each in switched for name, value in ON[each].items()}
    given["eta"] *= eta
    optimizer = fn(adamw, learning_rate=rate, weight_decay=0.0, max_grad_norm=given.pop("max_grad_norm"))
    made = algorithms.ppo_max(
        hackable.POLICY, reward=fn(hackable.by_proxy, of="said"), critic=CRITIC, optimizer=optimizer, n=4, epochs=4,
        judges={"world": hackable.WORLD}, start=restored("sft", "policy"), max_tokens=hackable.LANGUAGE.length,
        stop=(), **given,
    )  # fmt: skip
    if not given["pretrain"]:
        return made
    return dataclasses.replace(made, experience={**made.experience, "texts": fn(texts, n=4)})


def loaded(made: Mapping[str, Any]) -> dict[str, Any]:
    """The trees that roles are restored from: the critic's is the reward model."""
    trees = hackable.loaded(made, SIZE)
    world = trees["world"] | {"people": made["people"], "said": made["said"][SIZE]}
    return trees | {"critic": made["reward"][SIZE], "world": world}
