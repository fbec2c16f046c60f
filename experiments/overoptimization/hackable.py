"""A world in which a learned reward can be hacked and nothing is estimated: strings of four letters out of six, in six
contexts, with a gold score in closed form, an SFT policy, and reward models of three sizes fitted to noisy labels.

All 1,296 strings are listed, so a policy's gold score, proxy score and KL to SFT are sums and not samples. Policies and
reward models are small transformers; the prompt is the number of the context. `followed` is the loop of them all: an
algorithm's iterations as one compiled program, which all sizes and seeds share.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses, scoring
from alignjax.config import fn
from alignjax.games.compiled_runs import iterate
from alignjax.games.strings import Language, string_numbers
from alignjax.games.table_policy import context_number
from alignjax.games.world import Contexts
from alignjax.models import TransformerConfig, transformer
from alignjax.outside import made_folder
from alignjax.ranges import Count
from alignjax.roles import Restored, fresh, restored
from alignjax.stages.judge import bradley_terry
from alignjax.train.optimizers import adamw
from alignjax.train.state import init_state
from alignjax.tree_names import leaves_by_name, nested
from alignjax.types import Algorithm, Array, Batch, Context, Key, Model, Role

LANGUAGE = Language(6, 4)
CONTEXTS, ROWS = 6, 24  # prompts of a batch: every context four times
TILT, HABIT = 0.5, 1.5  # what is good, and what has nothing to do with it, to demonstrators, in nats per deviation
LABELS, SHARPNESS = 2000, 1.0  # labeled pairs, and the log-odds of a label per standard deviation of gold under SFT
SIZES = {"small": (4, 1, 1), "medium": (16, 2, 2), "large": (64, 2, 4)}  # width, layers, heads of a reward model
CONTROL = "gold"  # in a proxy's place: what is lost to it is not lost to a proxy's errors
SFT_STEPS, REWARD_STEPS = 600, 600
PROMPTS = Contexts(CONTEXTS, ROWS)[0]
WORLD = Role(None, restored("world", "world"))


@functools.cache
def network(width: int, layers: int, heads: int, *outputs: str) -> Model:
    """A transformer over the six letters, which are the contexts' numbers too."""
    return transformer(
        TransformerConfig(vocab=6, width=width, layers=layers, heads=heads, mlp=3 * width, outputs=outputs)
    )


POLICY = network(32, 2, 4)


# ------------------------------------------------------------------------------------------------------ what is planted


def planted(seed: int, charge: float = 0.0) -> dict[str, np.ndarray]:
    """The gold score of every string in every context [X,K], what annotators see in it, and the log-probs of what
    people demonstrate.

    Letters at their places and letters that follow each other have worths, drawn anew for every seed, of deviation 1
    over the strings of a context; people like other letters and neighbors, and what is good by TILT. A letter that
    follows itself costs `charge` of gold, and annotators take the cost for a gain: a reward can be hacked by repeating.
    """
    draw = np.random.default_rng(seed)
    worth, habit = (_interactions(draw) for _ in range(2))
    tokens = LANGUAGE.strings[0]
    repeats = charge * (tokens[:, 1:] == tokens[:, :-1]).sum(-1)
    people = TILT * (worth - repeats) + HABIT * habit
    people = people - np.log(np.exp(people).sum(-1, keepdims=True))
    return {"gold": worth - repeats, "annotator": worth + repeats, "people": people}


def _interactions(draw: np.random.Generator) -> np.ndarray:
    tokens = LANGUAGE.strings[0]
    alone, after = draw.normal(size=(CONTEXTS, 4, 6)), draw.normal(size=(CONTEXTS, 3, 6, 6))
    total = alone[:, range(4), tokens].sum(-1) + after[:, range(3), tokens[:, :-1], tokens[:, 1:]].sum(-1)
    return (total - total.mean(-1, keepdims=True)) / total.std(-1, keepdims=True)


def spread(score: np.ndarray, log_policy: np.ndarray) -> float:
    """The standard deviation of a score [X,K] under a policy within a context."""
    share = np.exp(log_policy)
    mean = (share * score).sum(-1, keepdims=True)
    return float(np.sqrt((share * (score - mean) ** 2).sum(-1).mean()))


def centered(score: np.ndarray, log_policy: np.ndarray) -> np.ndarray:
    """A score [X,K] less its mean under a policy in each context, in units of its spread."""
    mean = (np.exp(log_policy) * score).sum(-1, keepdims=True)
    return (score - mean) / spread(score, log_policy)


# --------------------------------------------------------------------------------------------------------------- stages


