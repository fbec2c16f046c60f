"""Stages that bring back what a memory (`roles.memory`) holds: prompts worth a look, responses, judged examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, fn
from alignjax.parallel.mesh import shard_rows
from alignjax.ranges import Count, Natural
from alignjax.sampling.behaviors import own
from alignjax.stages.completions import generate
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

# Fields of a batch that `recall` brings back if a memory holds them.
_REMEMBERED = ("prompt", "prompt_valid", "tokens", "valid", "mask", "reward", "preference", "pair_weight")


def regret(context: Context, batch: Batch, key: Key) -> tuple[Batch, Metrics]:
    """Fills prompts["priority"] [B]: max - min of a prompt's rewards, the estimated regret of the policy there (eva's
    informativeness, arXiv:2411.00062). Metric: `regret`.

    A completion of weight 0, of whose reward nothing is known, does not enter.

    Args:
        context: Not used.
        batch: A reward [B,N].
        key: Not used.

    Returns:
        The batch, and the metric.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward = batch.need("reward", of="regret")
    known = batch.completions.get("weight", jnp.ones_like(reward)) != 0
    most, least = (jnp.max(jnp.where(known, side, -jnp.inf), axis=1) for side in (reward, -reward))
    priority = jnp.where(jnp.any(known, axis=1), most + least, 0)
    return batch.replace(prompts={**batch.prompts, "priority": priority}), {"regret": Mean.of(priority)}


def select_prompts(
    context: Context, batch: Batch, key: Key, *, count: Count, role: str = "prompts"
) -> tuple[Batch, Metrics]:
    """Replaces the first `count` prompts of the batch by remembered ones, drawn without replacement in proportion to
    their priority (eva's creator, arXiv:2411.00062); where too few are remembered, the batch's own stay.

    A prompt that is in the batch already is not drawn: twice in a batch it would have the same completions twice, since
    they are a function of its example_id.

    Args:
        context: Holds the memory.
        batch: Prompts.
        key: Random key of the draw.
        count: How many prompts are replaced.
        role: A memory of "prompt", "prompt_valid" and "priority" (`roles.memory`).

    Returns:
        The batch, and the metric `selected`, the share of `count` that was remembered.

    Raises:
        ConfigError: If count is not between 0 and the batch size or the number of remembered prompts.
    """
    # Empty slots score -inf, so the draw has fixed shapes under jit and comes out short by itself; where it does, the
    # batch's own prompt stays.
    prompt, prompt_valid = (batch.need(name, of="select_prompts") for name in ("prompt", "prompt_valid"))
    memory, rows = context.state[role], prompt.shape[0]
    slots = memory["owner"].shape[0]
    if not 0 <= count <= min(rows, slots):
        raise ConfigError(f"select_prompts(count={count}) from {slots} remembered prompts into a batch of {rows}")
    present = jnp.any(memory["owner"][:, None] == batch.ids()[None], axis=1)
    possible = (memory["owner"] >= 0) & (memory["priority"] > 0) & ~present
    noise = jax.random.gumbel(key, (slots,))  # the `count` largest of log weight + noise: a draw without replacement
    score = jnp.where(possible, jnp.log(jnp.where(possible, memory["priority"], 1)) + noise, -jnp.inf)
    drawn, slot = jax.lax.top_k(score, count)
    known = jnp.isfinite(drawn)

    def mixed(fresh: Array, stored: Array) -> Array:
        is_known = known.reshape(count, *[1] * (fresh.ndim - 1))
        return _with_first(jnp.where(is_known, stored[slot].astype(fresh.dtype), fresh[:count]), fresh)

    filled = batch.replace(
        prompt=mixed(prompt, memory["prompt"]),
        prompt_valid=mixed(prompt_valid, memory["prompt_valid"]),
        example_id=mixed(batch.ids(), memory["owner"]),
    )
    return filled, {"selected": Mean.of(known.astype(jnp.float32))}


