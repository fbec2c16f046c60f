"""The parts of configs on exact tasks: SFT on demonstrations, drawn labels, a preference model, policies, a tournament
that the gold judge decides.

Every function takes `Sizes` and returns one step of a Pipeline, a part of one, or the whole. What pipelines/
summarization.py has under a name, this has under the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from alignjax import algorithms, stages
from alignjax.config import Experiment, Fn, Pipeline, check_ranges, fn
from alignjax.data import prepare
from alignjax.evaluate import over_optimization
from alignjax.evaluate.tournament import Player, play, write
from alignjax.exact_tasks import SORTING, ExactTask, Letters, letters, revised_letters
from alignjax.models import TransformerConfig, transformer
from alignjax.pipelines.judged_pairs import recorded_batches, self_play
from alignjax.pipelines.summarization import of_all_pairs as of_all_pairs, optimizer as optimizer
from alignjax.ranges import Count, Fraction, Natural, NonNegative
from alignjax.roles import restored
from alignjax.train.samples import decoded
from alignjax.types import Algorithm, Model


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Networks, batches (in prompts), runs (in steps), a learning rate per kind of run, and what labels cost.

    samples: completions per prompt in self-play, in the offline pairs and in the labels; all their pairs are labeled.
    label_steps: batches of `judge_batch_size` prompts whose pairs are labeled once by people, from whom the preference
    model learns. label_noise: probability that such a label is the wrong way round. judge_width, judge_layers: the
    preference model's; None for the policy's, whose weights it then starts from.
    """

    task: ExactTask = SORTING
    width: Count = 64
    layers: Count = 2
    judge_width: Count | None = None
    judge_layers: Count | None = None
    batch_size: Count = 64
    judge_batch_size: Count = 32
    policy_batch_size: Count = 32
    samples: Natural = 4
    sft_steps: Count = 600
    label_steps: Count = 60
    label_noise: Fraction = 0.0
    judge_steps: Count = 600
    policy_steps: Count = 200
    eval_batches: Count = 4
    eval_batch_size: Count = 256
    sft_rate: NonNegative = 3e-3
    judge_rate: NonNegative = 1e-3
    policy_rate: NonNegative = 2e-4

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def dataset(self) -> Letters:
        """The alphabet of the task."""
        return Letters(vocab_size=self.task.kinds + 4, alphabet=self.task.alphabet)

    @property
    def completion_length(self) -> int:
        """The length of an answer in tokens at most."""
        return self.task.max_tokens

    @property
    def vocab(self) -> int:
        """The number of tokens."""
        return self.dataset.vocab_size

    @property
    def labels(self) -> int:
        """The number of labels that the preference model learns from."""
        return self.label_steps * self.judge_batch_size * self.pairs_per_prompt

    @property
    def queries(self) -> int:
        """The number of pairs that the preference model labels for a policy, offline and online alike."""
        return self.policy_steps * self.policy_batch_size * self.pairs_per_prompt

    @property
    def pairs_per_prompt(self) -> int:
        """The number of pairs of a prompt's completions."""
        return self.samples * (self.samples - 1) // 2


def tiny(task: ExactTask = SORTING) -> Sizes:
    """Sizes at which everything takes a few steps, to see that it runs; the numbers mean nothing.

    Args:
        task: The task.
    """
    steps = {"sft_steps": 6, "label_steps": 2, "judge_steps": 4, "policy_steps": 4}
    batches = {"batch_size": 8, "judge_batch_size": 8, "policy_batch_size": 8, "samples": 2}
    return Sizes(task, width=16, layers=1, **batches, **steps, eval_batches=4, eval_batch_size=8)


def sizes_of(mode: str, task: ExactTask = SORTING) -> Sizes:
    """Returns the `tiny` sizes for a mode whose name ends with "tiny", and the full ones for any other.

    Args:
        mode: The mode of a config.
        task: The task.
    """
    return tiny(task) if mode.endswith("tiny") else Sizes(task)


# A model is one object per network, so that steps which run the same one share their compiled programs.
@functools.cache
def _network(vocab: int, width: int, layers: int, *outputs: str) -> Model:
    config = TransformerConfig(vocab=vocab, width=width, layers=layers, heads=4, mlp=3 * width)
    return transformer(dataclasses.replace(config, outputs=outputs) if outputs else config)


