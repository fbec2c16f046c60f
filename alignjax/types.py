"""The vocabulary of the framework: what stages, losses, judges, rules and reads pass to each other.

Shape letters, everywhere: B prompts, N completions of a prompt, P prompt tokens, T completion tokens, V vocabulary, D
width.

An algorithm is data. Stages fill one `Batch`, losses read it, roles live beside it; `train/step.py` turns the record
into two jitted functions and nothing else knows how. All function types below take a `Context` first, so that a new
method never needs a new loop.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, Packing, as_fn, check_ranges, fn, nearest
from alignjax.ranges import Count

Array: TypeAlias = jax.Array
Params: TypeAlias = Any  # a plain nested dict of arrays, or any pytree for a state role
Key: TypeAlias = jax.Array

# Fields of Batch that have an axis of completions, or two of them: what `pick` needs to know.
COMPLETION_FIELDS = ("tokens", "valid", "mask", "reward", "advantage", "returns")
PAIR_FIELDS = ("preference", "pair_weight")
EXPERTS = "experts"  # in Batch.prompts and Batch.completions, of role r as "experts:r": who its tokens went to
SAMPLER = "sampler"  # the name in Batch.logps of what was sampled from, which no role or stream may have
# Who fills a field that may be missing, for the message of `Batch.need`.
FILLED_BY = {
    **dict.fromkeys(("prompt", "prompt_valid"), "every source of texts fills it"),
    **dict.fromkeys(("tokens", "valid", "mask"), "a source with completions, or the stage fn(generate, ...)"),
    "reward": "a source with scores (rankings, thumbs), or a stage that fills it (reward, text_reward, ...)",
    "preference": "a source with pairs, or the stage fn(prefer, judge=...)",
    "pair_weight": "a stage that chooses pairs (query_budget, active_pairs, ...)",
    **dict.fromkeys(("advantage", "returns"), "a stage that fills it (group_advantage, gae, pass_at_k, ...)"),
    "example_id": "every source of examples fills it",
    "logps": "the stage fn(logprobs, role=...), or fn(generate, ...) for its streams and 'sampler'",
    'completions["edited"]': "1 [B,N,T] on the tokens that an edit touched; the source fn(revisions, ...) marks them",
    'completions["quality"]': "the stage fn(overlap, ...)",
    'completions["importance"]': "the stage fn(importance, ...)",
    'completions["raw_reward"]': "the stage fn(normalize_reward, ...)",
    'completions["token_reward"]': "the stage fn(token_rewards, ...)",
    'completions["values"]': "the stage fn(values, ...)",
    'prompts["bootstrap"]': "the stage fn(bootstrap, members=...) before it",
    'prompts["density_ratio"]': "the stage fn(density_ratio, ...)",
    'prompts["judged"]': "1 [B] where a judgment finds fault; see the source fn(judgements, ...)",
    'prompts["optimistic"]': "the stage fn(active_pairs, ...)",
    **dict.fromkeys(('prompts["other"]', 'prompts["other_valid"]'), "the stage fn(hindsight, ...)"),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts, their completions and what is known about them.

    Every leaf has B in front. A field is None (a mapping: empty) until a source or a stage fills it; `need` says who
    does. Prompts are left-padded, completions right-padded.

    Attributes:
        prompt: Prompt tokens [B,P], int32.
        prompt_valid: True where a prompt token exists and is attended [B,P].
        tokens: Completion tokens [B,N,T], int32.
        valid: True where a completion token exists and is attended [B,N,T].
        mask: How much a completion token counts in a loss [B,N,T], float32: 0 on forced ones, user turns, tool output.
        logps: Log-probabilities of the completion tokens by name, [B,N,T] in nats: under a role's name that role's at
            temperature 1 and untruncated, under "sampler" those of the distribution that was sampled.
        reward: A reward of every completion [B,N].
        preference: preference[b, i, j] is the probability that completion i beats completion j [B,N,N].
        pair_weight: The weight of every pair in a loss [B,N,N], 0 where a pair has no label.
        advantage, returns: Of every completion token, two numbers [B,N,T].
        example_id: The stable identity of a prompt [B], int32: sampling keys fold it in.
        prompts, completions: Everything else of shape [B,..], and of shape [B,N,..], by name.
        views: Batches with B, N, P and T of their own, by name.
    """

    prompt: Array | None = None
    prompt_valid: Array | None = None
    tokens: Array | None = None
    valid: Array | None = None
    mask: Array | None = None
    logps: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    reward: Array | None = None
    preference: Array | None = None
    pair_weight: Array | None = None
    advantage: Array | None = None
    returns: Array | None = None
    example_id: Array | None = None
    prompts: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    completions: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    views: Mapping[str, Batch] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: Any) -> Batch:
        """Returns the batch with some fields changed; of tokens that are others now, no experts are known any more."""
        for name in ("prompts", "completions") if {"prompt", "tokens"} & changes.keys() else ():
            values = changes.get(name, getattr(self, name)).items()
            changes[name] = {key: value for key, value in values if not key.startswith(f"{EXPERTS}:")}
        return dataclasses.replace(self, **changes)

    def need(self, field: str, name: str | None = None, *, of: str) -> Array:
        """Returns what somebody cannot do without: a field, or an entry of logps, prompts or completions.

        Args:
            field: The name of the field.
            name: The entry, where the field is a mapping.
            of: Who needs it, for the message.

        Returns:
            The array, of the shape that the field has above.

        Raises:
            ConfigError: If nobody has filled it; the message says who can.
        """
        value = getattr(self, field)
        if name is None:
            label, close = field, ""
        else:
            label, close = f'{field}["{name}"]', nearest(name, value)
            value = value.get(name)
        if value is None:
            filled_by = FILLED_BY.get(label) or FILLED_BY.get(field, "a source or a stage before it fills it")
            raise ConfigError(f"{of} needs batch.{label}: {filled_by}{close and '.' + close}")
        return value

    def ids(self) -> Array:
        """Returns the stable identity of every prompt [B]: `example_id`, or the number of its row without one."""
        return jnp.arange(self.need("prompt", of="ids").shape[0]) if self.example_id is None else self.example_id

    def with_logps(self, **logps: Array) -> Batch:
        """Returns the batch with more log-probs [B,N,T] by name."""
        return self.replace(logps={**self.logps, **logps})

    def take(self, rows: Array) -> Batch:
        """Returns rows [b] of every field. Views are left alone: they are other streams, with a B of their own."""
        keep = dataclasses.replace(self, views={})
        return dataclasses.replace(jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), keep), views=self.views)

    def pick(self, index: Array) -> Batch:
        """Returns completions `index` [B,n] of every prompt; pair fields are re-indexed on both axes."""

        def picked(leaf: Array) -> Array:
            return jnp.take_along_axis(leaf, index.reshape(*index.shape, *[1] * (leaf.ndim - 2)), axis=1)

        def picked_pairs(leaf: Array) -> Array:
            return jnp.take_along_axis(picked(leaf), index[:, None, :], axis=2)

        changes: dict[str, Any] = {
            name: (picked_pairs if name in PAIR_FIELDS else picked)(leaf)
            for name in (*COMPLETION_FIELDS, *PAIR_FIELDS)
            if (leaf := getattr(self, name)) is not None
        }
        return self.replace(
            logps=jax.tree.map(picked, self.logps), completions=jax.tree.map(picked, self.completions), **changes
        )


