"""The stage that brings back what earlier iterations made."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.types import Batch, Context, Key, Mean, Metrics

__all__ = ["recall"]

_NAMED = ("prompt", "prompt_valid", "tokens", "valid", "mask", "reward", "preference", "pair_weight")


def recall(
    context: Context, batch: Batch, key: Key, *, rows: int, max_age: int, role: str = "memory", view: str = "replay"
) -> tuple[Batch, Metrics]:
    """Puts `rows` remembered examples, drawn uniformly with replacement, into a view that a loss may read
    (`losses.on("replay", ...)`).

    role: a `roles.memory` of prompts, completions and their labels. max_age: the staleness limit, in iterations since
    an example was made; older ones, and empty slots, are drawn too and count nothing: pair_weight and mask 0. Log-probs
    that were remembered ("logps/reference") come back as they were, so only those of a frozen role should be. Raises
    ConfigError if the memory holds no completions.
    """
    memory = context.state[role]
    if not {"prompt", "prompt_valid", "tokens", "valid"} <= set(memory):
        raise ConfigError(f"role {role!r} remembers {', '.join(memory)}; recall needs prompts and completions")
    slot = jax.random.randint(key, (rows,), 0, memory["owner"].shape[0])
    usable = (memory["owner"][slot] >= 0) & (context.step - memory["step"][slot] <= max_age)
    fields = {name: memory[name][slot] for name in _NAMED if name in memory}
    logps = {name[6:]: values[slot] for name, values in memory.items() if name.startswith("logps/")}
    on = usable.astype(jnp.float32)
    mask = fields.get("mask", fields["valid"].astype(jnp.float32))
    fields["mask"] = mask * on[:, None, None]
    if "preference" in fields:
        weight = fields.get("pair_weight", jnp.ones_like(fields["preference"]))
        fields["pair_weight"] = weight * on[:, None, None]
    past = Batch(**fields, logps=logps, example_id=jnp.maximum(memory["owner"][slot], 0))
    return batch.replace(views={**batch.views, view: past}), {"replayed": Mean.of(on)}
