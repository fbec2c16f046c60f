"""Scoring: what losses and stages ask of models, computed in one pass per view.

XLA does not merge two differentiated passes over the same tokens, so the losses of an update are first traced
abstractly to learn what they ask for, and then one pass per view computes it all: each trunk once, logits in chunks
over T that are rematerialised in the backward pass.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Packing, nearest
from alignjax.parallel.mesh import COMPUTE_LAYOUT, constrain
from alignjax.types import Array, Batch, Context, Head, Hidden, Metrics, Model, Params, Read, Role

TOKENS = ("prompt", "prompt_valid", "tokens", "valid")
# The fields a model may look at. Two batches that share them all are the same view for scoring, whatever else differs.
SCORED = (*TOKENS, "prompts", "completions")


class Request(NamedTuple):
    """One question to `score`: outputs "role", "role:head" or "role@site", and the read that turns them into numbers
    (None: the model's default)."""

    outputs: tuple[str, ...]
    read: Read | None


def _parse(output: str) -> tuple[str, str, str]:
    """ "role[:head][@site]" -> (role, head, site); the head is "lm" unless named."""
    rest, _, site = output.partition("@")
    role, _, head = rest.partition(":")
    return role, head or "lm", site


def _chunked(one: Callable[..., Any], tree: Any, length: int, chunk: int) -> Any:
    """`one` over chunks of axis 2 of every leaf, rematerialised, results joined along axis 2. Never over flattened
    B*N*T: that gathers a sharded batch."""
    chunk = max(1, min(chunk, length // 2)) if length > 1 else 1
    pieces = -(-length // chunk)
    pad = pieces * chunk - length

    def split(leaf: Array) -> Array:
        leaf = jnp.pad(leaf, [(0, pad) if axis == 2 else (0, 0) for axis in range(leaf.ndim)])
        return jnp.moveaxis(leaf.reshape(*leaf.shape[:2], pieces, chunk, *leaf.shape[3:]), 2, 0)

    def join(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, 2)
        return leaf.reshape(*leaf.shape[:2], pieces * chunk, *leaf.shape[4:])[:, :, :length]

    return jax.tree.map(join, jax.lax.map(jax.checkpoint(one), jax.tree.map(split, tree)))


def _one_pass(
    roles: Mapping[str, Role],
    params: Callable[[str], Params],
    batch: Batch,
    requests: Iterable[Request],
    chunk: int,
    packing: Packing | None,
) -> dict[Request, dict[str, Array]]:
    """All requests on one view: every trunk once, every head once per chunk."""
    requests = list(dict.fromkeys(requests))
    outputs = sorted({output for request in requests for output in request.outputs})
    parsed = {output: _parse(output) for output in outputs}
    for output, (role, head, _) in parsed.items():
        if role not in roles:
            raise ConfigError(f"score({output!r}): there is no role {role!r}.{nearest(role, roles)}")
        model = roles[role].model
        if model is None or head not in model.heads:
            known = model.heads if model else ()
            raise ConfigError(f"score({output!r}): role {role!r} has no head {head!r}.{nearest(head, known)}")
    sites = {
        name: tuple(sorted({s for r, _, s in parsed.values() if r == name and s})) for name, _, _ in parsed.values()
    }
    hidden = {role: _hidden(roles, role, packing) for role in sites}
    own = {role: _used(_model(roles, role), params(role)) for role in sites}
    trunks: dict[str, Hidden] = {role: hidden[role](own[role], batch, sites[role]) for role in sites}

    def states(output: str) -> Array:
        role, head, site = parsed[output]
        hidden = trunks[role]
        if site:
            return hidden.states[site]
        return hidden.before if _model(roles, role).heads[head].reads == "before" else hidden.after

    def one(piece: tuple[dict[str, Array], Array]) -> dict[str, dict[str, Array]]:
        given, token = piece
        values = {
            output: state if parsed[output][2] else _head(roles, parsed[output]).apply(own[parsed[output][0]], state)
            for output, state in given.items()
        }
        answers = {}
        for number, (names, read) in enumerate(requests):
            if read is not None:
                answers[str(number)] = read({name: values[name] for name in names}, token)
            else:
                answers[str(number)] = {
                    name: _model(roles, parsed[name][0]).read({name: values[name]}, token)[name] for name in names
                }
        return answers

    assert batch.tokens is not None
    assert batch.valid is not None
    answers = _chunked(
        one, ({output: states(output) for output in outputs}, batch.tokens), batch.tokens.shape[2], chunk
    )
    valid = batch.valid

    def masked(leaf: Array) -> Array:
        return jnp.where(valid.reshape(*valid.shape, *[1] * (leaf.ndim - 3)), leaf, 0)

    return {request: jax.tree.map(masked, answers[str(number)]) for number, request in enumerate(requests)}


def _model(roles: Mapping[str, Role], name: str) -> Model:
    """The model of a role that is known to have one."""
    model = roles[name].model
    assert model is not None
    return model


def _hidden(roles: Mapping[str, Role], name: str, packing: Packing | None) -> Callable[..., Hidden]:
    """The trunk of a role's model, over packed rows if asked for."""
    hidden = _model(roles, name).hidden
    if packing is None:
        return hidden
    if "packing" not in inspect.signature(hidden).parameters:
        raise ConfigError(f"packing: the model of role {name!r} cannot run over packed rows; leave packing out")
    return functools.partial(hidden, packing=packing)


def _used(model: Model, params: Params) -> Params:
    """Params whose head and embedding are gathered over fsdp here, once, and not in every chunk; a layer's weights are
    gathered where it runs."""
    if not isinstance(model.axes, Mapping):
        return params
    return constrain(params, {name: axes for name, axes in model.axes.items() if name != "layers"}, COMPUTE_LAYOUT)


def _head(roles: Mapping[str, Role], parsed: tuple[str, str, str]) -> Head:
    return _model(roles, parsed[0]).heads[parsed[1]]


def one_pass(
    roles: Mapping[str, Role],
    params: Callable[[str], Params],
    batch: Batch,
    requests: Iterable[Request],
    *,
    microbatches: int = 1,
    chunk: int = 16,
    packing: Packing | None = None,
) -> dict[Request, dict[str, Array]]:
    """`requests` on one view, in `microbatches` rematerialised pieces over B; [B,N,T] results of the whole view either
    way, and with any `packing`: trunks then run over rows without padding, which must hold every token (`packs`), or
    all results are NaN.

    Raises ConfigError if the view's B is not a multiple of `microbatches`, or a role or head does not exist.
    """
    requests = list(dict.fromkeys(requests))
    seen = Batch(**{name: getattr(batch, name) for name in SCORED})
    if microbatches == 1:
        return _one_pass(roles, params, seen, requests, chunk, packing)
    assert batch.tokens is not None
    rows = batch.tokens.shape[0]
    if rows % microbatches:
        raise ConfigError(
            f"{rows} prompts do not split into {microbatches} microbatches; make the batch size a multiple of it"
        )

    def split(leaf: Array) -> Array:
        # reshape(M, B//M) would give each device rows of every microbatch and silently replicate the work
        return leaf.reshape(rows // microbatches, microbatches, *leaf.shape[1:]).swapaxes(0, 1)

    def piece(batch: Batch) -> list[dict[str, Array]]:
        return list(_one_pass(roles, params, batch, requests, chunk, packing).values())

    answers = jax.lax.map(jax.checkpoint(piece), jax.tree.map(split, seen))
    joined = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(rows, *leaf.shape[2:]), answers)
    return dict(zip(requests, joined, strict=True))


def request(outputs: str | tuple[str, ...], read: Read | None) -> Request:
    """The question that a call of `score` with these arguments asks."""
    return Request((outputs,) if isinstance(outputs, str) else tuple(outputs), read)


def _identity(batch: Batch, names: Mapping[int, str]) -> tuple[Any, ...] | None:
    """What a batch is made of, as paths into the update's batch; None if any part was computed by the loss itself."""
    leaves, structure = jax.tree.flatten([getattr(batch, name) for name in SCORED])
    paths = tuple(names.get(id(leaf)) for leaf in leaves)
    return None if None in paths else (*paths, structure)


def _views(batch: Batch) -> Iterable[Batch]:
    yield batch
    for view in batch.views.values():
        yield from _views(view)


def with_shared_passes(
    losses: Callable[[Context], tuple[dict[str, Array], Metrics]],
    context: Callable[[Callable[..., dict[str, Array]]], Context],
    roles: Mapping[str, Role],
    params: Callable[[str], Params],
    batch: Batch,
    microbatches: int,
    packing: Packing | None = None,
) -> tuple[dict[str, Array], Metrics]:
    """Runs `losses(context(score))` with everything they score computed in one pass per view of `batch`. `packing` is
    of the batch itself; its views are scored with their padding.

    A batch that a loss builds itself (rolled completions, ...) is scored when it asks, in a pass of its own.
    """
    names = {id(leaf): jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(batch)}
    wanted: dict[Any, list[Request]] = {}

    def direct(view: Batch, asked: Request) -> dict[str, Array]:
        return one_pass(roles, params, view, [asked], microbatches=microbatches)[asked]

    def note(outputs: str | tuple[str, ...], view: Batch, read: Read | None = None) -> dict[str, Array]:
        asked = request(outputs, read)
        identity = _identity(view, names)
        if identity is not None:
            wanted.setdefault(identity, []).append(asked)
        return direct(view, asked)

    jax.eval_shape(lambda: losses(context(note)))
    done: dict[Any, dict[Request, dict[str, Array]]] = {}
    for view in _views(batch):
        identity = _identity(view, names)
        if identity in wanted and identity not in done:
            rows = packing if view is batch else None
            done[identity] = one_pass(roles, params, view, wanted[identity], microbatches=microbatches, packing=rows)

    def look_up(outputs: str | tuple[str, ...], view: Batch, read: Read | None = None) -> dict[str, Array]:
        asked = request(outputs, read)
        known = done.get(_identity(view, names), {})
        return known[asked] if asked in known else direct(view, asked)

    return losses(context(look_up))