class Mean(NamedTuple):
    """A sum and the weight that divides it, once, over the whole batch of all devices; arrays are several means."""

    total: Array
    weight: Array

    @classmethod
    def of(cls, values: Array, weight: Array | None = None) -> Mean:
        """Returns the weighted mean of all entries, summed in float32 at least, whatever the dtype of `values`.

        Args:
            values: Any shape; NaN and inf are allowed where the weight is 0.
            weight: Broadcasts to the shape of the values; None counts each once.
        """
        values = jnp.asarray(values, jnp.promote_types(values.dtype, jnp.float32))
        weight = jnp.broadcast_to(1 if weight is None else weight, values.shape).astype(values.dtype)
        # The inner where keeps a NaN or inf that nobody counts from turning into 0 * inf, in the value and in the
        # gradient.
        return cls(jnp.sum(jnp.where(weight != 0, values, 0) * weight), jnp.sum(weight))

    def value(self) -> Array:
        """Returns total / weight, and 0 where nothing was counted."""
        return jnp.where(self.weight > 0, self.total / jnp.where(self.weight > 0, self.weight, 1), 0)

    def scale(self, factor: Any) -> Mean:
        """Returns the mean times a factor."""
        return Mean(self.total * factor, self.weight)


Metrics: TypeAlias = dict[str, Mean]