def rewrite(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    count: Count,
    role: str = "rewriter",
    behaviour: Fn | None = None,
    stop: tuple[Natural, ...] | None = None,
) -> tuple[Batch, Metrics]:
    """Replaces the first `count` prompts by what `role` says when it reads them, a variant of each as long as a prompt
    may be (eva's evolution, arXiv:2411.00062). A prompt about which it says nothing stays.

    Args:
        context: Samples the role.
        batch: Prompts.
        key: Random key of the samples.
        count: How many prompts are rewritten.
        role: Who rewrites.
        behaviour: How it is sampled; None: from the role alone.
        stop: The tokens that end a variant, as of `generate`.

    Returns:
        The batch, and `generate`'s metrics. A variant has an example_id of its own, the old one's hash. The stop token
        is part of the variant, as the sampler gave it.

    Raises:
        ConfigError: If count is larger than the batch.
    """
    # The variant is sampled as a completion and turned into a prompt by moving its padding to the left. A sample of one
    # token says nothing but stop, so its prompt stays and keeps its id.
    prompt, prompt_valid = (batch.need(name, of="rewrite") for name in ("prompt", "prompt_valid"))
    (rows, length), example_id = prompt.shape, batch.ids()
    if not 0 <= count <= rows:
        raise ConfigError(f"rewrite(count={count}) of {rows} prompts")
    old = Batch(prompt=prompt, prompt_valid=prompt_valid, example_id=example_id).take(jnp.arange(count))
    how = behaviour or fn(own, stream=role)
    variants, metrics = generate(context, old, key, n=1, max_tokens=length, behaviour=how, stop=stop)
    tokens, valid = (variants.need(name, of="rewrite")[:, 0] for name in ("tokens", "valid"))
    # Prompts are padded on the left: what is valid, and comes first in a completion, goes last.
    order = jnp.argsort(valid, axis=1)
    tokens, valid = (jnp.take_along_axis(leaf, order, axis=1) for leaf in (tokens, valid))
    changed = jnp.sum(valid, axis=1) > 1  # more than a stop token
    mixed_id = (example_id[:count] * 1000003 + 12345) & 0x7FFFFFFF
    new = {
        "prompt": _with_first(jnp.where(changed[:, None], tokens, prompt[:count]), prompt),
        "prompt_valid": _with_first(jnp.where(changed[:, None], valid, prompt_valid[:count]), prompt_valid),
        "example_id": _with_first(jnp.where(changed, mixed_id, example_id[:count]), example_id),
    }
    # Else the compiler lays them, and all states computed from them, out as the next sampler's.
    return batch.replace(**shard_rows(new)), metrics


def _with_first(new: Array, rows: Array) -> Array:
    """rows [B,..] with new [k,..] in the place of the first k, row by row: with a concatenation and a written slice,
    laid out over some axes of a mesh and not others, XLA on CPU gave other numbers."""
    if not len(new):
        return rows
    number = jnp.arange(len(rows))
    is_new = (number < len(new)).reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.where(is_new, new[jnp.minimum(number, len(new) - 1)], rows)


