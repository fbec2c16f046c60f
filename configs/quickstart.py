"""Online IPO and IPO-MD (arXiv:2403.08635) in miniature, on real text, from nothing: no download, no accelerator.

    alignjax train configs/quickstart.py            # about 5 minutes on 2 CPU cores
    alignjax train configs/quickstart.py:tiny       # the same pipeline in under a minute, for tests

The task is that paper's summarisation: posts are the docstrings of the Python packages installed here, the human TL;DR
is a docstring's summary line. A transformer learns post -> summary; two preference models p(y > y' | x) are trained on
human summaries against spoilt ones and samples, one to train against and one held out; then offline IPO, online IPO and
IPO-MD start from the same weights, with the same number of steps and pairs, and the held-out judge compares them all.
Expected: both online methods beat the SFT policy with an interval that excludes 50 %.
"""

from __future__ import annotations

import dataclasses

from alignjax import algorithms, stages
from alignjax.config import Experiment, Pipeline, fn
from alignjax.data import Docstrings, candidates, instructions, prepare, prompts, recorded
from alignjax.evaluate.tournament import Player, play, write
from alignjax.models import TransformerConfig, transformer
from alignjax.roles import restored
from alignjax.train.optimizers import adamw
from alignjax.train.step import experience_shapes
from alignjax.types import Role

MODES = ("full", "tiny")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What differs between the modes."""

    width: int = 128
    layers: int = 4
    sft_steps: int = 400
    judge_steps: int = 150
    policy_steps: int = 120
    batch_size: int = 32
    prompt_length: int = 64
    completion_length: int = 24
    eval_batches: int = 6
    eval_batch_size: int = 64
    dataset: Docstrings = dataclasses.field(default_factory=Docstrings)


TINY = Sizes(32, 2, 6, 4, 4, 8, 32, 12, 2, 16, Docstrings(vocab_size=1024, max_share=0.02))

TAU = 0.1
BETA = 0.125


def get_config(mode: str = "full") -> Pipeline:
    sizes = TINY if mode == "tiny" else Sizes()
    trunk = {"vocab": 4096, "width": sizes.width, "layers": sizes.layers, "heads": 4, "mlp": 3 * sizes.width}
    policy = transformer(TransformerConfig(**trunk))
    judge = transformer(TransformerConfig(**trunk, outputs=("preference",)))
    lengths = {"dataset": sizes.dataset, "prompt_length": sizes.prompt_length, "long_prompts": "truncate_right"}
    pairs = lengths | {"completion_length": sizes.completion_length, "long_completions": "skip"}

    def optimizer(rate: float, steps: int) -> object:
        return fn(
            adamw,
            learning_rate=rate,
            schedule="cosine",
            warmup_steps=max(1, steps // 20),
            total_steps=steps,
            final_fraction=0.1,
            max_grad_norm=1.0,
        )

    def judge_training(seed: int) -> Experiment:
        algorithm = algorithms.preference_model(
            judge,
            n=4,
            sampler=Role(policy, restored("sft", "policy")),
            max_tokens=sizes.completion_length,
            optimizer=optimizer(2e-3, sizes.judge_steps),
        )
        source = fn(candidates, batch_size=sizes.batch_size, **pairs)
        return Experiment(algorithm, source, sizes.judge_steps, seed=seed)

    judged = {
        "judge": fn(stages.preference_model),
        "judges": {"preference": Role(judge, restored("preference", "preference"))},
        "start": restored("sft", "policy"),
        "max_tokens": sizes.completion_length,
    }
    parts = {"optimizer": optimizer(5e-4, sizes.policy_steps)}
    posts = fn(prompts, batch_size=sizes.batch_size, **lengths)

    def online(algorithm: object) -> Experiment:
        return Experiment(algorithm, posts, sizes.policy_steps)

    sft = Experiment(
        algorithms.sft(policy, optimizer=optimizer(3e-3, sizes.sft_steps)),
        fn(instructions, batch_size=sizes.batch_size, **pairs),
        sizes.sft_steps,
    )
    sampling = online(algorithms.labelled_samples(policy, **judged))
    offline = Experiment(
        algorithms.ipo(policy, tau=TAU, start=restored("sft", "policy"), **parts),
        fn(recorded, stage="pairs", batch_size=sizes.batch_size, like=lambda: experience_shapes(sampling)),
        sizes.policy_steps,
    )
    held_out = {"split": "test", "shuffle": False, "batch_size": sizes.eval_batch_size}
    tournament = fn(
        play,
        model=policy,
        judge_model=judge,
        players=(
            Player("sft", "sft", label="SFT", note="supervised on human summaries"),
            Player("offline_ipo", "offline_ipo", label="offline IPO", note="IPO on labelled pairs of SFT samples"),
            Player("online_ipo", "online_ipo", label="online IPO", note="self-play on its own samples"),
            Player("ipo_md", "ipo_md", label="IPO-MD", note=f"self-play on samples of the mixture, beta = {BETA}"),
        ),
        judges=(("held_out", "held_out"), ("training", "preference")),
        source=fn(instructions, **pairs | held_out),
        judge_source=fn(candidates, **pairs | held_out),
        dataset=sizes.dataset,
        batches=sizes.eval_batches,
        max_tokens=sizes.completion_length,
    )
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": sft,
            "preference": judge_training(seed=1),
            "held_out": judge_training(seed=2),
            "pairs": sampling,
            "offline_ipo": offline,
            "online_ipo": online(algorithms.online_ipo(policy, tau=TAU, **judged, **parts)),
            "ipo_md": online(algorithms.ipo_md(policy, tau=TAU, beta=BETA, **judged, **parts)),
            "evaluate": tournament,
            "report": fn(write, title="Online IPO and IPO-MD on docstring summaries", dataset=sizes.dataset),
        }
    )
