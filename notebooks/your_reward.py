# %% [markdown]
# # A reward of your own on your own model
#
# A reward is a Python function of texts. Here it teaches a model to write vowels. The model is made on the spot, small and random, in
# the format of published weights: put the path of a folder with `config.json`, `model.safetensors` and a tokenizer in its place. About
# 30 seconds of a CPU.

# %%
import json
from pathlib import Path

MODEL, PROMPTS, RUN = "my_model", "my_prompts.jsonl", "runs/vowels"

# %% [markdown]
# ## A stand-in for your model
#
# Leave this cell out if you have one.

# %%
import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from alignjax.models import TransformerConfig, huggingface, transformer

config = TransformerConfig(vocab=32, width=32, layers=2, heads=4, mlp=96)
params = transformer(config).init(jax.random.key(0))
huggingface.save(params, config, MODEL, extra={"max_position_embeddings": 128, "eos_token_id": 1, "pad_token_id": 0})
letters = {token: i for i, token in enumerate(["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz .:?"])}
backend = tokenizers.Tokenizer(models.WordLevel(letters))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
backend.add_special_tokens(["<pad>", "<eos>"])
backend.save(f"{MODEL}/tokenizer.json")
Path(MODEL, "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))

# %% [markdown]
# ## Prompts and a reward
#
# Rows are JSON; their other columns reach the function by name. It is called with all completions of a batch and returns a number for
# each, or None for no opinion. It may be async, and several functions may be weighed.

# %%
rows = [
    {"prompt": f"say {word}:", "wanted": "aeiou"}
    for word in ("hello", "ships", "a tree", "nothing", "more", "why", "it", "so")
]
Path(PROMPTS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def vowels(prompts, completions, wanted, **columns):
    """The share of wanted letters."""
    return [
        sum(letter in want for letter in text) / max(len(text), 1)
        for text, want in zip(completions, wanted, strict=True)
    ]


print(vowels(["say so:"], ["oh yeah"], ["aeiou"]))

# %% [markdown]
# ## Learn from it
#
# `rloo` weighs each of eight samples by its reward, less the mean of the other seven. Nothing else is needed: no trainer, no class.

# %%
from alignjax import algorithms, data, stages
from alignjax.config import Experiment, fn
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.workspace import Workspace

algorithm = algorithms.rloo(
    transformer(huggingface.config_of(MODEL)),
    reward=fn(stages.text_reward, function=vowels),
    n=8,
    start=huggingface.pretrained(MODEL),
    optimizer=fn(adamw, learning_rate=1e-2),
    max_tokens=12,
)
source = fn(data.prompts, dataset=data.Prompts(path=PROMPTS, tokenizer=MODEL), batch_size=8, prompt_length=16)
state = train(Experiment(algorithm, source, steps=60, log_every=5), Workspace(RUN))

# %%
from matplotlib import pyplot

from alignjax.evaluate.report.learning_curves import read_curves

curves = read_curves(Path(RUN, "metrics.jsonl"))
rewards = next(curve for name, curve in curves.items() if name.startswith("reward"))
pyplot.plot(rewards["step"], rewards["value"])
pyplot.xlabel("step")
pyplot.ylabel("share of vowels")
pyplot.show()
assert rewards["value"][-1] > rewards["value"][0] + 0.2

# %% [markdown]
# ## What it says now
#
# The answers that were rewarded stand in the run folder with what the function said, so that a resumed run replays them. Read some: a
# reward is learned as it is written, not as it is meant. This one never asked for words.

# %%
lines = sorted(Path(RUN, "answers").glob("*.jsonl"))[-1].read_text().splitlines()
for line in map(json.loads, lines[:5]):
    print(repr(line["prompt"]), repr(line["completion"]), line["scores"])

# %% [markdown]
# **Try**: `grpo`, `dapo` or `ppo` in the place of `rloo`; a penalty on repeated letters; `alignjax export` writes the policy as a folder
# that `transformers` loads. `docs/rewards.md` has verifiers, judges and language models as rewards.