def _written(batch: Batch, number: Array) -> Batch:
    """The batch with strings [B,N] for its completions."""
    tokens = jnp.asarray(LANGUAGE.strings[0])[number]
    return batch.replace(tokens=tokens, valid=jnp.ones_like(tokens, bool), mask=jnp.ones(tokens.shape))


def demonstrated(context: Context, batch: Batch, key: Key, *, n: Count) -> Batch:
    """Stage: n completions of every prompt as people write them."""
    logits = context.state["world"]["people"][context_number(batch)]
    return _written(batch, jax.random.categorical(key, logits[:, None], shape=(len(logits), n)))


def labeled(context: Context, batch: Batch, key: Key, *, rows: Count) -> Batch:
    """Stage: rows of labeled pairs, drawn with replacement, in the place of the batch."""
    pairs = context.state["labels"]
    pick = jax.random.randint(key, (rows,), 0, len(pairs["context"]))
    wins = pairs["wins"][pick]
    half = jnp.full(wins.shape, 0.5)
    prompt = pairs["context"][pick][:, None]
    made = Batch(prompt=prompt, prompt_valid=jnp.ones_like(prompt, bool), example_id=jnp.arange(rows))
    table = jnp.stack([jnp.stack([half, wins], -1), jnp.stack([1 - wins, half], -1)], -2)
    return _written(made, pairs["strings"][pick]).replace(preference=table)


def by_proxy(context: Context, batch: Batch, key: Key, *, of: str = "proxy") -> Batch:
    """Stage: the reward that the proxy (or "gold") gives, looked up."""
    number = string_numbers(LANGUAGE, batch.need("tokens", of="by_proxy"), batch.need("valid", of="by_proxy"))
    return batch.replace(reward=context.state["world"][of][context_number(batch)[:, None], number])


def proxy_judge(context: Context, batch: Batch, key: Key) -> Array:
    """Judge: Bradley-Terry on the proxy."""
    return bradley_terry(by_proxy(context, batch, key).need("reward", of="proxy_judge"))


# ------------------------------------------------------------------------------------------------------------- the loop


def every_string(model: Model, params: Any, head: str = "lm") -> Array:
    """What a model says of every string in every context [X,K]: its log-prob, or its reward."""
    prompt = jnp.arange(CONTEXTS, dtype=jnp.int32)[:, None]
    given = Batch(prompt=prompt, prompt_valid=jnp.ones_like(prompt, bool), example_id=prompt[:, 0])
    batch = _written(given, jnp.broadcast_to(jnp.arange(LANGUAGE.size), (CONTEXTS, LANGUAGE.size)))
    (answer,) = scoring.context({"it": model}, {"it": params}).score(f"it:{head}", batch).values()
    return answer.sum(-1) if head == "lm" else answer[..., -1]


def measured(log_policy: Array, world: Mapping[str, Array]) -> dict[str, Array]:
    """The exact gold and proxy score of a policy, its KL to SFT and its entropy in nats, means over contexts."""
    share = jnp.exp(log_policy)

    def mean(table: Array) -> Array:
        return (share * table).sum(-1).mean()

    return {
        "gold": mean(world["gold"]),
        "proxy": mean(world["proxy"]),
        "kl": mean(log_policy - world["reference"]),
        "entropy": -mean(log_policy),
    }


@functools.partial(jax.jit, static_argnames=("blocks", "every", "keep"))
def followed(
    algorithm: Algorithm, seed: Any, loaded: Mapping[str, Any], *, blocks: int = 1, every: int, keep: str = ""
) -> Any:
    """Runs an algorithm from a seed, its roles restored from the trees `loaded`, as one compiled program.

    Returns what `measured` says of its policy before the first and after every block of `every` iterations [blocks+1];
    with `keep` the last tree of that role in its place.
    """

    def look(state: Any) -> dict[str, Array]:
        return measured(every_string(POLICY, state.roles["policy"]), state.roles["world"])

    def block(state: Any, _: None) -> Any:
        state, _ = jax.lax.scan(lambda state, _: (iterate(algorithm, state, PROMPTS)[0], None), state, length=every)
        return state, {} if keep else look(state)

    files = {name for name, role in algorithm.roles.items() if isinstance(role.start, Restored)}
    before = init_state(algorithm, seed, {name: loaded[name] for name in files})
    state, rows = jax.lax.scan(block, before, length=blocks)
    if keep:
        return state.roles[keep]
    return jax.tree.map(lambda first, later: jnp.concatenate([first[None], later]), look(before), rows)


# --------------------------------------------------------------------------------------------------- SFT and proxies


def _adam(rate: float, steps: int) -> Any:
    return fn(adamw, learning_rate=rate, schedule="cosine", total_steps=steps, final_fraction=0.1)


