# %% [markdown]
# # Write a loss and see it learn
#
# A loss of a pair is a function of its *margin*: by how many nats the log-ratio of the preferred completion is above the other's.
# Masks, pairs, labels, references and the mean over the batch are the decorator's business. About 30 seconds of a CPU, most of it compiling.

# %%
import jax

from alignjax import losses


@losses.pairwise
def squared_hinge(margin, *, beta: float = 0.3):
    """Squared hinge: max(0, 1 - beta margin)^2."""
    return jax.nn.relu(1 - beta * margin) ** 2


# %% [markdown]
# The math alone stays reachable. Before anything is trained, look at it: where is it 0, where is it steep?

# %%
import numpy as np
from matplotlib import pyplot

margins = np.linspace(-6, 6, 200)
for name, values in {
    "squared hinge, beta 0.3": squared_hinge.per_pair(margins, beta=0.3),
    "ipo, tau 0.3": losses.ipo.per_pair(margins, 1.0, tau=0.3),
    "dpo, beta 1": losses.dpo.per_pair(margins, 1.0, beta=1.0),
}.items():
    pyplot.plot(margins, values, label=name)
pyplot.ylim(0, 8)
pyplot.xlabel("margin (nats)")
pyplot.ylabel("loss")
pyplot.legend()
pyplot.show()

# %% [markdown]
# ## A pipeline around it
#
# The task is to write eight letters in order. First a policy learns to write as lazy people do (`sft`); then it plays against itself,
# four samples a prompt, each pair judged by the exact judge, and learns by the new loss (`mine`). Everything but the loss is a part that
# exists. Here even the judge that decides is the one that it learns from, so this says whether the loss *learns*, not whether it
# is good: for that a judge that was trained has to stand between (`configs/losses.py`).

# %%
from alignjax import algorithms
from alignjax.config import Pipeline, fn
from alignjax.data.prepared import prepare
from alignjax.evaluate.tournament import Player, play
from alignjax.exact_tasks import SORTING
from alignjax.pipelines import exact_study
from alignjax.roles import restored
from alignjax.train.pipeline import run_pipeline
from alignjax.workspace import Workspace

sizes = exact_study.Sizes(SORTING, width=32, sft_steps=200, policy_steps=60, eval_batches=2)
model = exact_study.policy_model(sizes)
algorithm = algorithms.online(
    model,
    loss=fn(squared_hinge, beta=0.3),
    judge=SORTING.gold,
    judges={},
    n=4,
    start=restored("sft", "policy"),
    max_tokens=SORTING.max_tokens,
    optimizer=exact_study.optimizer(1e-3, sizes.policy_steps),
)
shown = {**exact_study.held_out(sizes), "judges": (("held_out", SORTING.gold),), "judge_model": None}
tournament = fn(
    play,
    players=(exact_study.SFT, Player("mine", "mine", label="squared hinge")),
    controls=(),
    dataset=sizes.dataset,
    measures=SORTING.measures,
    **shown,
)
steps = {
    "data": fn(prepare, dataset=sizes.dataset),
    "sft": exact_study.sft(sizes),
    "mine": exact_study.online(sizes, algorithm),
}
summaries = run_pipeline(Pipeline({**steps, "evaluate": tournament}), Workspace("runs/mine"))

# %% [markdown]
# ## Did it learn?
#
# The interval decides: the loss learns if all of it is above 1/2.

# %%
import json
from pathlib import Path

outcome = json.loads(Path("runs/mine/evaluate/tournament.json").read_text())
rate = outcome["win_rates"]["mine"]["sft"]
print(f"beats SFT on {rate['mean']:.3f} of {rate['n']} prompts (95 %: {rate['low']:.3f} to {rate['high']:.3f})")
for name, row in outcome["players"].items():
    print(f"{name:6} gold score {100 * row['measures']['score']['mean']:.1f} %")
assert rate["low"] > 0.5

# %%
from alignjax.evaluate.report.learning_curves import read_curves

curves = read_curves(Path("runs/mine/mine/metrics.jsonl"))
for number, name in enumerate(("loss", "pair/margin", "pair/accuracy"), 1):
    pyplot.subplot(1, 3, number)
    pyplot.plot(curves[name]["step"], curves[name]["value"])
    pyplot.title(name)
pyplot.tight_layout()
pyplot.show()

# %% [markdown]
# **Try**: another `beta`; `margin` and `preference` as parameters, to do with the label what you like; `ratio_w`, `ratio_l` for the
# two sides apart. `docs/losses.md` lists the losses that exist.
