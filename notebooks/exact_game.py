# %% [markdown]
# # An exact game with its equilibrium
#
# Preferences need not be transitive. In a small game everything can be computed: the equilibrium to 13 digits, and what a method
# does on average, without sampling. So one sees where a method ends and where it should. A few seconds of a CPU.

# %%
import numpy as np

from alignjax import algorithms, games
from alignjax.config import fn
from alignjax.train.optimizers import sgd

game = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1, strength=(0.5, 0.25, 0.4))
print("P(row beats column)\n", np.round(game.preference, 3))
print("reference  ", game.reference)
equilibrium = games.nash(game)
print("equilibrium", np.round(equilibrium, 4), "with duality gap", f"{float(games.duality_gap(game, equilibrium)):.1e}")

# %% [markdown]
# ## Online IPO and IPO-MD, without sampling noise
#
# `games.exact` puts every ordered pair with its probability in the place of samples and judgments; loss, optimizer and loop are
# those of language models. IPO-MD samples a mixture of policy and reference with share `BETA`: its *mixture* should end at the equilibrium
# regularized by tau / (1 - BETA), and its policy beyond it.

# %%
BETA, STEPS = 0.25, 2000
policy = games.table_policy(game)
parts = {"tau": game.tau, "optimizer": fn(sgd, learning_rate=0.05), **games.parts(game)}
recipes = {
    "online IPO": algorithms.online_ipo(policy, **parts),
    "IPO-MD": algorithms.ipo_md(policy, beta=BETA, **parts),
}
paths = {}
for name, recipe in recipes.items():
    exact = games.exact(recipe, game.language)
    played = games.play(exact, games.contexts(None, 0, batch_size=1)[0], steps=STEPS, every=1)
    logits = played.tables["policy"]["logits"]
    paths[name] = np.exp(np.asarray(games.log_distribution(game.language, logits))).reshape(len(logits), -1)
paths["IPO-MD's mixture"] = games.geometric_mixture(game, paths["IPO-MD"], BETA)
beyond = games.nash(game.replace(tau=game.tau / (1 - BETA)))
for name, path in paths.items():
    print(f"{name:17} ends at {np.round(path[-1], 4)}")
print(f"{'equilibria':17} at tau {np.round(equilibrium, 4)}, at tau / (1 - beta) {np.round(beyond, 4)}")

# %% [markdown]
# ## Drawn
#
# A point of the triangle is a policy: a corner plays one action always.

# %%
from matplotlib import pyplot

CORNERS = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
pyplot.figure(figsize=(6, 5))
pyplot.fill(*CORNERS.T, facecolor="none", edgecolor="gray")
for corner, action in zip(CORNERS, ("rock", "paper", "scissors"), strict=True):
    pyplot.annotate(action, corner, ha="center", va="top" if corner[1] == 0 else "bottom")
for name, path in paths.items():
    pyplot.plot(*(np.vstack([game.reference, path]) @ CORNERS).T, label=name)
pyplot.plot(*(equilibrium @ CORNERS), "k*", ms=13, label="equilibrium at tau")
pyplot.plot(*(beyond @ CORNERS), "kx", ms=10, label="equilibrium at tau / (1 - beta)")
pyplot.plot(*(game.reference @ CORNERS), "ko", label="reference")
pyplot.axis("off")
pyplot.legend(loc="center left", bbox_to_anchor=(0.85, 0.7))
pyplot.show()

# %%
for name, path in paths.items():
    pyplot.semilogy(np.arange(1, len(path) + 1), games.duality_gap(game, path), label=name)
pyplot.xlabel("step")
pyplot.ylabel("duality gap at tau")
pyplot.legend()
pyplot.show()
np.testing.assert_allclose(paths["online IPO"][-1], equilibrium, atol=1e-3)
np.testing.assert_allclose(paths["IPO-MD's mixture"][-1], beyond, atol=1e-3)

# %% [markdown]
# **Try**: another `tau`; `games.cycle`, `games.intransitive`, `games.condorcet`; `games.unregularized_nash(game)`; every other recipe
# of `alignjax configs` under `games`. `alignjax sweep configs/games.py` runs 400 points of (tau, beta) as one compiled program.