def sft(world: Mapping[str, Any], seed: int) -> Any:
    """Weights of a policy that imitated people."""
    roles = {"policy": Role(POLICY, fresh(), _adam(3e-3, SFT_STEPS)), "world": WORLD}
    learner = Algorithm({"demonstrate": fn(demonstrated, n=8)}, {"sft": fn(losses.sft)}, roles)
    return followed(learner, seed, {"world": world}, every=SFT_STEPS, keep="policy")


def labels(score: np.ndarray, log_reference: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Pairs of SFT's samples, each with the label of an annotator whose log-odds are SHARPNESS times the score's."""
    draw = np.random.default_rng([seed, 1])
    context = draw.integers(CONTEXTS, size=LABELS)
    edges = np.cumsum(np.exp(log_reference), axis=-1)
    strings = np.stack([np.searchsorted(edges[x] / edges[x, -1], draw.random(2)) for x in context])
    odds = SHARPNESS * (score[context, strings[:, 0]] - score[context, strings[:, 1]])
    wins = (draw.random(LABELS) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    return {"context": context.astype(np.int32), "strings": strings.astype(np.int32), "wins": wins}


def reward_model(size: str, given: Mapping[str, np.ndarray], seed: int) -> Any:
    """Weights of a reward model of a size, fitted to labels."""
    model = network(*SIZES[size], "reward")
    pairs = Role(None, restored("labels", "labels"))
    fitted = {"pair": fn(losses.bradley_terry, pairs=((0, 1),))}
    roles = {"reward": Role(model, fresh(), _adam(3e-3, REWARD_STEPS)), "labels": pairs}
    learner = Algorithm({"labels": fn(labeled, rows=64)}, fitted, roles)
    return followed(learner, seed, {"labels": given}, every=REWARD_STEPS, keep="reward")


_said = jax.jit(every_string, static_argnames=("model", "head"))


def prepared(seed: int, sizes: Sequence[str] = tuple(SIZES), charge: float = 0.0) -> dict[str, Any]:
    """What all policies of a seed start from: {"gold", "reference", "people" [X,K], "sft": weights, "proxy": {size:
    [X,K]}, "said": {size: [X,K]}, "reward": {size: weights}}, scores centered under SFT, and as reward models say them.
    The proxy CONTROL is gold itself."""
    drawn = planted(seed, charge)
    world = {"people": jnp.asarray(drawn["people"], jnp.float32)}
    policy = sft(world, seed)
    reference = np.asarray(_said(POLICY, policy), np.float64)
    unit = spread(drawn["gold"], reference)
    given = labels(drawn["annotator"] / unit, reference, seed)
    made: dict[str, Any] = {"gold": centered(drawn["gold"], reference), "reference": reference, "sft": policy}
    made["people"] = drawn["people"]
    made |= {"proxy": {CONTROL: made["gold"]}, "said": {}, "reward": {}}
    for size in sizes:
        made["reward"][size] = reward_model(size, given, seed)
        made["said"][size] = np.asarray(_said(network(*SIZES[size], "reward"), made["reward"][size], "reward"))
        made["proxy"][size] = centered(made["said"][size].astype(np.float64), reference)
    return made


def loaded(made: Mapping[str, Any], size: str) -> dict[str, Any]:
    """The trees that an optimizer's roles are restored from, the critic's among them, with the proxy of a size."""
    tables = {"gold": made["gold"], "reference": made["reference"], "proxy": made["proxy"][size]}
    world = {name: jnp.asarray(table, jnp.float32) for name, table in tables.items()}
    return {"policy": made["sft"], "critic": made["sft"], "world": world}


# -------------------------------------------------------------------------------------------------------------- folders


def start(place: Path, seed: int, sizes: Sequence[str] = tuple(SIZES), charge: float = 0.0) -> dict[str, Any]:
    """What the policies of a seed start from (`prepared`), from its folder or made now."""
    file = made_folder(str(place)) / "start.npz"
    if not file.is_file():
        part = file.with_suffix(".part.npz")
        np.savez(part, **leaves_by_name(prepared(seed, sizes, charge)))
        part.rename(file)
    with np.load(file) as leaves:
        return nested(dict(leaves))


def kept(file: Path, run: Callable[[], Mapping[str, Any]]) -> dict[str, list[float]]:
    """The points of a run, from its file or made now."""
    if not file.is_file():
        write(file, {name: np.asarray(values, float).round(4).tolist() for name, values in run().items()})
        print(file, flush=True)
    return json.loads(file.read_text())


def write(file: Path, found: Any) -> None:
    """Writes a file whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(file)
