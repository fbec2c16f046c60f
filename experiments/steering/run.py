"""Does a direction between positive and negative sentences steer the sentiment of a language model's answers, and what
does it cost in perplexity?

pip install 'alignjax[gguf,sentiment]'
python experiments/steering/run.py
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import scoring, steering
from alignjax.cli.config_file import imported
from alignjax.cli.open_model import open_model
from alignjax.data.sources.batch_layout import pad_left
from alignjax.evaluate.intervals import interval
from alignjax.evaluate.sentiment import sentiment
from alignjax.models import fetched
from alignjax.outside import made_folder
from alignjax.sampling import Sampling, generate
from alignjax.serving import OpenedModel
from alignjax.types import Batch, Model, Params

HERE = Path(__file__).resolve().parent
PROMPTS = imported(HERE.parents[1] / "configs" / "smollm2.py")  # those of the study with training
MODEL = "smollm2-135m-instruct"
LAYER = 15  # of 30, the middle
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
CONTROLS = (-2.0, 2.0)  # strengths of a random direction of the same length
PAIRS = (
    ("I loved {}, it was wonderful.", "I hated {}, it was terrible."),
    ("What a great experience {} turned out to be!", "What an awful experience {} turned out to be!"),
    ("I am so happy about {}.", "I am so sad about {}."),
)
TOKENS, SAMPLES, ASKED = 24, 2, 32
LENGTH = 64  # of prompts


def batch_of(opened: OpenedModel, texts: Sequence[str], completions: Sequence[str] = ()) -> Batch:
    """Prompts, each a message of the user, with an answer each if there are some."""
    rows = [
        pad_left(ids, LENGTH, opened.tokenizer.pad)
        for ids in opened.prompt_ids([[{"role": "user", "content": text}] for text in texts])
    ]
    prompt, valid = (jnp.asarray(np.stack(part)) for part in zip(*rows, strict=True))
    batch = Batch(prompt=prompt, prompt_valid=valid, example_id=jnp.arange(len(texts), dtype=jnp.int32))
    if not completions:
        return batch
    ids = [opened.tokenizer.encode(text)[:TOKENS] for text in completions]
    tokens = np.zeros((len(ids), 1, TOKENS), np.int32)
    for row, each in zip(tokens, ids, strict=True):
        row[0, : len(each)] = each
    lengths = np.array([len(each) for each in ids])[:, None, None]
    return batch.replace(tokens=jnp.asarray(tokens), valid=jnp.asarray(np.arange(TOKENS) < lengths))


@functools.partial(jax.jit, static_argnames="model")
def answers_states(model: Model, params: Params, batch: Batch) -> jax.Array:
    return steering.completion_states(model, params, batch)[:, 0]


def contrast(opened: OpenedModel, topics: Sequence[str]) -> tuple[jax.Array, jax.Array]:
    """States [pairs,L,D] of positive and of negative sentences about topics."""
    found = []
    for side in (0, 1):
        texts = [pair[side].format(topic) for pair in PAIRS for topic in topics]
        asked = [f"Write one sentence about {topic}." for _ in PAIRS for topic in topics]
        states = [
            answers_states(opened.model, opened.params, batch_of(opened, asked[k : k + 24], texts[k : k + 24]))
            for k in range(0, len(texts), 24)
        ]
        found.append(jnp.concatenate(states))
    return found[0], found[1]


@functools.partial(jax.jit, static_argnames=("model", "stop"))
def sampled(
    model: Model, params: Params, direction: Any, strength: Any, batch: Batch, key: Any, *, stop: tuple[int, ...]
) -> Any:
    """Answers of the steered model, and their log-probs under it and under the model as it is."""
    steered = steering.steered(params, {"block": direction}, strength=strength)
    context = scoring.context({"policy": model, "start": model}, {"policy": steered, "start": params})
    drawn = generate(context, batch, key, Sampling(SAMPLES, TOKENS, stop=stop))
    answers = batch.replace(tokens=drawn.tokens, valid=drawn.valid)
    return drawn.tokens, drawn.valid, context.score("start", answers)["start"]


def measured(opened: OpenedModel, batch: Batch, direction: jax.Array, strength: float) -> dict[str, Any]:
    """Of each prompt: gold, nats under the model as it is, tokens, and its answers."""
    key = jax.random.key(0)  # the same for all strengths
    drawn = sampled(opened.model, opened.params, direction, strength, batch, key, stop=opened.stops)
    tokens, valid, logps = map(np.asarray, drawn)
    texts = [
        [opened.tokenizer.decode(ids[on]) for ids, on in zip(*each, strict=True)]
        for each in zip(tokens, valid, strict=True)
    ]
    gold = np.array([[sentiment(text) for text in row] for row in texts]).mean(1)
    return {"gold": gold, "nats": -logps.sum((1, 2)), "tokens": valid.sum((1, 2)), "texts": texts}


def row_of(one: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The statistics of a strength; differences are taken prompt by prompt."""
    nats = np.stack([one["nats"], one["tokens"]], 1)
    return {
        "gold": dict(interval(one["gold"])),
        "moved": dict(interval(one["gold"] - plain["gold"])),
        "perplexity": dict(interval(nats, lambda means: np.exp(means[..., 0] / means[..., 1]))),
        "example": one["texts"][0][0],
    }


