"""Scoring turns roles and a batch into numbers per token: the only way from a model to what losses and stages read.

XLA does not merge two differentiated passes over the same tokens. The losses of an update are therefore first traced
abstractly, which records what they ask for, and then one pass per view answers it all: each backbone runs once, and
logits exist only in chunks over T that are rematerialized in the backward pass.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Packing, check_known, nearest
from alignjax.numerics import in_pieces
from alignjax.parallel.mesh import COMPUTE_LAYOUT, constrain
from alignjax.ranges import Count
from alignjax.types import EXPERTS, Array, Batch, Context, Hidden, Metrics, Model, Params, Read, Role

TOKENS = ("prompt", "prompt_valid", "tokens", "valid")
# The fields a model may look at. Two batches that share them all are one view for scoring, whatever else differs.
SCORED = (*TOKENS, "prompts", "completions")

Answer: TypeAlias = dict[str, Array]  # name -> [B,N,T] or [B,N,T,..]
Score: TypeAlias = Callable[..., Answer]
Result = TypeVar("Result")


class Request(NamedTuple):
    """One question to `score`: outputs "role", "role:head" or "role@site", and the read that turns them into numbers
    (None: the model's default)."""

    outputs: tuple[str, ...]
    read: Read | None


class Output(NamedTuple):
    """A parsed output: a role with the head that is applied to its states, or with the site whose states are read."""

    role: str
    head: str
    site: str

    @classmethod
    def parse(cls, text: str, roles: Mapping[str, Role]) -> Output:
        """Parses "role[:head][@site]"; the head is "lm" unless it is named.

        Raises:
            ConfigError: There is no such role, or its model has no such head.
        """
        rest, _, site = text.partition("@")
        role, _, head = rest.partition(":")
        head = head or "lm"
        check_known(role, roles, f"score({text!r}): there is no role {role!r}")
        model = roles[role].model
        if model is None or head not in model.heads:
            known = model.heads if model else ()
            raise ConfigError(f"score({text!r}): role {role!r} has no head {head!r}.{nearest(head, known)}")
        return cls(role, head, site)


# ------------------------------------------------------------------------------------------------------------- contexts


def params_of(roles: Mapping[str, Role], state: Mapping[str, Any]) -> Callable[[str], Params]:
    """Returns the function from a role's name to what its model runs on: its tree in `state`, its `build` applied.

    The function raises ConfigError for a role that does not exist.

    Args:
        roles: By name.
        state: Their trees, by name.

    Returns:
        The function.
    """

    def params(name: str) -> Params:
        check_known(name, roles, f"there is no role {name!r}")
        build = roles[name].build
        return state[name] if build is None else build(state[name], params)

    return params


def context(
    roles: Mapping[str, Role | Model],
    state: Mapping[str, Any],
    *,
    step: Any = 0,
    metrics: Metrics | None = None,
    score: Score | None = None,
    microbatches: Count = 1,
    packing: Packing | None = None,
    packed: Batch | None = None,
) -> Context:
    """Makes the Context of stages, judges, losses and rules, inside a training run and outside of one.

    Args:
        roles: The roles by name; a bare model stands for a frozen role.
        state: The tree of every role.
        step: The iteration, int32.
        metrics: Metrics that rules may read.
        score: Takes the place of the default, which runs a pass for every request.
        microbatches: The number of pieces over B in which such a pass runs.
        packing: How such a pass packs the rows of the batch `packed`; it scores all others with their padding.
        packed: The batch that is known to fit `packing`.
    """
    # Everything is lazy: a `build` runs when its role's params are asked for, and a model when it is scored, so a
    # Context costs nothing and stages share nothing through it.
    known = {name: Role(role, None) if isinstance(role, Model) else role for name, role in roles.items()}
    params = params_of(known, state)

    def ask(outputs: str | tuple[str, ...], batch: Batch, read: Read | None = None) -> Answer:
        question = request(outputs, read)
        fits = packed is not None and all(getattr(batch, name) is getattr(packed, name) for name in TOKENS)
        rows = packing if fits else None
        return one_pass(known, params, batch, [question], microbatches=microbatches, packing=rows)[question]

    return Context(known, state, step, {} if metrics is None else metrics, params, score or ask)


# --------------------------------------------------------------------------------------------------------------- a pass


def _chunked(answer: Callable[..., Any], tree: Any, length: int, chunk: int) -> Any:
    """Maps `answer` over chunks of axis 2 of every leaf, rematerialized, and joins the results along axis 2."""
    # Never over flattened B*N*T: that gathers a sharded batch.
    chunk = max(1, min(chunk, length // 2)) if length > 1 else 1
    pieces = -(-length // chunk)
    pad = pieces * chunk - length

    def padded(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, pad) if axis == 2 else (0, 0) for axis in range(leaf.ndim)])

    joined = in_pieces(answer, jax.tree.map(padded, tree), pieces, axis=2)
    return jax.tree.map(lambda leaf: leaf[:, :, :length], joined)


def _one_pass(
    roles: Mapping[str, Role],
    params: Callable[[str], Params],
    batch: Batch,
    requests: Iterable[Request],
    chunk: int,
    packing: Packing | None,
) -> dict[Request, Answer]:
    """Answers all requests on one view."""
    # Four steps: encode the batch once per role; select the states that each output reads, before or after a token or
    # at a site; answer every request from these states, chunk by chunk over T, because only the heads make arrays over
    # the vocabulary; set what stands in the padding to 0. Heads that no request names are never applied.
    texts = sorted({text for question in requests for text in question.outputs})
    outputs = {text: Output.parse(text, roles) for text in texts}
    models: dict[str, Model] = {}
    weights: dict[str, Params] = {}
    encoded: dict[str, Hidden] = {}
    for role in dict.fromkeys(output.role for output in outputs.values()):
        sites = {output.site for output in outputs.values() if output.role == role and output.site}
        model = roles[role].model
        assert model is not None  # Output.parse has refused roles without one
        models[role], weights[role] = model, _gathered(model, params(role))
        encoded[role] = _backbone(model, role, packing)(weights[role], _routed(batch, role), tuple(sorted(sites)))

    def select(output: Output) -> Array:
        hidden = encoded[output.role]
        if output.site:
            return hidden.states[output.site]
        return hidden.before if models[output.role].heads[output.head].reads == "before" else hidden.after

    def apply(output: Output, states: Array) -> Array:
        return states if output.site else models[output.role].heads[output.head].apply(weights[output.role], states)

    def answer(piece: tuple[dict[str, Array], Array]) -> list[Answer]:
        states, token = piece
        values = {text: apply(outputs[text], state) for text, state in states.items()}
        return [
            read({text: values[text] for text in names}, token)
            if read is not None
            else {text: models[outputs[text].role].read({text: values[text]}, token)[text] for text in names}
            for names, read in requests
        ]

    tokens, valid = batch.need("tokens", of="score"), batch.need("valid", of="score")
    answers = _chunked(answer, ({text: select(outputs[text]) for text in outputs}, tokens), tokens.shape[2], chunk)
    masked = jax.tree.map(lambda leaf: jnp.where(valid.reshape(*valid.shape, *[1] * (leaf.ndim - 3)), leaf, 0), answers)
    return dict(zip(requests, masked, strict=True))


def _routed(batch: Batch, role: str) -> Batch:
    """A view as the model of a role sees it: of the experts that samplers kept, those of this role alone."""

    def seen(values: Mapping[str, Array]) -> dict[str, Array]:
        rest = {key: value for key, value in values.items() if key.partition(":")[0] != EXPERTS}
        name = f"{EXPERTS}:{role}"
        return rest | ({EXPERTS: values[name]} if name in values else {})

    return dataclasses.replace(batch, prompts=seen(batch.prompts), completions=seen(batch.completions))


def _backbone(model: Model, role: str, packing: Packing | None) -> Callable[..., Hidden]:
    """The backbone of a role's model, over packed rows if asked for."""
    if packing is None:
        return model.hidden
    if "packing" not in inspect.signature(model.hidden).parameters:
        raise ConfigError(f"packing: the model of role {role!r} cannot run over packed rows; leave packing out")
    return functools.partial(model.hidden, packing=packing)


def _gathered(model: Model, params: Params) -> Params:
    """Params whose head and embedding are gathered over fsdp here, once, and not in every chunk; a layer's weights are
    gathered where it runs."""
    if not isinstance(model.axes, Mapping):
        return params
    return constrain(params, {name: axes for name, axes in model.axes.items() if name != "layers"}, COMPUTE_LAYOUT)


def one_pass(
    roles: Mapping[str, Role],
    params: Callable[[str], Params],
    batch: Batch,
    requests: Iterable[Request],
    *,
    microbatches: Count = 1,
    chunk: Count = 16,
    packing: Packing | None = None,
) -> dict[Request, Answer]:
    """Answers requests on one view: every backbone runs once, every head once per chunk.

    Args:
        roles: The roles by name.
        params: Maps a role's name to what its model runs on.
        batch: The view, with tokens and valid [B,N,T].
        requests: The questions; repeated ones are answered once.
        microbatches: The number of rematerialized pieces over B in which the pass runs. The result is that of the
            whole view either way.
        chunk: The number of completion tokens whose logits exist at a time.
        packing: Runs backbones over rows without padding, which must hold every token (`models.packing.packs`), or
            all results are NaN.

    Returns:
        For every request its named numbers, [B,N,T] or [B,N,T,..], 0 where `valid` is False.

    Raises:
        ConfigError: B is not a multiple of `microbatches`, or a role or a head does not exist.
    """
    # Each piece is rematerialized in the backward pass, so that the states of one piece lie in memory at a time. The
    # answers of all pieces are put together again before any loss sees them: pieces never change a result.
    requests = list(dict.fromkeys(requests))
    view = Batch(**{name: getattr(batch, name) for name in SCORED})
    if microbatches == 1:
        return _one_pass(roles, params, view, requests, chunk, packing)
    rows = batch.need("tokens", of="score").shape[0]
    if rows % microbatches:
        raise ConfigError(
            f"{rows} prompts do not split into {microbatches} microbatches; make the batch size a multiple of it"
        )

    def split(leaf: Array) -> Array:
        # reshape(M, B//M) would give each device rows of every microbatch and silently replicate the work
        return leaf.reshape(rows // microbatches, microbatches, *leaf.shape[1:]).swapaxes(0, 1)

    def piece(batch: Batch) -> list[Answer]:
        return list(_one_pass(roles, params, batch, requests, chunk, packing).values())

    answers = jax.lax.map(jax.checkpoint(piece), jax.tree.map(split, view))
    joined = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(rows, *leaf.shape[2:]), answers)
    return dict(zip(requests, joined, strict=True))


def request(outputs: str | tuple[str, ...], read: Read | None) -> Request:
    """Makes the question that a call of `score` with these arguments asks.

    Args:
        outputs: One output, or several.
        read: What is read of them; None: the default.

    Returns:
        The question.
    """
    return Request((outputs,) if isinstance(outputs, str) else tuple(outputs), read)


# -------------------------------------------------------------------------------------------------------- shared passes


def _identity(batch: Batch, names: Mapping[int, str]) -> tuple[Any, ...] | None:
    """What a batch is made of, as paths into the update's batch; None if any part was computed by the loss itself."""
    leaves, structure = jax.tree.flatten([getattr(batch, name) for name in SCORED])
    paths = tuple(names.get(id(leaf)) for leaf in leaves)
    return None if None in paths else (*paths, structure)


def _views(batch: Batch) -> Iterable[Batch]:
    """The batch and all views in it."""
    yield batch
    for view in batch.views.values():
        yield from _views(view)


def with_shared_passes(
    run: Callable[[Score], Result],
    roles: Mapping[str, Role],
    params: Callable[[str], Params],
    batch: Batch,
    *,
    microbatches: Count = 1,
    packing: Packing | None = None,
) -> Result:
    """Runs functions that score, with everything they score computed in one pass per view of `batch`.

    A batch that `run` builds itself (rolled completions, ...) is scored when it asks, in a pass of its own.

    Args:
        run: Calls the losses with a `score` function. It is called twice, so it must be pure.
        roles: The roles by name.
        params: Maps a role's name to what its model runs on.
        batch: The batch of the update, with its views.
        microbatches: The number of pieces over B in which each pass runs.
        packing: The packing of the batch itself; its views are scored with their padding.

    Returns:
        What `run` returns.
    """
    # Phase 1 records: `run` is traced abstractly and every request is noted under its view. A view is known by the
    # identity of its arrays, so one that a loss has copied or cut is another view. Phase 2 answers all requests of a
    # view in one pass, and phase 3 replays: `run` again, looking the answers up.
    names = {id(leaf): jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(batch)}

    answer = functools.partial(one_pass, roles, params, microbatches=microbatches)

    def ask(view: Batch, question: Request) -> Answer:
        return answer(view, [question])[question]

    requests = _recorded(run, ask, names)
    answers: dict[Any, dict[Request, Answer]] = {}
    for view in _views(batch):
        identity = _identity(view, names)
        if identity in requests and identity not in answers:
            answers[identity] = answer(view, requests[identity], packing=packing if view is batch else None)

    def look_up(outputs: str | tuple[str, ...], view: Batch, read: Read | None = None) -> Answer:
        question = request(outputs, read)
        known = answers.get(_identity(view, names), {})
        return known[question] if question in known else ask(view, question)

    return run(look_up)


def _recorded(
    run: Callable[[Score], Any], ask: Callable[[Batch, Request], Answer], names: Mapping[int, str]
) -> dict[Any, list[Request]]:
    """The requests of `run` by the identity of their view, in the order of asking."""
    requests: dict[Any, list[Request]] = {}
    shapes: dict[Any, Any] = {}  # a request that is asked again is answered without another trace of its model

    def record(outputs: str | tuple[str, ...], view: Batch, read: Read | None = None) -> Answer:
        question = request(outputs, read)
        identity = _identity(view, names)
        if identity is None:
            return ask(view, question)
        requests.setdefault(identity, []).append(question)
        if (identity, question) not in shapes:
            shapes[identity, question] = jax.eval_shape(lambda: ask(view, question))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[identity, question])

    jax.eval_shape(lambda: run(record))
    return requests
