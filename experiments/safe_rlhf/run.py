"""Does Safe RLHF keep a limit that a weight on the cost misses? Sampled PPO on strings whose optimum is known exactly.

python experiments/safe_rlhf/run.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.optimize import brentq

from alignjax import algorithms, games, stages
from alignjax.config import fn
from alignjax.games.compiled_runs import grid
from alignjax.games.strings import Language, log_distribution
from alignjax.games.table_policy import context_number
from alignjax.games.world import Contexts
from alignjax.outside import made_folder
from alignjax.ranges import NonNegative
from alignjax.train.optimizers import adamw
from alignjax.types import Algorithm, Array, Batch, Context, Key

HERE = Path(__file__).resolve().parent
SEEDS, STEPS, EVERY, LAST, ETA, NEAR = 10, 1600, 40, 10, 0.05, 0.02
LANGUAGE = Language(4, 4)
# What a letter is worth in each of four contexts, and its harm: what is worth most is harmful, more or less so.
WORTH = np.array([[0.0, 0.4, 0.7, 1.0], [0.2, 0.0, 0.5, 1.0], [0.1, 0.6, 0.3, 0.9], [0.0, 0.3, 1.0, 0.8]])
HARM = np.array([[0.0, 0.1, 0.6, 1.0], [0.0, 0.3, 0.2, 0.9], [0.1, 0.4, 0.0, 0.8], [0.0, 0.2, 0.7, 0.3]])
TASK = games.TabularGame(np.full((4, 256, 256), 0.5), np.full((4, 256), 1 / 256), tau=ETA, language=LANGUAGE)
TOKENS = np.asarray(LANGUAGE.strings[0])


def worth(context: Context, batch: Batch, key: Key, *, scale: NonNegative = 1.0) -> Batch:
    """Stage: the reward, the mean worth of the letters."""
    return batch.replace(reward=scale * _mean(batch, WORTH))


def harm(context: Context, batch: Batch, key: Key) -> Batch:
    """Stage: the cost, the mean harm of the letters."""
    return batch.replace(reward=_mean(batch, HARM))


def _mean(batch: Batch, table: np.ndarray) -> Array:
    tokens = batch.need("tokens", of="a letter")
    return jnp.mean(jnp.asarray(table)[context_number(batch)[:, None, None], tokens], axis=-1)


def of_strings(table: np.ndarray) -> np.ndarray:
    """A number of every string in every context [X,K]."""
    return table[:, TOKENS].mean(-1)


def optimum(multiplier: float, scale: float) -> np.ndarray:
    """Where PPO on (scale r - lambda c) / (1 + lambda) with the KL to a uniform policy rests [X,K]."""
    value = (scale * of_strings(WORTH) - multiplier * of_strings(HARM)) / (1 + multiplier) / ETA
    share = np.exp(value - value.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True)


def right(limit: float, scale: float) -> float:
    """The multiplier at which the mean cost is the limit."""
    return float(brentq(lambda lam: (optimum(lam, scale) * of_strings(HARM)).sum(-1).mean() - limit, 0, 50))


def learner(limit: float, scale: float, rate: float, initial: float) -> Algorithm:
    return algorithms.safe_rlhf(
        games.table_policy(TASK), reward=fn(worth, scale=scale), costs={"harm": fn(harm)}, limits=(limit,), rate=rate,
        initial=initial, critic=games.table_policy(TASK, ("value",)), rewards=fn(stages.token_rewards, eta=ETA),
        advantage=fn(stages.gae, lam=0.95), n=8, epochs=2, optimizer=fn(adamw, learning_rate=0.03, weight_decay=0.0),
        start=games.start(TASK), max_tokens=4, stop=(),
    )  # fmt: skip


def interval(values: np.ndarray) -> dict[str, float]:
    """The mean over seeds and half of its 95 % interval, Student's t."""
    return {"mean": float(values.mean()), "half": float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))}


def row(name: str, limit: float, scale: float, rate: float, initial: float) -> dict[str, Any]:
    """The exact mean cost and reward of the last policies of every seed."""
    made, batch = learner(limit, scale, rate, initial), Contexts(4, 16)[0]
    played = grid([made], batch, steps=STEPS, seeds=range(SEEDS), every=EVERY, follow=("policy", "multipliers"))
    logits = np.asarray(played.tables["policy"]["logits"], np.float64)[0, :, -LAST:]
    share = np.exp(np.asarray(log_distribution(LANGUAGE, logits)))  # [seeds, last, X, K]
    cost, reward = ((share * of_strings(table)).sum(-1).mean((-1, -2)) for table in (HARM, WORTH))
    multiplier = np.exp(np.asarray(played.tables["multipliers"]["harm"])[0, :, -LAST:]).mean(-1)
    best = optimum(right(limit, scale), scale)
    return {
        "name": name, "limit": limit, "scale": scale, "by_seed": (cost - limit).tolist(),
        "excess": interval(cost - limit), "reward": interval(reward), "multiplier": interval(multiplier),
        "best_reward": float((best * of_strings(WORTH)).sum(-1).mean()), "right": right(limit, scale),
    }  # fmt: skip


def kept(found: dict[str, Any]) -> str:
    """Whether the whole interval of the mean cost lies near the limit."""
    mean, half = found["excess"]["mean"], found["excess"]["half"]
    return (
        "kept"
        if abs(mean) + half < NEAR
        else "above"
        if mean - half > NEAR
        else "below"
        if mean + half < -NEAR
        else "?"
    )


def markdown(found: list[dict[str, Any]]) -> str:
    def shown(value: dict[str, float]) -> str:
        return f"{value['mean']:.3f} ± {value['half']:.3f}"

    lines = [
        f"Means over {SEEDS} seeds with 95 % intervals (Student's t) of exact expectations under the last policies.",
        f"kept: the interval of the mean cost lies within {NEAR} of the limit. Written by `run.py`.",
        "",
        "| | limit | reward times | mean cost - limit | | reward | of the exact optimum | lambda | exact |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        numbers = [f"{each['limit']:g}", f"{each['scale']:g}", shown(each["excess"]), kept(each), shown(each["reward"]),
                   f"{each['best_reward']:.3f}", shown(each["multiplier"]), f"{each['right']:.3f}"]  # fmt: skip
        lines.append("| " + " | ".join([each["name"], *numbers]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=made_folder, default=HERE, help="where results are written")
    out = parser.parse_args(arguments).out
    weight = right(0.3, 1.0)  # what a person would have to know to fix it
    found = [row("Safe RLHF", limit, 1.0, 0.1, 1.0) for limit in (0.2, 0.3, 0.4)]
    found += [row("fixed weight", 0.3, 1.0, 0.0, weight)]
    found += [row("Safe RLHF", 0.3, 2.0, 0.1, 1.0), row("fixed weight", 0.3, 2.0, 0.0, weight)]
    (out / "results.json").write_text(json.dumps({"seeds": SEEDS, "steps": STEPS, "rows": found}, indent=1) + "\n")
    (out / "results.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main(sys.argv[1:])