def study(opened: OpenedModel) -> dict[str, Any]:
    """The direction, how well a probe tells held-out sentences, and the curve of both directions over strength."""
    positive, negative = contrast(opened, PROMPTS.TRAIN.split("; ")[::2])
    held_out = contrast(opened, PROMPTS.TEST.split("; ")[::3])
    direction = steering.layers_only(steering.difference_of_means(positive, negative), [LAYER])
    principal = steering.principal_direction(positive, negative)[LAYER]
    probe = steering.linear_probe(positive[:, LAYER], negative[:, LAYER])
    random = jnp.zeros_like(direction).at[LAYER].set(jax.random.normal(jax.random.key(1), direction.shape[1:]))
    random = random * jnp.linalg.norm(direction) / jnp.linalg.norm(random)
    kinds, topics = PROMPTS.KINDS, PROMPTS.TEST.split("; ")
    asked = [kinds[k % len(kinds)].format(topics[k % len(topics)]) for k in range(ASKED)]
    batch = batch_of(opened, asked)
    plain = measured(opened, batch, direction, 0.0)
    curves: dict[str, dict[str, Any]] = {"sentiment": {}, "random": {}}
    for name, vector, strengths in (("sentiment", direction, STRENGTHS), ("random", random, CONTROLS)):
        for strength in strengths:
            curves[name][f"{strength:g}"] = row_of(measured(opened, batch, vector, strength), plain)
            print(name, strength, curves[name][f"{strength:g}"], flush=True)
    unit = direction[LAYER] / jnp.linalg.norm(direction[LAYER])
    return {
        "layer": LAYER,
        "norm": float(jnp.linalg.norm(direction)),
        "norm of states": float(jnp.mean(jnp.linalg.norm(positive[:, LAYER], axis=-1))),
        "cosine with the principal direction": float(unit @ principal),
        "accuracy of the probe on other topics": float(
            steering.probe_accuracy(probe, *(states[:, LAYER] for states in held_out))
        ),
        "curves": curves,
        "vector": np.asarray(direction),
    }


def table(curves: Mapping[str, Any]) -> list[str]:
    shown = lambda one: f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"  # noqa: E731
    lines = ["| direction | strength | gold | moved by | perplexity | an answer |", "| --- " * 6 + "|"]
    for name, rows in curves.items():
        for strength, row in rows.items():
            words = " ".join(row["example"].split()).replace("|", "/")
            cells = (name, strength, shown(row["gold"]), shown(row["moved"]), shown(row["perplexity"]), words)
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/steering"), help="where the control vector goes")
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    sentiment("")  # says what to install, if it is missing
    opened = open_model(str(fetched(MODEL)))
    found = study(opened)
    file = given.folder / "sentiment.gguf"
    steering.write_control_vector(file, jnp.asarray(found.pop("vector")), hint="llama")
    (given.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"Gold (VADER) and perplexity under the model as it is, of {SAMPLES} answers to each of {ASKED} prompts, with "
        "95 % intervals over prompts. Written by `run.py`.",
        "",
        *[f"- {name}: {found[name]:.3g}" for name in found if name != "curves"],
        "",
        *table(found["curves"]),
    ]
    (given.out / "results.md").write_text("\n".join(lines) + "\n")
    print(f"alignjax generate {fetched(MODEL)} --steer {file} --strength 1")


if __name__ == "__main__":
    main()
