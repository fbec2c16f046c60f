"""The parts of a study of a published language model: samples of it, labels by a gold judge, a learned judge, policies
with adapters, and an evaluation by gold.

Every function takes `Sizes` and returns one step of a Pipeline, a part of one, or the whole. Everything starts from the
step "start", whose role "policy" is the model itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from alignjax import algorithms, outside, stages
from alignjax.config import ConfigError, Experiment, Fn, Pipeline, check_ranges, fn
from alignjax.data import Dataset, prepare, prompts, tokenizer_of
from alignjax.evaluate.gold_study import Writer, measure, write
from alignjax.evaluate.verdicts import TIE
from alignjax.models import TransformerConfig, transformer
from alignjax.pair_layout import all_pairs
from alignjax.pipelines.judged_pairs import recorded_batches, self_play
from alignjax.pipelines.summarization import optimizer as optimizer
from alignjax.ranges import Amount, Count, Natural, NonNegative, Positive
from alignjax.roles import copy_of, restored, through
from alignjax.train.adapter_jobs import merge
from alignjax.train.samples import decoded
from alignjax.types import Algorithm, Model, Params, Role
from alignjax.workspace import Workspace

TEMPERATURES, BEST_OF = (0.0, 0.5, 0.75), (2, 4, 8)  # of the start model, as controls


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model, texts (in tokens), batches (in prompts), runs (in steps), and a learning rate per kind of run.

    network, start: the language model, and what role "policy" of the step "start" begins from. score: gold, a function
    of a text; prefer: the function of pairs from which labels are drawn. samples: completions per prompt in self-play
    and in the offline pairs; label_samples: in gold's labels. rank, alpha: of all adapters. judge_layers: of the
    backbone, the first ones, on which the learned judge stands.
    """

    dataset: Dataset
    network: TransformerConfig
    start: Any
    score: Callable[[str], float]
    prefer: Fn
    prompt_length: Count = 48
    completion_length: Count = 24
    rank: Count = 8
    alpha: Positive = 16.0
    samples: Natural = 4
    label_samples: Natural = 8
    judge_layers: Count = 6
    label_steps: Count = 24
    judge_steps: Count = 48
    judge_batch_size: Count = 8
    policy_steps: Count = 30
    policy_batch_size: Count = 4
    eval_batches: Count = 4
    eval_batch_size: Count = 16
    eval_samples: Count = 2
    judge_rate: NonNegative = 1e-3
    policy_rate: NonNegative = 5e-4

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.judge_layers > self.network.layers:
            raise ConfigError(f"judge_layers={self.judge_layers}: the model has {self.network.layers} layers")

    @property
    def labels(self) -> int:
        """The number of labels that the learned judge learns from."""
        return self.label_steps * self.judge_batch_size * self.label_samples * (self.label_samples - 1) // 2

    @property
    def queries(self) -> int:
        """The number of pairs that the learned judge labels for a policy, offline and online alike."""
        return self.policy_steps * self.policy_batch_size * self.samples * (self.samples - 1) // 2


# A model is one object per network, so that steps which run the same one share their compiled programs.
@functools.cache
def _network(config: TransformerConfig, *outputs: str) -> Model:
    return transformer(dataclasses.replace(config, outputs=outputs))


def policy_model(sizes: Sizes) -> Model:
    """Returns the language model: of the policy, the reference and the start."""
    return _network(sizes.network)


def judge_model(sizes: Sizes) -> Model:
    """Returns the preference model: the first layers of the language model's backbone with an embedding as their
    output, so that each completion is read once."""
    return _network(_judge_network(sizes), "mean_embedding")


def _judge_network(sizes: Sizes) -> TransformerConfig:
    return dataclasses.replace(sizes.network, layers=sizes.judge_layers)


def first_layers(params: Params, *, layers: Count) -> Params:
    """Returns the weights of a model without its later layers.

    Args:
        params: Params with stacked layers.
        layers: How many are kept.
    """
    return {**params, "layers": jax.tree.map(lambda leaf: leaf[:layers], params["layers"])}


def adapted(sizes: Sizes, algorithm: Algorithm, role: str = "policy") -> Algorithm:
    """Returns an algorithm whose role trains adapters in the place of whole weights.

    Args:
        sizes: The sizes of the pipeline.
        algorithm: The algorithm.
        role: The role.
    """
    return algorithms.with_lora(algorithm, adapted=(role,), rank=sizes.rank, alpha=sizes.alpha)


def _prompts(sizes: Sizes, batch_size: int, split: str = "train") -> Fn:
    return fn(prompts, dataset=sizes.dataset, batch_size=batch_size, prompt_length=sizes.prompt_length, split=split)


