"""Online IPO on three tasks with a gold score in closed form, a mode each.

    alignjax train configs/exact_tasks.py:sorting
    alignjax train configs/exact_tasks.py:styles-tiny     # a few steps, to see that it runs

sorting: eight letters in order, from lazy demonstrations (the task of configs/quickstart.py). Gold score at most 1; a
policy that does not read the prompt reaches 0.501, and sorts exactly with probability 0.00009.

styles: six letters ascending, descending or as they stand, whose gold preference is a cycle (0.8, 0.7, 0.65). Its Nash
mixture is 4/13, 3/13, 6/13 of the three, against which nobody has more than 1/2. A policy's shares of the styles stand
in the report, and how often a rival of each style beats it: the largest is its exploitability. People mostly write
descending. Without reading the prompt, an answer is without a fault with probability 0.00024.

distinct: each letter of eight once. The annotators whose labels the judge learns from like long answers: 3 in log-odds
per letter, where a letter too many costs at most 12 / (letters that the prompt has) by gold. So the learned judge can
be hacked by length, which its win rate hides, and gold and the length-controlled win rate do not. Gold score at most
1; without reading the prompt 0.14.

Judges are as noisy, large and well paid as asked: `parts.Sizes(task, label_noise=0.1, label_steps=20, judge_width=32)`
in a config of your own.
"""

from __future__ import annotations

from alignjax import algorithms, exact_tasks
from alignjax.config import Pipeline, fn
from alignjax.evaluate.tournament import Player
from alignjax.pipelines import exact_study as parts
from alignjax.sampling import mixture

TASKS = {"sorting": exact_tasks.SORTING, "styles": exact_tasks.STYLES, "distinct": exact_tasks.DISTINCT}
TINY = "-tiny"
MODES = (*TASKS, *(name + TINY for name in TASKS))
TAU = 0.05  # strength of the regularization towards the SFT policy
BETA = 0.25  # weight of the reference in IPO-MD's mixture


def get_config(mode: str = "sorting") -> Pipeline:
    name = mode.removesuffix(TINY)
    sizes = parts.sizes_of(mode, TASKS[name])
    model, judged, optimizer = parts.policy_model(sizes), parts.judged(sizes), parts.policy_optimizer(sizes)
    offline = algorithms.ipo(model, tau=TAU, start=judged["start"], n=judged["n"], optimizer=optimizer)
    online = algorithms.online_ipo(model, tau=TAU, optimizer=optimizer, **judged)
    mixed = algorithms.ipo_md(model, tau=TAU, beta=BETA, optimizer=optimizer, **judged)
    steps = {
        "pairs": parts.sampled_pairs(sizes),
        "offline_ipo": parts.offline(sizes, offline),
        "online_ipo": parts.online(sizes, online),
        "ipo_md": parts.online(sizes, mixed),
    }
    players = (
        Player("offline_ipo", "offline_ipo", label="offline IPO"),
        Player("online_ipo", "online_ipo", label="online IPO"),
        Player("ipo_md", "ipo_md", label="IPO-MD"),
        Player("ipo_md_mixture", "ipo_md", label="IPO-MD, mixture", behaviour=fn(mixture, beta=BETA)),
    )
    return parts.compared(sizes, steps, *players, title=f"Online IPO and IPO-MD: {sizes.task.title}")
