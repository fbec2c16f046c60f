"""A new loss is a function of the margin of a pair. Here it trains a policy on the pairs of a known game.

    python examples/new_loss.py

`squared_hinge` has no closed form for soft labels, so it is compared with IPO, whose solution of this game is known.
"""

from __future__ import annotations

import jax
import numpy as np

from alignjax import algorithms, games, losses
from alignjax.config import fn
from alignjax.train.optimizers import sgd

GAME = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1, strength=(0.5, 0.25, 0.4))
STEPS = 400


@losses.pairwise
def squared_hinge(margin: jax.Array, *, beta: float = 0.1) -> jax.Array:
    """Squared hinge: max(0, 1 - beta margin)^2.

    Args:
        margin: log-ratio of the winner minus that of the loser [..,K], in nats.
        beta: inverse temperature, per nat.

    Returns:
        The loss of every pair [..,K]; the decorator mixes it with the label, weighs and averages it.
    """
    return jax.nn.relu(1 - beta * margin) ** 2


def duality_gap(loss) -> float:
    """Trains on self-play with `loss` and returns how far the last policy is from the game's equilibrium, in [0, 1]."""
    policy = games.table_policy(GAME)
    optimizer = fn(sgd, learning_rate=0.05, schedule="linear", total_steps=STEPS)
    algorithm = algorithms.online(policy, loss=loss, optimizer=optimizer, **games.parts(GAME))
    batch = games.contexts(None, 0, batch_size=16)[0]
    played = games.play(algorithm, batch, steps=STEPS, seed=0)
    log_policy = games.log_distribution(GAME.language, played.state.roles["policy"]["logits"])
    return float(np.squeeze(games.duality_gap(GAME, np.exp(np.asarray(log_policy)).reshape(-1))))


if __name__ == "__main__":
    print(f"reference      {float(games.duality_gap(GAME, GAME.reference)):.4f}")
    print(f"ipo            {duality_gap(fn(losses.ipo, tau=GAME.tau)):.4f}")
    print(f"squared_hinge  {duality_gap(fn(squared_hinge, beta=0.4)):.4f}")
