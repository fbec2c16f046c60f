"""Self-play on a small game with a known equilibrium: the algorithms, stages and loop of language models, in seconds.

    alignjax train configs/games.py                 # IPO-MD on an uneven rock-paper-scissors
    alignjax train configs/games.py:tiny
    alignjax train configs/games.py:strings         # any other of MODES
    alignjax sweep configs/games.py                 # a 20 x 20 grid of (tau, beta) with 10 seeds, one compiled program

Modes: an algorithm each (the names in RECIPES, from online_ipo to active_dpo); "exact", IPO-MD's expected dynamics,
every pair enumerated; "strings", IPO-MD on strings of up to three tokens, sampled and mixed token by token.
metrics.jsonl has the policy's duality gap in the game, its exploitability and its KL to the reference at every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from alignjax import algorithms, games, losses
from alignjax.config import Experiment, fn
from alignjax.train.optimizers import sgd
from alignjax.types import Algorithm

# Hyper-parameters for a game regularized by tau = 0.1, where a recipe's defaults are meant for language models. beta =
# 4 tau is DPO's match of tau. SPPO, DNO, ONPO, COMAL, iterated DPO and SELM play for the game without regularization:
# their gap at tau need not fall, see experiments/nash_games.
RECIPES: dict[str, Callable[..., Algorithm]] = {
    "online_ipo": algorithms.online_ipo,
    "ipo_md": algorithms.ipo_md,
    "online_dpo": partial(algorithms.online_dpo, beta=0.4),
    "online_slic": partial(algorithms.online_slic, beta=0.4),
    "oaif": partial(algorithms.oaif, loss=fn(losses.dpo, beta=0.4)),
    "osp": partial(algorithms.osp, beta=0.4),
    "iterated_dpo": partial(algorithms.iterated_dpo, beta=8.0, sync_every=10),
    "nash_md": algorithms.nash_md,
    "nash_ema": partial(algorithms.nash_ema, decay=0.9),
    "self_play_pg": algorithms.self_play_pg,
    "self_play_pool": partial(algorithms.self_play_pg, pool=8),
    "sppo": partial(algorithms.sppo, eta=0.5, completions="all", sync_every=10),
    "dno": partial(algorithms.dno, eta=2.0, sync_every=10),
    "inpo": partial(algorithms.inpo, eta=1.0, c=0.1, sync_every=10),
    "mnpo": partial(algorithms.mnpo, eta=1.0, c=0.1, sync_every=10),
    "comal": partial(algorithms.comal, eta=1.0, c=0.1, sync_every=10),
    "onpo": partial(algorithms.onpo, eta=0.5, sync_every=10),
    "egpo": algorithms.egpo,
    "xpo": partial(algorithms.xpo, loss=fn(losses.dpo, beta=0.4), alpha=0.01),
    "vpo": partial(algorithms.vpo, beta=0.4, alpha=0.001),
    "selm": partial(algorithms.selm, beta=8.0, alpha=0.002, sync_every=10),
    "active_dpo": partial(algorithms.active_dpo, beta=0.4, count=4),
}
# The gradient of a win rate is tau / 4 times that of online IPO, and the logistic loss's beta^2 / 8 times.
RATES = dict.fromkeys(("nash_md", "nash_ema", "self_play_pg", "self_play_pool"), 2.0)
RATES |= dict.fromkeys(("online_dpo", "oaif", "osp", "xpo", "vpo", "active_dpo"), 2.5)
RATES |= {"online_slic": 1.0, "sppo": 0.3, "dno": 0.3, "inpo": 0.15, "mnpo": 0.15, "comal": 0.15, "onpo": 0.15}
MODES = ("full", "tiny", *RECIPES, "exact", "strings")
GAME = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1, strength=(0.5, 0.25, 0.4))
STRINGS = games.sequence_game(0.1, seed=0, vocab=3, length=3)
BATCH = 16  # prompts, of two completions each


def get_config(mode: str = "full") -> Experiment:
    game = STRINGS if mode == "strings" else GAME
    steps = 20 if mode == "tiny" else 500
    recipe = RECIPES.get(mode, algorithms.ipo_md)
    optimizer = fn(sgd, learning_rate=RATES.get(mode, 0.05), schedule="linear", total_steps=steps)
    algorithm = recipe(games.table_policy(game), optimizer=optimizer, **games.parts(game))
    if mode == "exact":
        algorithm = games.exact(algorithm, game.language)
    measure = fn(games.measure, language=game.language, tau=game.tau)
    algorithm = dataclasses.replace(algorithm, experience={"measure": measure, **algorithm.experience})
    source = fn(games.contexts, batch_size=1 if mode == "exact" else BATCH)
    return Experiment(algorithm, source, steps=steps, log_every=steps // 20, checkpoint_every=steps)


# What `alignjax sweep` reads: the config at every point of a grid, from so many seeds, and what to say of the policies.
CONFIG = "ipo_md"
TAU, BETA = "algorithm.losses.pair.tau", "algorithm.experience.generate.behaviour.beta"
GRID = {TAU: tuple(np.geomspace(0.05, 1.0, 20)), BETA: tuple(np.linspace(0, 0.76, 20))}
SEEDS = 10


def measures(policy: np.ndarray, point: dict[str, float]) -> dict[str, np.ndarray]:
    """The duality gap, at the point's tau, of the policy [seeds,K] and of the mixture that is sampled. For beta > 0
    neither is 0 at the end of training: the mixture is the equilibrium at tau / (1 - beta)."""
    game = GAME.replace(tau=point[TAU])
    limit = game.replace(tau=game.tau / (1 - point[BETA]))
    mixture = games.geometric_mixture(game, policy, point[BETA])
    return {
        "duality gap of the policy at tau": games.duality_gap(game, policy),
        "duality gap of the mixture at tau": games.duality_gap(game, mixture),
        "duality gap of the mixture at tau / (1 - beta)": games.duality_gap(limit, mixture),
    }
