"""What it costs to encode a prompt once for its N completions, counted by the compiler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from alignjax.models import TransformerConfig, transformer, unrolled
from alignjax.types import Batch
from tests.support.tiny import flops

SIZES = {"vocab": 32, "width": 256, "layers": 2, "heads": 4, "mlp": 1024}


def cost(b: int, n: int, p: int, t: int, *, gradient: bool) -> float:
    """FLOPs of the trunk, layers unrolled because a loop's body is counted once; nothing is run."""
    network = transformer(TransformerConfig(**SIZES))
    shape = jax.ShapeDtypeStruct
    batch = Batch(
        prompt=shape((b, p), jnp.int32), prompt_valid=shape((b, p), bool),
        tokens=shape((b, n, t), jnp.int32), valid=shape((b, n, t), bool),
    )  # fmt: skip
    params = jax.eval_shape(lambda: unrolled(network.init(jax.random.key(0))))

    def number(params: object, batch: Batch) -> jax.Array:
        return jnp.sum(jnp.square(network.hidden(params, batch).after))

    return flops(jax.jit(jax.grad(number) if gradient else number).lower(params, batch).compile())


@pytest.mark.parametrize(("n", "p", "t", "gradient"), [(8, 96, 32, False), (4, 48, 48, True)])
def test_shared_prompts_cost_what_they_should(n: int, p: int, t: int, gradient: bool) -> None:
    measured = cost(1, n, p, t, gradient=gradient) / cost(n, 1, p, t, gradient=gradient)
    assert measured == pytest.approx((p + n * t) / (n * (p + t)), rel=0.02)
