"""A preference game small enough to solve: where a method should end, and where its exact dynamics end.

    python examples/exact_game.py

IPO-MD (arXiv:2403.08635) samples a mixture of policy and reference. Its *mixture*, not its policy, ends at the
equilibrium regularized by tau / (1 - beta); expectations are by enumeration, so no sampling noise blurs it.
"""

from __future__ import annotations

import numpy as np

from alignjax import algorithms, games
from alignjax.config import fn
from alignjax.train.optimizers import sgd

GAME = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1, strength=(0.5, 0.25, 0.4))
BETA, STEPS = 0.25, 3000


def main() -> None:
    """Plays IPO-MD's expected dynamics and prints the policies and their duality gaps."""
    optimizer = fn(sgd, learning_rate=0.05)
    recipe = algorithms.ipo_md(
        games.table_policy(GAME), tau=GAME.tau, beta=BETA, optimizer=optimizer, **games.parts(GAME)
    )
    exact = games.exact(recipe, GAME.language)  # every ordered pair with its probability, in place of samples
    played = games.play(exact, games.contexts(None, 0, batch_size=1)[0], steps=STEPS)
    logits = played.state.roles["policy"]["logits"]
    policy = np.exp(np.asarray(games.log_distribution(GAME.language, logits))).reshape(-1)
    mixture = games.geometric_mixture(GAME, policy, BETA)
    limit = GAME.replace(tau=GAME.tau / (1 - BETA))
    for name, player in {"reference": GAME.reference, "policy": policy, "mixture": mixture}.items():
        gap, limit_gap = (float(games.duality_gap(game, player)) for game in (GAME, limit))
        print(f"{name:9}  {np.round(player, 3)}  gap at tau {gap:.5f}, at tau / (1 - beta) {limit_gap:.5f}")
    print(f"equilibrium at tau / (1 - beta): {np.round(games.nash(limit), 3)}")


if __name__ == "__main__":
    main()
