"""Online IPO on five tasks with a gold score in closed form, a mode each.

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

arithmetic: sums and differences of numbers of one to four digits, from people who forget four carries of five. A
policy that does not read the prompt is right with probability 0.028. experiments/rlvr_arithmetic has RL on it.

countdown: an expression of three numbers that has a given value, from people who mostly guess. Without reading the
prompt, one is right with probability 0.0022.

Judges are as noisy, large and well paid as asked: `parts.Sizes(task, label_noise=0.1, label_steps=20, judge_width=32)`
in a config of your own.
"""

from __future__ import annotations

from alignjax import exact_tasks
from alignjax.config import Pipeline
from alignjax.pipelines import exact_study as parts
from alignjax.pipelines.ipo_policies import ipo_policies

TASKS = {
    "sorting": exact_tasks.SORTING,
    "styles": exact_tasks.STYLES,
    "distinct": exact_tasks.DISTINCT,
    "arithmetic": exact_tasks.ARITHMETIC,
    "countdown": exact_tasks.COUNTDOWN,
}
TINY = "-tiny"
MODES = (*TASKS, *(name + TINY for name in TASKS))
TAU = 0.05  # strength of the regularization towards the SFT policy
BETA = 0.25  # weight of the reference in IPO-MD's mixture


def get_config(mode: str = "sorting") -> Pipeline:
    name = mode.removesuffix(TINY)
    sizes = parts.sizes_of(mode, TASKS[name])
    steps, players = ipo_policies(parts, sizes, tau=TAU, beta=BETA)
    return parts.compared(sizes, steps, *players, title=f"Online IPO and IPO-MD: {sizes.task.title}")
