# %% [markdown]
# # Quickstart on a CPU
#
# One command trains everything that preference optimization needs, from nothing, on a task whose answers can be checked:
# *write eight letters in order*. People demonstrate it lazily, a small transformer imitates them (SFT), a preference model
# learns from their judgments, and offline IPO, online IPO and IPO-MD learn from that model. An exact gold judge decides.
#
# `tiny` takes a few steps of everything, to see that it runs: **its numbers mean nothing**. `full` takes about six minutes of
# two CPU cores; then read the report as a result.

# %%
MODE = "tiny"  # or "full"
RUN = f"runs/quickstart-{MODE}"
# !alignjax train quickstart:{MODE} --run-dir {RUN}

# %% [markdown]
# `quickstart` is a config that comes with alignjax. `alignjax configs` lists the others, and `alignjax configs copy quickstart`
# writes it into this folder, to be edited. Interrupt a run and add `--resume`: it ends in the same bits.

# %%
# !alignjax configs | head -8

# %% [markdown]
# ## What to look at
#
# A run folder holds its config, the metrics and checkpoints of each step, `results.json` and the report. First the sentence that the
# intervals support, then whether the learned judge and the exact one agree: where they part, a policy pleases the learned judge alone.

# %%
import json
from pathlib import Path

from IPython.display import HTML, SVG, display

from alignjax.evaluate.report import wording

results = json.loads(Path(RUN, "results.json").read_text())
print(wording.headline(results))
for name, by_gold in results["win_rates"].items():
    if name != "sft":
        by_learned = results["win_rates_by_judge"]["training"][name]["sft"]["mean"]
        gold = by_gold["sft"]
        print(f"{name:15} gold {gold['mean']:.3f} ({gold['low']:.3f} to {gold['high']:.3f}), learned {by_learned:.3f}")

# %%
display(SVG(filename=f"{RUN}/learning_curves.svg"))

# %% [markdown]
# The report is one file that loads nothing. Every number in it leads to its definition.

# %%
display(HTML(f'<a href="{RUN}/report.html" target="_blank">report.html</a>'))

# %% [markdown]
# ## Ask the policy
#
# Any step of the run can be asked; `chat` and `serve` take the same places as `generate`.

# %%
Path("prompts.txt").write_text("hgfedcba\nabcabcab\n")
# !alignjax generate {RUN}/online_ipo --prompt-file prompts.txt --temperature 0 --max-tokens 10

# %% [markdown]
# **Try**: `--all.steps 50` changes a value in every step, `--online_ipo.algorithm.losses.pair.tau 0.2` one of them, and
# `alignjax compare RUN1 RUN2` puts two runs into one report.
