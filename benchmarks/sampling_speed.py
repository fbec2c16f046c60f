"""Ways to sample the same completions, timed one after the other: lockstep, slots that are refilled, lighter weights.

    python -m benchmarks.sampling_speed --size small --slots 16 32

Completion lengths are geometric (a stop token with a fixed probability at every step), so that some are stragglers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import stages
from alignjax.config import Fn, fn
from alignjax.models import TransformerConfig, transformer
from alignjax.sampling import History
from alignjax.scoring import context
from alignjax.types import Array, Batch

SIZES = {  # 8.4 and 110 million parameters, float32
    "small": {"vocab": 8192, "width": 256, "layers": 4, "heads": 4, "mlp": 1024},
    "medium": {"vocab": 16384, "width": 768, "layers": 12, "heads": 12, "mlp": 2048},
}
STOP = 2


def stopping(logits: dict[str, Array], history: History, *, mean: float, stream: str = "policy") -> Array:
    """The policy, but for a stop token of probability 1/mean."""
    there = jnp.arange(logits[stream].shape[-1]) == STOP
    others = jax.nn.log_softmax(jnp.where(there, -1e30, logits[stream]))
    return jnp.where(there, -jnp.log(mean), others + jnp.log1p(-1 / mean))


def sampler(size: str, prompts: int, stage: Fn) -> Callable[[], Any]:
    """A compiled call that samples and gives (batch, metrics)."""
    config = TransformerConfig(**SIZES[size])
    model = transformer(config)
    prompt = np.random.default_rng(1).integers(4, config.vocab, (prompts, 64), dtype=np.int32)
    batch = Batch(prompt=prompt, prompt_valid=np.ones(prompt.shape, bool), example_id=np.arange(prompts))

    def sample(params: Any, batch: Batch, key: Any) -> tuple[Batch, Any]:
        metrics: Any = {}
        now = context({"policy": model}, {"policy": params}, metrics=metrics)
        return stage(now, batch, key), {name: mean.value() for name, mean in metrics.items()}

    arguments = (jax.jit(model.init)(jax.random.key(0)), batch, jax.random.key(0))
    compiled = jax.jit(sample).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def timed(call: Callable[[], Any], rounds: int) -> tuple[Any, float, float]:
    """(result, wall, CPU): the least seconds of any round."""
    result, walls, cpus = call(), [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return result, min(walls), min(cpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    for name, default in (("prompts", 16), ("n", 4), ("tokens", 128), ("mean", 24), ("rounds", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--slots", type=int, nargs="*", default=[16])
    parser.add_argument("--weights", nargs="*", default=[], choices=["bfloat16", "int8"])
    given = parser.parse_args()
    base = fn(
        stages.generate, n=given.n, max_tokens=given.tokens, stop=(STOP,), behaviour=fn(stopping, mean=given.mean)
    )
    ways = {"lockstep": base} | {f"{slots} slots": base.replace(slots=slots) for slots in given.slots}
    ways |= {weights: base.replace(weights=weights) for weights in given.weights}
    first: Any = None
    for name, stage in ways.items():
        (batch, metrics), wall, cpu = timed(sampler(given.size, given.prompts, stage), given.rounds)
        first = first or (batch, wall, cpu)
        same = float(np.mean(np.all(np.asarray(batch.tokens == first[0].tokens), axis=-1)))
        gap = metrics.get("generate/sampler_gap/policy")
        print(
            f"{name:>12}  wall {wall:.3f} s ({first[1] / wall:.2f}x)  CPU {cpu:.3f} s ({first[2] / cpu:.2f}x)  "
            f"mean length {float(metrics['generate/length']):.1f}  completions as in lockstep {same:.0%}"
            + (f"  gap {float(gap):.4f} nats per token" if gap is not None else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
