"""A new online algorithm is a record: stages that make a batch, losses that read it, roles that live beside it.

    python examples/new_online_algorithm.py

Here the policy plays against a slow average of itself and learns, by IPO, from the judge's view of both samples. No
loop, no class: the record below runs in `games.play`, in `alignjax train` and on a mesh as it stands.
"""

from __future__ import annotations

import numpy as np

from alignjax import games, losses, roles, stages
from alignjax.config import fn
from alignjax.sampling import own
from alignjax.train.optimizers import sgd
from alignjax.types import Algorithm, Role

GAME = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1, strength=(0.5, 0.25, 0.4))
STEPS = 1000


def average_opponent(model, *, tau: float, decay: float, learning_rate: float) -> Algorithm:
    """Builds IPO on one sample of the policy and one of its exponential moving average."""
    parts = games.parts(GAME)
    sample = {"max_tokens": parts["max_tokens"], "stop": parts["stop"], "n": 1}
    experience = {
        "generate": fn(stages.generate, **sample),
        "opponent": fn(stages.generate, behaviour=fn(own, stream="average"), **sample),
        "prefer": fn(stages.prefer, judge=parts["judge"]),
        "reference": fn(stages.logprobs, role="reference"),
    }
    optimizer = fn(sgd, learning_rate=learning_rate, schedule="linear", total_steps=STEPS)
    players = {
        "policy": Role(model, parts["start"], optimizer),
        "average": Role(model, roles.copy_of("policy"), rule=fn(roles.ema, of="policy", decay=decay)),
        "reference": Role(model, roles.copy_of("policy")),
    }
    return Algorithm(experience, {"pair": fn(losses.ipo, tau=tau)}, {**players, **parts["judges"]})


if __name__ == "__main__":
    algorithm = average_opponent(games.table_policy(GAME), tau=GAME.tau, decay=0.9, learning_rate=0.05)
    batch = games.contexts(None, 0, batch_size=16)[0]
    for seed in range(3):
        played = games.play(algorithm, batch, steps=STEPS, seed=seed, follow=("policy", "average"))
        for name in ("policy", "average"):
            log_policy = games.log_distribution(GAME.language, played.state.roles[name]["logits"])
            gap = float(games.duality_gap(GAME, np.exp(np.asarray(log_policy)).reshape(-1)))
            print(f"seed {seed}: {name:8} duality gap {gap:.4f}")
