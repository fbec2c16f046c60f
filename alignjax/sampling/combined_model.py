"""A behavior as a model, for all that takes one: the slots of a server, the scorer, the teacher of a distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, check_known
from alignjax.models.kv_cache import Cache, Segment, default_read
from alignjax.models.prefixed import DerivedConfig
from alignjax.numerics import as_float32
from alignjax.sampling.logit_streams import Stream, default_streams
from alignjax.types import Array, Batch, Head, Hidden, Key, Model, Params


class _Unseen:
    """The history of a behavior that may not look at one."""

    def __getattr__(self, field: str) -> NoReturn:
        raise ConfigError(
            "this behavior looks back at the completion, and a model of it is asked for one token at a time; sample "
            "from it with stages.generate or `alignjax generate`"
        )


def combined_model(behaviour: Fn, models: Mapping[str, Model], *, streams: tuple[Stream, ...] | None = None) -> Model:
    """A behavior as a model: its lm head gives what the lm heads of several models combine to, token by token.

    What it scores is the log-prob of what `generate(behaviour=..)` samples at temperature 1, where rounding agrees.

    Args:
        behaviour: How streams combine; one that looks back (`pluralistic`, `weak_to_strong`) is refused when asked.
        models: The networks, by role.
        streams: What the behavior reads; None: the roles that it names. All read the same prompts.

    Returns:
        A model with params {role: params}. It has the head "lm" alone, and no sites.

    Raises:
        ConfigError: For a stream of a view, of another head than "lm", or of a role that has no model.
    """
    # A state is those of all models side by side, a cache has the layers of each by its role: where tokens are, which
    # of them are valid and how many slots are used is the same for all.
    streams = default_streams(behaviour) if streams is None else streams
    for stream in streams:
        if stream.view or stream.head != "lm":
            raise ConfigError(f"stream {stream.name!r} is of another view or head; a model of a behavior has none")
        check_known(stream.role, models, f"stream {stream.name!r} reads role {stream.role!r}, which has no model")

    def init(key: Key) -> Params:
        return {role: model.init(key) for role, model in models.items()}

    def hidden(params: Params, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
        _refuse(sites)
        each = [model.hidden(params[role], batch) for role, model in models.items()]
        return Hidden(_joined([one.before for one in each]), _joined([one.after for one in each]), {})

    def extend(
        params: Params, cache: Cache | None, tokens: Array, valid: Array, edits: Any = None, states: Any = ()
    ) -> tuple[Array, Cache, dict[str, Array]]:
        _refuse(states)
        each, caches = [], {}
        for role, model in models.items():
            assert model.extend is not None
            own = params[role].get("edits")
            state, caches[role], _ = model.extend(params[role], _of(cache, role), tokens, valid, own)
            each.append(state)
        return _joined(each), _together(caches), {}

    def lm(params: Params, state: Array) -> Array:
        logits, start = {}, 0
        for role, model in models.items():
            width = _width(model, params[role])
            part = state[..., start : start + width]
            logits[role], start = as_float32(model.heads["lm"].apply(params[role], part)), start + width
        return behaviour({stream.name: logits[stream.role] for stream in streams}, _Unseen())

    axes = {role: model.axes for role, model in models.items()}
    configs = {role: model.config for role, model in models.items()}
    routed = [config for config in configs.values() if getattr(config, "experts", 0)]
    config = DerivedConfig([*routed, *configs.values()][0], (behaviour, *configs.items(), *streams))
    return Model(init, hidden, {"lm": Head("before", lm)}, default_read, extend, axes, config)


def _refuse(sites: Any) -> None:
    if sites:
        raise ConfigError(f"a model of a behavior has no hidden states {', '.join(sites)}")


def _joined(states: list[Array]) -> Array:
    dtype = jnp.result_type(*states)
    return jnp.concatenate([state.astype(dtype) for state in states], axis=-1)


def _width(model: Model, params: Params) -> int:
    """The size of a model's states."""
    extend = model.extend
    assert extend is not None
    token, valid = (jax.ShapeDtypeStruct((1, 1, 1), dtype) for dtype in (jnp.int32, jnp.bool_))
    return jax.eval_shape(lambda params, *one: extend(params, None, *one)[0], params, token, valid).shape[-1]


def _of(cache: Cache | None, role: str) -> Cache | None:
    """One model's part of a cache."""
    if cache is None:
        return None

    def part(segment: Segment | None) -> Segment | None:
        return None if segment is None else Segment(segment.layers[role], segment.valid, segment.positions)

    return Cache(part(cache.shared), part(cache.own), cache.used)


def _together(caches: Mapping[str, Cache]) -> Cache:
    """The cache of all models."""
    first = next(iter(caches.values()))

    def whole(name: str) -> Segment | None:
        segments = {role: getattr(cache, name) for role, cache in caches.items()}
        segment = getattr(first, name)
        if segment is None:
            return None
        if any(each.valid.shape != segment.valid.shape for each in segments.values()):
            raise ConfigError("a model of a behavior reads one prompt, and one of its models has a prefix in front")
        return Segment({role: each.layers for role, each in segments.items()}, segment.valid, segment.positions)

    return Cache(whole("shared"), whole("own"), first.used)