def policy_model(sizes: Sizes) -> Model:
    """Returns the language model: of the policy, the reference and the SFT run."""
    return _network(sizes.vocab, sizes.width, sizes.layers)


def judge_model(sizes: Sizes) -> Model:
    """Returns the preference model, whose output is an embedding."""
    return _network(sizes.vocab, sizes.judge_width or sizes.width, sizes.judge_layers or sizes.layers, "embedding")


def classifier_model(sizes: Sizes) -> Model:
    """Returns the classifier of prompts: the policy's backbone with a value as its output."""
    return _network(sizes.vocab, sizes.width, sizes.layers, "value")


def policy_optimizer(sizes: Sizes) -> Fn:
    """Returns the optimizer of everything that is trained from preferences."""
    return optimizer(sizes.policy_rate, sizes.policy_steps)


def posts(sizes: Sizes) -> dict[str, Any]:
    """Returns the options of the source `letters` for prompts alone."""
    return {"dataset": sizes.dataset, "length": sizes.task.length, "ask": sizes.task.ask}


def texts(sizes: Sizes) -> dict[str, Any]:
    """Returns the options of the source `letters` for prompts with a demonstration."""
    return posts(sizes) | {"max_tokens": sizes.task.max_tokens, "demonstrate": sizes.task.demonstrate}


def sft(sizes: Sizes) -> Experiment:
    """Returns the step that teaches a policy to write what people write."""
    algorithm = algorithms.sft(policy_model(sizes), optimizer=optimizer(sizes.sft_rate, sizes.sft_steps))
    source = fn(letters, batch_size=sizes.batch_size, split="demonstrations", **texts(sizes))
    return Experiment(algorithm, source, sizes.sft_steps)


def labels(sizes: Sizes) -> Experiment:
    """Returns the step that samples the SFT policy and draws a label for each pair from the task's annotator."""
    annotator = sizes.task.annotator
    if sizes.label_noise:
        annotator = fn(stages.flipped, judge=annotator, epsilon=sizes.label_noise)
    algorithm = algorithms.labelled_samples(
        policy_model(sizes),
        judge=fn(stages.bernoulli, judge=annotator),
        judges={},
        start=restored("sft", "policy"),
        max_tokens=sizes.completion_length,
        n=sizes.samples,
    )
    source = fn(letters, batch_size=sizes.judge_batch_size, split="labels", **posts(sizes))
    return Experiment(algorithm, source, sizes.label_steps)


def judge(sizes: Sizes, seed: int) -> Experiment:
    """Returns the step that trains a preference model on the labels, from the SFT policy's weights where it has the
    same backbone.

    Args:
        sizes: The sizes of the pipeline.
        seed: The seed of the run.
    """
    same = (sizes.judge_width or sizes.width, sizes.judge_layers or sizes.layers) == (sizes.width, sizes.layers)
    start: dict[str, Any] = {"start": restored("sft", "policy", grow=True)} if same else {}
    algorithm = algorithms.preference_model(
        judge_model(sizes),
        n=sizes.samples,
        reading="apart",
        optimizer=optimizer(sizes.judge_rate, sizes.judge_steps),
        **start,
    )
    source = recorded_batches("labels", labels(sizes), sizes.judge_batch_size)
    return Experiment(algorithm, source, sizes.judge_steps, seed=seed)


def judged(sizes: Sizes) -> dict[str, Any]:
    """Returns what a recipe of self-play takes beside a policy: the trained judge, and where everything starts."""
    return self_play(judge_model(sizes), max_tokens=sizes.completion_length, n=sizes.samples)