def start(sizes: Sizes) -> Experiment:
    """Returns the step that samples the model, has gold's labels drawn for each pair, and keeps the model as its role
    "policy", and its first layers, from which the judge starts, as role "backbone"."""
    judge = fn(stages.bernoulli, judge=fn(stages.text_judge, function=sizes.prefer))
    lengths: dict[str, Any] = {"max_tokens": sizes.completion_length, "n": sizes.label_samples}
    algorithm = algorithms.labelled_samples(policy_model(sizes), judge=judge, judges={}, start=sizes.start, **lengths)
    short = through(copy_of("policy"), fn(first_layers, layers=sizes.judge_layers))
    backbone = Role(_network(_judge_network(sizes)), short)
    algorithm = dataclasses.replace(algorithm, roles={**algorithm.roles, "backbone": backbone})
    return Experiment(algorithm, _prompts(sizes, sizes.judge_batch_size), sizes.label_steps)


def ceiling(workspace: Workspace, *, stage: str, prefer: Fn, dataset: Dataset) -> dict[str, float]:
    """Job that says how well a judge that knows gold would do on the labels that were drawn from it: what a learned
    judge's loss and accuracy on such labels are to be held against.

    Args:
        workspace: The workspace of this step.
        stage: The step that has sampled and labeled.
        prefer: The function of pairs of texts from which labels were drawn.
        dataset: The dataset whose tokenizer decodes the texts.

    Returns:
        {"accuracy": expected, of pairs on which gold has an opinion, "cross_entropy": in nats, of all pairs,
        "opinions": the share of pairs on which it has one}.
    """
    tokenizer, told = tokenizer_of(dataset, workspace), []
    for file in sorted((workspace.find(stage) / "batches").glob("*.npz")):
        with np.load(file) as batch:
            for tokens, valid in zip(batch["tokens"], batch["valid"], strict=True):
                texts = [tokenizer.decode(row[on]).strip() for row, on in zip(tokens, valid, strict=True)]
                told += prefer([(texts[i], texts[j]) for i, j in all_pairs(len(texts))])
    p = np.clip(told, 1e-12, 1 - 1e-12)
    sure = np.abs(p - 0.5) > TIE
    outcome = {
        "accuracy": float(np.maximum(p, 1 - p)[sure].mean()) if sure.any() else 0.5,
        "cross_entropy": float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()),
        "opinions": float(sure.mean()),
    }
    said = "a judge that knows gold agrees with {accuracy:.1%} of the drawn labels, cross-entropy {cross_entropy:.3f}"
    outside.console().print(said.format(**outcome), highlight=False, markup=False, soft_wrap=True)
    return outcome


def preference(sizes: Sizes) -> Algorithm:
    """Returns the algorithm that learns the judge from the labels: adapters on its own copy of the backbone."""
    algorithm = algorithms.preference_model(
        judge_model(sizes),
        n=sizes.label_samples,
        reading="averaged",
        optimizer=optimizer(sizes.judge_rate, sizes.judge_steps),
        start=restored("start", "backbone", grow=True),
    )
    return adapted(sizes, algorithm, "preference")


def judge(sizes: Sizes) -> Experiment:
    """Returns the step that trains the judge on the labels of the step "start"."""
    source = recorded_batches("start", start(sizes), sizes.judge_batch_size)
    return Experiment(preference(sizes), source, sizes.judge_steps)


def judged(sizes: Sizes) -> dict[str, Any]:
    """Returns what a recipe of self-play takes beside a policy: the learned judge, and where everything starts."""
    lengths = {"max_tokens": sizes.completion_length, "n": sizes.samples}
    return self_play(judge_model(sizes), judge="judge", start="start", reading="averaged", **lengths)


def policy_optimizer(sizes: Sizes) -> Fn:
    """Returns the optimizer of every policy."""
    return optimizer(sizes.policy_rate, sizes.policy_steps)


