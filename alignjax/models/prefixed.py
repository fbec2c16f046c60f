"""A model that reads a prefix in front of every prompt: what it knows by the prefix, another can learn without."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from alignjax.models.kv_cache import Cache
from alignjax.types import EXPERTS, Array, Batch, Hidden, Model, Params


@dataclasses.dataclass(frozen=True)
class DerivedConfig:
    """What a model was made from that is made of others, `made`, by which records and caches know it; it is no
    TransformerConfig, of which its model could be made again, and answers what else it is asked as `of` does."""

    of: Any
    made: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        if name == "of" or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.of, name)


@functools.cache
def prefixed_model(model: Model, prefix: tuple[int, ...]) -> Model:
    """A model behind a prefix: log pi(y | prefix, x) on the prompt x alone.

    With a system message and a few examples in the prefix it is a base model that was aligned in its context (URIAL,
    arXiv:2312.01552). As the role "teacher" of `losses.gkd` or `minillm`, or as the stream that `generate` samples for
    `losses.sft`, it is the teacher of a context distillation, in which the student learns without the prefix what the
    teacher says with it (arXiv:2112.00861; SELF-ALIGN's engraving, arXiv:2305.03047).

    Args:
        model: The network. Params are its own.
        prefix: Token ids that stand behind the first token of each prompt, which is BOS where a tokenizer has one.

    Returns:
        The model; the same object for the same arguments. It samples by `generate`, not in the slots of a server.
    """

    def hidden(params: Params, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
        prompt, valid = batch.need("prompt", of="a prefix"), batch.need("prompt_valid", of="a prefix")
        told, told_valid, place = in_front(prompt, valid, *_rows(prefix, prompt))
        prompts = dict(batch.prompts)
        if (experts := prompts.get(EXPERTS)) is not None:  # routers decide about the rest of the prefix
            free = jnp.full((*told.shape, *experts.shape[2:]), -1, experts.dtype)
            prompts[EXPERTS] = free.at[jnp.arange(len(told))[:, None], place].set(experts)
        return model.hidden(params, batch.replace(prompt=told, prompt_valid=told_valid, prompts=prompts), sites)

    def extend(
        params: Params, cache: Cache | None, tokens: Array, valid: Array, edits: Any = None, states: Any = ()
    ) -> tuple[Array, Any, dict[str, Array]]:
        assert model.extend is not None
        if cache is not None:
            after, longer, sited = model.extend(params, cache, tokens, valid, edits, states)
            return after, longer, dict(sited)
        told, told_valid, place = in_front(tokens[:, 0], valid[:, 0], *_rows(prefix, tokens[:, 0]))
        after, longer, sited = model.extend(params, None, told[:, None], told_valid[:, None], edits, states)

        def of_prompt(values: Array) -> Array:
            return jnp.take_along_axis(values, place.reshape(len(place), 1, -1, *[1] * (values.ndim - 3)), axis=2)

        return of_prompt(after), longer, {site: of_prompt(values) for site, values in sited.items()}

    config = DerivedConfig(model.config, ("prefix", *prefix))
    return dataclasses.replace(model, hidden=hidden, extend=model.extend and extend, config=config)


def in_front(prompt: Array, valid: Array, prefix: Array, present: Array) -> tuple[Array, Array, Array]:
    """Puts a prefix behind the first token of each prompt.

    Args:
        prompt: Tokens [B,P].
        valid: Which of them there are [B,P].
        prefix: Tokens [B,G].
        present: Which of them there are [B,G].

    Returns:
        Prompts [B,1+G+P], padded on the left like any (splash attention with a window refuses gaps); which tokens there
        are; and where the text up to each token of the old prompt ends now [B,P], of the first one behind the prefix.
    """
    first = jnp.argmax(valid, axis=1)[:, None]
    head, head_valid = (jnp.take_along_axis(leaf, first, axis=1) for leaf in (prompt, valid))
    is_first = jnp.arange(valid.shape[1])[None] == first
    joined = jnp.concatenate([head, prefix.astype(prompt.dtype), prompt], axis=1)
    there = jnp.concatenate([head_valid, present & head_valid, valid & ~is_first], axis=1)
    order = jnp.argsort(there, axis=1, stable=True)  # what is empty goes to the front
    place, length = jnp.argsort(order, axis=1), prefix.shape[1]
    place = jnp.where(is_first, place[:, length : length + 1], place[:, length + 1 :])
    return jnp.take_along_axis(joined, order, axis=1), jnp.take_along_axis(there, order, axis=1), place


def _rows(prefix: tuple[int, ...], prompt: Array) -> tuple[Array, Array]:
    """The prefix [B,G] of all prompts."""
    tokens = jnp.broadcast_to(jnp.array(prefix, prompt.dtype), (len(prompt), len(prefix)))
    return tokens, jnp.ones(tokens.shape, bool)