def online(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """Returns the step that runs an algorithm on fresh prompts.

    Args:
        sizes: The sizes of the pipeline.
        algorithm: The algorithm, with a role "policy".
    """
    source = fn(letters, batch_size=sizes.policy_batch_size, **posts(sizes))
    sample = fn(decoded, dataset=sizes.dataset)
    return Experiment(algorithm, source, sizes.policy_steps, sample=sample, sample_every=100)


def sampled_pairs(sizes: Sizes) -> Experiment:
    """Returns the step that samples the SFT policy and has the pairs labeled by the preference model: the fixed data of
    offline methods, on the prompts that online ones see, as many labels."""
    return online(sizes, algorithms.labelled_samples(policy_model(sizes), **judged(sizes)))


def judged_samples(sizes: Sizes) -> dict[str, Experiment]:
    """Returns the step "pairs", whose batches `recorded_samples` reads."""
    return {"pairs": sampled_pairs(sizes)}


def recorded_samples(sizes: Sizes) -> Fn:
    """Returns the source of prompts with the labeled SFT samples that the step "pairs" has written."""
    return recorded_batches("pairs", sampled_pairs(sizes), sizes.policy_batch_size)


def offline(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """Returns the step that runs an algorithm on the pairs that the step "pairs" has written.

    Args:
        sizes: The sizes of the pipeline.
        algorithm: An algorithm that learns from labeled pairs.
    """
    return Experiment(algorithm, recorded_samples(sizes), sizes.policy_steps)


def revised_texts(sizes: Sizes) -> Fn:
    """Returns the source of pairs of a right answer and a demonstration, with their differences marked."""
    return fn(revised_letters, batch_size=sizes.policy_batch_size, solve=sizes.task.solve, **texts(sizes))


def prepared(sizes: Sizes) -> dict[str, Any]:
    """Returns the steps that everything begins with: the alphabet, the SFT policy, the labels, and the judge that
    learns from them."""
    return {
        "data": fn(prepare, dataset=sizes.dataset),
        "sft": sft(sizes),
        "labels": labels(sizes),
        "preference": judge(sizes, seed=1),
    }


def held_out(sizes: Sizes) -> dict[str, Any]:
    """Returns what every evaluation takes: networks, the judges, of which gold decides, and prompts of their own."""
    source = fn(letters, batch_size=sizes.eval_batch_size, split="test", **texts(sizes))
    return {
        "model": policy_model(sizes),
        "judge_model": judge_model(sizes),
        "judges": (("held_out", sizes.task.gold), ("training", "preference")),
        "source": source,
        "batches": sizes.eval_batches,
        "max_tokens": sizes.completion_length,
    }


SFT = Player("sft", "sft", label="SFT", note="imitates what people write")


def tournament(sizes: Sizes, *players: Player) -> Fn:
    """Returns the step in which SFT, its controls, the players and the people meet on other prompts, decided by
    gold."""
    shown = {"dataset": sizes.dataset, "measures": sizes.task.measures}
    labels = (("held_out", "gold judge"), ("training", "learned judge"), ("human", "people"))
    return fn(play, players=(SFT, *players), labels=labels, **shown, **held_out(sizes))


def along_kl(sizes: Sizes, *points: over_optimization.Point) -> Fn:
    """Returns the step that measures over-optimization: gold and learned win rates of the points over their KL."""
    measures = sizes.task.measures
    return fn(over_optimization.measure, baseline=SFT, points=points, measures=measures, **held_out(sizes))


def budgets(sizes: Sizes) -> tuple[tuple[str, int], ...]:
    """Returns what the results of a policy cost, in labels and steps."""
    return (
        ("demonstrations for SFT", sizes.sft_steps * sizes.batch_size),
        ("labels drawn from people, for the learned judge", sizes.labels),
        ("labels asked of the learned judge, for each policy", sizes.queries),
        ("optimizer steps of each policy", sizes.policy_steps),
    )


def report(sizes: Sizes, title: str) -> Fn:
    """Returns the step that writes the report.

    Args:
        sizes: The sizes of the pipeline.
        title: The title of the report.
    """
    rated = [measure for measure in sizes.task.measures if measure.chance is not None]
    gold = [f"{m.label}: at most {m.maximum:.0%}, {100 * (m.chance or 0):.2g} % without reading it" for m in rated]
    note = f"The task: {sizes.task.title}. What a policy can reach, and without reading the prompt: {'; '.join(gold)}."
    return fn(write, title=title, dataset=sizes.dataset, budgets=budgets(sizes), notes=(note,))


def compared(sizes: Sizes, steps: Mapping[str, Any], *players: Player, title: str) -> Pipeline:
    """Puts a whole study together, from nothing to a report of win rates against the SFT policy by gold.

    Args:
      sizes: of networks and runs.
      steps: what stands between the judge and the tournament, by name.
      *players: the policies of those steps that take part in the tournament.
      title: of the report.

    Returns:
      The pipeline.
    """
    evaluated = {"evaluate": tournament(sizes, *players), "report": report(sizes, title)}
    return Pipeline({**prepared(sizes), **steps, **evaluated})