def online(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """Returns the step that runs an algorithm on the prompts of the train split.

    Args:
        sizes: The sizes of the pipeline.
        algorithm: The algorithm, with a role "policy".
    """
    sample = fn(decoded, dataset=sizes.dataset)
    source = _prompts(sizes, sizes.policy_batch_size)
    return Experiment(algorithm, source, sizes.policy_steps, sample=sample, sample_every=10, log_every=1)


def sampled_pairs(sizes: Sizes) -> Experiment:
    """Returns the step that samples the start model and has the pairs labeled by the learned judge: the fixed data of
    offline methods, on the prompts that online ones see, as many labels."""
    return online(sizes, algorithms.labelled_samples(policy_model(sizes), **judged(sizes)))


def offline(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """Returns the step that runs an algorithm on the pairs that the step "pairs" has written.

    Args:
        sizes: The sizes of the pipeline.
        algorithm: An algorithm that learns from labeled pairs.
    """
    source = recorded_batches("pairs", sampled_pairs(sizes), sizes.policy_batch_size)
    return Experiment(algorithm, source, sizes.policy_steps, log_every=1)


def prepared(sizes: Sizes) -> dict[str, Any]:
    """Returns the steps that everything begins with: the prompts, samples with gold's labels, what they can teach,
    and the judge that learns from them, whose adapters are then added to its weights."""
    return {
        "data": fn(prepare, dataset=sizes.dataset),
        "start": start(sizes),
        "labels": fn(ceiling, stage="start", prefer=sizes.prefer, dataset=sizes.dataset),
        "preference": judge(sizes),
        "judge": fn(merge, stage="preference", algorithm=lambda: preference(sizes), role="preference"),
    }


def evaluation(sizes: Sizes, writers: tuple[Writer, ...]) -> Fn:
    """Returns the step in which the start model, its controls and the policies answer held-out prompts, and gold
    decides.

    Args:
        sizes: The sizes of the pipeline.
        writers: The policies.
    """
    return fn(
        measure,
        model=policy_model(sizes),
        judge_model=judge_model(sizes),
        judge="judge",
        start="start",
        writers=writers,
        score=sizes.score,
        source=_prompts(sizes, sizes.eval_batch_size, "test"),
        dataset=sizes.dataset,
        batches=sizes.eval_batches,
        n=sizes.eval_samples,
        max_tokens=sizes.completion_length,
        temperatures=TEMPERATURES,
        best_of=BEST_OF,
    )


def compared(sizes: Sizes, policies: Mapping[str, Experiment], labels: Mapping[str, str], *, title: str) -> Pipeline:
    """Puts a whole study together, from the published model to a report by gold.

    Args:
        sizes: Of networks, texts and runs.
        policies: The steps behind the learned judge, by name.
        labels: The names in print of those steps whose role "policy" is evaluated.
        title: Of the report.
    """
    work = model_flops(sizes, len(labels))
    writers = tuple(Writer(name, label, lambda name=name: policies[name].algorithm) for name, label in labels.items())
    budgets = (
        ("labels drawn from gold, for the learned judge", sizes.labels),
        ("labels asked of the learned judge, for each policy", sizes.queries),
        ("optimizer steps of each policy", sizes.policy_steps),
    )
    ends = {"evaluate": evaluation(sizes, writers), "report": fn(write, title=title, budgets=budgets)}
    return Pipeline({"work": fn(say, flops=tuple(work.items())), **prepared(sizes), **policies, **ends})


def model_flops(sizes: Sizes, policies: Natural) -> dict[str, int]:
    """Counts the model FLOPs of a study by kind of work, full-length rows, a multiply-add being two, as
    benchmarks/sizes.py does: sampling is one forward, an update three, reading by a judge or the reference one.

    Args:
        sizes: The sizes of the pipeline.
        policies: The number of policies; one of them learns offline, from pairs that are sampled once.

    Returns:
        FLOPs by work. With adapters a backward needs about one forward rather than two, so updates do less than this.
    """
    net = sizes.network
    head_dim = net.head_dim or net.width // net.heads
    keys = (net.kv_heads or net.heads) * head_dim
    weights = 2 * net.width * (net.heads * head_dim + keys) + 3 * net.width * net.mlp  # of a layer
    prompt, length = sizes.prompt_length, sizes.completion_length

    def forward(completions: int, judge: bool = False) -> int:
        layers, head = (sizes.judge_layers, 0) if judge else (net.layers, 2 * net.width * net.vocab)
        seen = prompt * (prompt + 1) // 2 + completions * (length * prompt + length * (length + 1) // 2)
        tokens = prompt + completions * length
        scores = 4 * net.heads * head_dim * seen
        return layers * (2 * weights * tokens + scores) + head * completions * length

    samples, read = forward(sizes.samples), forward(sizes.samples, judge=True)
    labeled, learned = forward(sizes.label_samples), forward(sizes.label_samples, judge=True)
    rows = sizes.policy_steps * sizes.policy_batch_size
    asked = sizes.eval_batches * sizes.eval_batch_size
    draws = max(BEST_OF) // sizes.eval_samples + 1 + len(TEMPERATURES) + policies
    return {
        "samples with gold's labels": sizes.label_steps * sizes.judge_batch_size * labeled,
        "learned judge": 3 * sizes.judge_steps * sizes.judge_batch_size * learned,
        "policies": policies * rows * (5 * samples + read),  # sampled, judged, the reference, an update
        "evaluation": asked
        * (2 * draws * forward(sizes.eval_samples) + forward(draws * sizes.eval_samples, judge=True)),
    }


def say(workspace: Workspace, *, flops: tuple[tuple[str, Amount], ...]) -> dict[str, Any]:
    """Job that says what a study costs before it begins.

    Args:
        workspace: Not used.
        flops: Model FLOPs by kind of work.

    Returns:
        {"flops": all of them}.
    """
    total = sum(number for _, number in flops)
    each = ", ".join(f"{name} {number / 1e12:.3g}" for name, number in flops)
    outside.console().print(f"{total / 1e12:.3g} T model FLOPs: {each}", highlight=False, markup=False)
    return {"flops": total}