def regenerate(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    count: Count,
    n: Count,
    max_tokens: Count,
    role: str = "responses",
    behaviour: Fn = fn(own),
    stop: tuple[Natural, ...] | None = None,
) -> tuple[Batch, Metrics]:
    """Samples n new completions for the `count` prompts that need them most and takes the remembered ones of all others
    (OPTune's saving, arXiv:2406.07657): first prompts without any, then those whose mean reward was lowest.

    Where no prompt comes twice nothing is ever reused, and all but `count` prompts of a batch count nothing.

    Args:
        context: Samples the policy and holds the memory.
        batch: Prompts.
        key: Random key of the samples.
        count: How many rows are sampled, which is what is saved.
        n: Completions per prompt.
        max_tokens: Longest completion, in tokens.
        role: A memory of "tokens", "valid" [slots,n,max_tokens] and "reward" (`roles.memory`).
        behaviour: How streams combine.
        stop: The tokens that end a completion, as of `generate`.

    Returns:
        The batch with completions; a prompt that has no responses yet and gets none now has empty ones and pair_weight
        0. Metrics: `generate`'s, and `reused`, the share of prompts with remembered completions.

    Raises:
        ConfigError: If count is not between 1 and the batch size, or the memory is of another shape.
    """
    # `worth` orders the prompts by need: -inf for those without responses, else what theirs were worth.
    memory, example_id = context.state[role], batch.ids()
    rows = example_id.shape[0]
    if not 1 <= count <= rows:
        raise ConfigError(f"regenerate(count={count}) for a batch of {rows} prompts")
    if memory["tokens"].shape[1:] != (n, max_tokens):
        raise ConfigError(
            f"role {role!r} remembers {memory['tokens'].shape[1:]} tokens a prompt, not {(n, max_tokens)}"
        )
    slot = example_id % memory["owner"].shape[0]
    known = memory["owner"][slot] == example_id
    worth = jnp.where(known, jnp.mean(memory["reward"][slot], axis=-1), -jnp.inf)
    chosen = jnp.argsort(worth)[:count]
    bare = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, example_id=example_id)
    new, metrics = generate(context, bare.take(chosen), key, n=n, max_tokens=max_tokens, behaviour=behaviour, stop=stop)
    valid = (memory["valid"][slot] & known[:, None, None]).at[chosen].set(new.need("valid", of="regenerate"))
    present = known.at[chosen].set(True).astype(jnp.float32)
    filled = batch.replace(
        tokens=memory["tokens"][slot].at[chosen].set(new.need("tokens", of="regenerate")),
        valid=valid,
        mask=valid.astype(jnp.float32),
        example_id=example_id,
        pair_weight=jnp.broadcast_to(present[:, None, None], (rows, n, n)),
    )
    return filled, {**metrics, "reused": Mean.of(present.at[chosen].set(0))}


def recall(
    context: Context, batch: Batch, key: Key, *, rows: Count, max_age: Count, role: str = "memory", view: str = "replay"
) -> tuple[Batch, Metrics]:
    """Puts `rows` remembered examples, drawn uniformly with replacement, into a view that a loss may read
    (`losses.on("replay", ...)`).

    Args:
        context: Holds the memory and the step.
        batch: Gets the view.
        key: Random key of the draw.
        rows: How many examples are drawn.
        max_age: The staleness limit, in iterations since an example was made; older ones, and empty slots, are drawn
            too and count nothing: pair_weight and mask 0.
        role: A `roles.memory` of prompts, completions and their labels. Log-probs that were remembered
            ("logps/reference") come back as they were, so only those of a frozen role should be. Without
            "pair_weight" among them every pair counts, also one that nobody was asked about.
        view: The name of the view.

    Returns:
        The batch with the view, and the metric `replayed`, the share of drawn examples that count.

    Raises:
        ConfigError: If the memory holds no completions.
    """
    # What is too old or empty is drawn all the same and weighs 0: shapes stay fixed under jit, and nothing has to know
    # how full the memory is.
    memory = context.state[role]
    if not {"prompt", "prompt_valid", "tokens", "valid"} <= set(memory):
        raise ConfigError(f"role {role!r} remembers {', '.join(memory)}; recall needs prompts and completions")
    slot = jax.random.randint(key, (rows,), 0, memory["owner"].shape[0])
    usable = (memory["owner"][slot] >= 0) & (context.step - memory["step"][slot] <= max_age)
    fields = {name: memory[name][slot] for name in _REMEMBERED if name in memory}
    logps = {name[6:]: values[slot] for name, values in memory.items() if name.startswith("logps/")}
    on = usable.astype(jnp.float32)
    mask = fields.get("mask", fields["valid"].astype(jnp.float32))
    fields["mask"] = mask * on[:, None, None]
    if "preference" in fields:
        weight = fields.get("pair_weight", jnp.ones_like(fields["preference"]))
        fields["pair_weight"] = weight * on[:, None, None]
    past = Batch(**fields, logps=logps, example_id=jnp.maximum(memory["owner"][slot], 0))
    return batch.replace(views={**batch.views, view: past}), {"replayed": Mean.of(on)}