class Read(Protocol):
    """Turns logits [..,V] (or a head's output, or states [..,L,D]) of several roles into named numbers per token: the
    only way out of a hidden state."""

    def __call__(self, outputs: Mapping[str, Array], token: Array, /) -> dict[str, Array]: ...


class Hidden(NamedTuple):
    """The states of a backbone at each completion token.

    Attributes:
        before: The state before the token was seen, which predicts it [B,N,T,D].
        after: The state after the token was seen [B,N,T,D].
        states: The states at the sites that were asked for, by site [B,N,T,..].
    """

    before: Array
    after: Array
    states: Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Head:
    """A map from hidden states [..,D] to [..,K], reading the state "before" a token (lm, value) or "after" it (reward,
    preference)."""

    reads: str
    apply: Callable[[Params, Array], Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network as pure functions over params, which are plain nested dicts of arrays.

    Models are compared and hashed by identity, so make one per configuration and share it.

    Attributes:
        init: init(key) -> params.
        hidden: hidden(params, batch, sites=()) -> Hidden, the states at the completion tokens of a batch.
        heads: The heads by name; "lm" is the policy's.
        read: The default Read: the log-prob of the token for an lm head, the number itself for the others.
        extend: extend(params, cache, tokens [B,N,T], valid [B,N,T], edits=None, states=()) -> (hidden [B,N,T,D], cache,
            states), one function for training, scoring, prefill and decode; None if the model cannot be sampled from.
        axes: The logical axis names of the params, for sharding.
        config: What the model was made from, for config.json and checkpoints.
    """

    init: Callable[[Key], Params]
    hidden: Callable[..., Hidden]
    heads: Mapping[str, Head]
    read: Read
    extend: Callable[..., tuple[Array, Any, Mapping[str, Array]]] | None = None
    axes: Any = None
    config: Any = None


def _nobody_asks(batch: Batch, shape: tuple[int, ...]) -> Array:
    raise ConfigError("a text function is asked by the stages of a run (`alignjax train`); nothing here can ask it")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """The surroundings of a stage, judge, loss or rule: roles and how to score with them (`scoring.context` makes one).

    Only what a function reads needs to exist, so that a test can pass a stand-in.

    Attributes:
        roles: The roles by name.
        state: The tree of every role.
        step: The number of the iteration, an int32 scalar.
        metrics: {"loss/metric": Mean} of this iteration's losses, for rules to read; nothing is written there.
        params: params(role) -> what the role's model runs on, its `build` applied.
        score: score(outputs, batch, read=None) -> {name: [B,N,T]}. outputs is "role", "role:head" or "role@site", or a
            tuple of them; without a read each gives its model's default under its own name. All that the losses of one
            update ask for is computed in one pass per view.
        ask: ask(batch, shape) -> what a text function says of the batch, an array of that shape; NaN: no opinion.
    """

    roles: Mapping[str, Role] = dataclasses.field(default_factory=dict, metadata={"static": True})
    state: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: Any = 0
    metrics: Metrics = dataclasses.field(default_factory=dict)
    params: Callable[[str], Params] = dataclasses.field(default=lambda role: None, metadata={"static": True})
    score: Callable[..., dict[str, Array]] = dataclasses.field(
        default=lambda *args, **kw: {}, metadata={"static": True}
    )
    ask: Callable[..., Array] = dataclasses.field(default=_nobody_asks, metadata={"static": True})


# A stage or judge with something to log returns a pair of its answer and metrics; `with_metrics` takes both forms.
Stage: TypeAlias = Callable[[Context, Batch, Key], Batch | tuple[Batch, Metrics]]
Judge: TypeAlias = Callable[[Context, Batch, Key], Array | tuple[Array, Metrics]]  # [B,N,N]; p[i,j] + p[j,i] = 1
Loss: TypeAlias = Callable[[Context, Batch], tuple[Mean, Metrics]]
Rule: TypeAlias = Callable[[Any, Context, Batch, Key], Any]


def with_metrics(answer: Any) -> tuple[Any, Metrics]:
    """Splits what a stage or judge returned into its answer and its metrics, which are none if it returned no pair."""
    return answer if isinstance(answer, tuple) else (answer, {})


def prefixed(name: str, metrics: Metrics) -> Metrics:
    """Renames metrics to those of the stage or loss that gave them: "name/metric".

    Args:
        name: The stage or loss.
        metrics: Its metrics.

    Returns:
        The metrics under new names.
    """
    return {f"{name}/{metric}": mean for metric, mean in metrics.items()}


def frozen(state: Any, context: Context, batch: Batch, key: Key) -> Any:
    """Leaves a role as it is: the rule of a role that never moves by itself (the default).

    Args:
        state: The role's state.
        context: Not used.
        batch: Not used.
        key: Not used.

    Returns:
        The same state.
    """
    return state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Role:
    """A pytree that lives from step to step: weights, a shift, a multiplier, a memory.

    Attributes:
        model: The model that runs on it, or None.
        start: Its first value: `roles.fresh()`, `copy_of(role)`, `restored(stage, role)` or `value(function)`.
        optimizer: A function that makes the optax transformation; a role with one is trained.
        rule: rule(state, context, batch, key) -> state, which moves it at the end of every iteration, after the step of
            its optimizer if it has one; by default nothing does.
        optimizer_rule: A rule for the state of its optimizer, by default none. `context.state` has the states of all
            optimizers, by role, as they were before the iteration (`roles.return_moments`).
        build: build(state, params_of) -> params, which derives what the model runs on from this role and others
            (adapters, averages, fake quantization).
    """

    model: Model | None = dataclasses.field(metadata={"static": True})
    start: Any = dataclasses.field(metadata={"static": True})
    optimizer: Fn | None = None
    rule: Fn = dataclasses.field(default_factory=lambda: fn(frozen))
    build: Fn | None = None
    optimizer_rule: Fn | None = None

    def __post_init__(self) -> None:
        for name in ("optimizer", "rule", "build", "optimizer_rule"):
            object.__setattr__(self, name, as_fn(getattr(self, name)))


def _named(functions: Mapping[str, Any] | Sequence[Any]) -> OrderedDict[str, Any]:
    """An ordered mapping of functions by name; a sequence has the names of its functions, a second one with `_2`."""
    if isinstance(functions, Mapping):
        return OrderedDict((name, as_fn(function)) for name, function in functions.items())
    named: OrderedDict[str, Any] = OrderedDict()
    seen: Counter[str] = Counter()
    for function in map(as_fn, functions):
        seen[function.name] += 1
        count = seen[function.name]
        named[function.name if count == 1 else f"{function.name}_{count}"] = function
    return named


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Algorithm:
    """Stages that make experience, losses that read it, roles beside them: a pytree whose leaves are the float
    hyper-parameters of its functions.

    Attributes:
        experience: The stages by name, in order; a sequence is named after its functions.
        losses: The losses by name, which are summed; a sequence is named after its functions.
        roles: The roles by name.
        epochs: The number of passes over the same experience in an iteration.
        minibatches: The number of optimizer steps in each of these passes.
        microbatches: The number of pieces that a scoring pass is cut into to save memory. Every loss still sees the
            whole batch, so it never changes a result.
        packing: Scores the batch, or each microbatch, in rows without padding, which changes no result either.

    Raises:
        ConfigError: A role is called "sampler".
    """

    experience: Mapping[str, Fn] = dataclasses.field(default_factory=OrderedDict)
    losses: Mapping[str, Fn] = dataclasses.field(default_factory=OrderedDict)
    roles: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    epochs: Count = dataclasses.field(default=1, metadata={"static": True})
    minibatches: Count = dataclasses.field(default=1, metadata={"static": True})
    microbatches: Count = dataclasses.field(default=1, metadata={"static": True})
    packing: Packing | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        check_ranges(self)
        # OrderedDict because a jax pytree sorts the keys of a plain dict, and the order of stages is meaning.
        object.__setattr__(self, "experience", _named(self.experience))
        object.__setattr__(self, "losses", _named(self.losses))
        if SAMPLER in self.roles:
            raise ConfigError(f"a role cannot be called {SAMPLER!r}: Batch.logps[{SAMPLER!r}] are of what was sampled")
