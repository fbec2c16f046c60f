"""All losses of a list in one compiled program, which is what makes it cheap to hold every one of them to everything.

The values and gradients of C losses come from one shared scoring pass and one pullback of C cotangents.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import roles as starts
from alignjax.config import Fn
from alignjax.scoring import with_shared_passes
from alignjax.types import Array, Batch, Context, Mean, Role
from tests.support.loss_case import Case
from tests.support.network import NETWORK

BASE = {"policy": Role(NETWORK, None), "reference": Role(NETWORK, None)}
SCOPE = "loss_"  # what a case does has this and its name in compiled programs
TRACES: Counter[str] = Counter()  # how often each of the functions below was traced


class Layout(NamedTuple):
    """Where the arrays of every case's batch are in a list without repetitions: arrays that two batches share stay one
    array, so that they are scored once. Static."""

    names: tuple[str, ...]
    structures: tuple[Any, ...]
    places: tuple[tuple[int, ...], ...]


def pack(cases: Sequence[Case], batch: Batch) -> tuple[Layout, list[Any]]:
    """The batches of all cases, made of `batch` by their `fields`, as a layout and its arrays."""
    where: dict[int, int] = {}
    arrays: list[Any] = []
    structures, places = [], []
    for case in cases:
        leaves, structure = jax.tree.flatten(case.fields(batch))
        for leaf in leaves:
            if id(leaf) not in where:
                where[id(leaf)] = len(arrays)
                arrays.append(leaf)
        structures.append(structure)
        places.append(tuple(where[id(leaf)] for leaf in leaves))
    return Layout(tuple(case.name for case in cases), tuple(structures), tuple(places)), arrays


def _unpack(layout: Layout, arrays: Sequence[Array]) -> dict[str, Batch]:
    return {
        name: jax.tree.unflatten(structure, [arrays[place] for place in places])
        for name, structure, places in zip(*layout, strict=True)
    }


def extra_state(cases: Sequence[Case], dtype: str = "float32", seed: int = 3) -> dict[str, dict[str, Any]]:
    """The state of the extra roles of every case: case -> role -> tree, the same numbers in every dtype."""

    def numbers(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf.astype(dtype) if leaf.dtype == np.float32 else leaf

    with jax.enable_x64(False):  # a wider draw would be another one
        return jax.tree.map(numbers, _first_state(cases, seed))


def _first_state(cases: Sequence[Case], seed: int) -> dict[str, dict[str, Any]]:
    def first(role: Role, key: Any) -> Any:
        if isinstance(role.start, starts.Value):
            return role.start.function(key)
        assert role.model is not None, "an extra role starts from roles.value(f) or, with a model, from roles.fresh()"
        return role.model.init(key)

    keys = jax.random.split(jax.random.key(seed), 16)
    return {
        case.name: {role: first(case.extra[role], key) for role, key in zip(sorted(case.extra), keys, strict=False)}
        for case in cases
    }


def trained(case: Case) -> set[str]:
    return {name for name, role in case.extra.items() if role.optimizer is not None}


def moving(cases: Sequence[Case], policy: Any, state: Mapping[str, Mapping[str, Any]]) -> Any:
    """Everything that a gradient is taken by: the policy, and the extra roles that have an optimizer."""
    return {
        "policy": policy,
        **{c.name: {r: state[c.name][r] for r in sorted(trained(c))} for c in cases if trained(c)},
    }


def _all_losses(
    cases: Sequence[Case],
    functions: Mapping[str, Fn],
    moves: Any,
    reference: Any,
    state: Mapping[str, Mapping[str, Any]],
    batches: Mapping[str, Batch],
    microbatches: int,
    around: Any = None,
) -> dict[str, tuple[Mean, dict[str, Array]]]:
    """name -> (mean, metrics). An extra role of a case is scored as "case/role", so that equal names do not meet.

    around(name): a context manager that a case's loss runs in."""
    roles, trees = dict(BASE), {"policy": moves["policy"], "reference": reference}
    own = {case.name: {**state[case.name], **moves.get(case.name, {})} for case in cases}
    for case in cases:
        roles |= {f"{case.name}/{name}": role for name, role in case.extra.items()}
        trees |= {f"{case.name}/{name}": own[case.name][name] for name in case.extra}

    def context_of(case: Case, score: Any) -> Context:
        def renamed(output: str) -> str:
            role = output.partition(":")[0].partition("@")[0]
            return f"{case.name}/{output}" if role in case.extra else output

        def scored(outputs: Any, batch: Batch, read: Any = None) -> dict[str, Array]:
            asked = (outputs,) if isinstance(outputs, str) else tuple(outputs)
            if not any(renamed(output) != output for output in asked):
                return score(outputs, batch, read)
            back = {renamed(output): output for output in asked}
            if read is None:
                return {back[name]: value for name, value in score(tuple(back), batch, None).items()}
            return score(tuple(back), batch, _with_names(read, tuple(back.items())))

        known = {"policy": trees["policy"], "reference": reference, **own[case.name]}
        return Context({**BASE, **case.extra}, known, jnp.asarray(3), {}, known.__getitem__, scored)

    found = {}

    def run(score: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        found.clear()
        for case in cases:
            with around(case.name) if around else _nothing(), jax.named_scope(f"{SCOPE}{case.name}"):
                mean, metrics = functions[case.name](context_of(case, score), batches[case.name])
            found[case.name] = (mean, {name: metric.value() for name, metric in metrics.items()})
        return {}, dict(found)

    whole = next(iter(batches.values())).replace(views=dict(batches))
    _, answers = with_shared_passes(run, roles, trees.__getitem__, whole, microbatches=microbatches)
    return answers


@functools.cache
def _with_names(read: Any, names: tuple[tuple[str, str], ...]) -> Any:
    """`read` that is handed outputs under the names it knows; the same function for the same arguments, so that passes
    are shared."""
    return lambda outputs, token: read({dict(names).get(name, name): v for name, v in outputs.items()}, token)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class Program:
    """A list of cases with their compiled functions. Losses enter as arguments, so that their float hyper-parameters
    are traced."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = tuple(cases)
        self.functions = {case.name: case.loss for case in cases}
        self._gradients = jax.jit(self._trace_gradients, static_argnames=("layout", "microbatches", "metrics"))
        self._values = jax.jit(self._trace_values, static_argnames=("layout",))
        self._frozen = jax.jit(self._trace_frozen, static_argnames=("layout",))
        self._sum = jax.jit(self._trace_sum, static_argnames=("layout", "microbatches", "metrics"))

    def gradients(self, moves: Any, reference: Any, state: Any, batch: Batch, **options: Any) -> dict[str, Any]:
        """{"value", "weight": [C], "gradient": a tree of [C, ..], "metrics": {case: {metric: number}} if asked for}."""
        layout, arrays = pack(self.cases, batch)
        return self.packed(moves, reference, state, layout, arrays, **options)

    def packed(
        self, moves: Any, reference: Any, state: Any, layout: Layout, arrays: Any, *, microbatches: int = 1,
        functions: Any = None, metrics: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        options = {"layout": layout, "microbatches": microbatches, "metrics": metrics}
        out = self._gradients(functions or self.functions, moves, reference, state, arrays, **options)
        return jax.tree.map(np.asarray, out)

    def _trace_gradients(
        self, functions: Any, moves: Any, reference: Any, state: Any, arrays: Any, layout: Layout, microbatches: int,
        metrics: bool,
    ) -> Any:  # fmt: skip
        TRACES["gradients"] += 1

        def values(moves: Any) -> tuple[Array, Any]:
            batches = _unpack(layout, arrays)
            answers = _all_losses(self.cases, functions, moves, reference, state, batches, microbatches)
            means = [answers[case.name][0] for case in self.cases]
            value = jnp.stack([mean.value() for mean in means])
            seen = {name: numbers for name, (_, numbers) in answers.items()} if metrics else {}
            return value, (value, jnp.stack([jnp.asarray(mean.weight, value.dtype) for mean in means]), seen)

        gradient, (value, weight, seen) = jax.jacrev(values, has_aux=True)(moves)
        return {"value": value, "weight": weight, "gradient": gradient, "metrics": seen}

    def compiled_sum(self, moves: Any, reference: Any, state: Any, batch: Batch, place: Any, options: Any) -> Any:
        """A compiled function of factors [C] -> the values [C], and the gradient of their sum times the factors; and
        its program. `place` puts the arrays of batches where they belong; options: the compiler's."""
        layout, arrays = pack(self.cases, batch)
        given = (self.functions, moves, reference, state, place(arrays))
        program = self._sum.lower(*given, np.ones(len(self.cases)), layout=layout).compile(compiler_options=options)
        return functools.partial(program, *given), program

    def totals(self, moves: Any, reference: Any, state: Any, batch: Batch, **options: Any) -> dict[str, Any]:
        """{"value": [C], "gradient": that of the sum of all values, "metrics": as in `gradients`}. One pullback of one
        cotangent: a gradient that is not finite, or not 0, shows in the sum, and not whose it is. Of no two losses the
        same share is taken, so that they cannot cancel."""
        layout, arrays = pack(self.cases, batch)
        factors = np.random.default_rng(6).uniform(0.5, 1, len(self.cases)).astype(np.float32)
        given = (self.functions, moves, reference, state, arrays, factors)
        return jax.tree.map(np.asarray, self._sum(*given, layout=layout, **options))

    def _trace_sum(
        self, functions: Any, moves: Any, reference: Any, state: Any, arrays: Any, factors: Any, layout: Layout,
        microbatches: int = 1, metrics: bool = False,
    ) -> Any:  # fmt: skip
        def total(moves: Any) -> tuple[Array, Any]:
            batches = _unpack(layout, arrays)
            answers = _all_losses(self.cases, functions, moves, reference, state, batches, microbatches)
            value = jnp.stack([answers[case.name][0].value() for case in self.cases])
            seen = {name: numbers for name, (_, numbers) in answers.items()} if metrics else {}
            return jnp.sum(factors * value), (value, seen)

        gradient, (value, seen) = jax.grad(total, has_aux=True)(moves)
        return {"value": value, "gradient": gradient, **({"metrics": seen} if metrics else {})}

    def values(self, moves: Any, reference: Any, state: Any, batch: Batch) -> np.ndarray:
        """The values [C], in one microbatch."""
        layout, arrays = pack(self.cases, batch)
        return np.asarray(self._values(self.functions, moves, reference, state, arrays, layout=layout))

    def _trace_values(
        self, functions: Any, moves: Any, reference: Any, state: Any, arrays: Any, layout: Layout
    ) -> Array:
        answers = _all_losses(self.cases, functions, moves, reference, state, _unpack(layout, arrays), 1)
        return jnp.stack([answers[case.name][0].value() for case in self.cases])

    def values_with_constants_of(self, moves: Any, base: Any, reference: Any, state: Any, batch: Batch) -> np.ndarray:
        """The values [C] at `moves`, but with everything under a stop_gradient as it is at `base`: the function that a
        gradient is the derivative of."""
        layout, arrays = pack(self.cases, batch)
        return np.asarray(self._frozen(self.functions, moves, base, reference, state, arrays, layout=layout))

    def _trace_frozen(
        self, functions: Any, moves: Any, base: Any, reference: Any, state: Any, arrays: Any, layout: Layout
    ) -> Array:
        kept: dict[str, list[Array]] = {}
        batches = _unpack(layout, arrays)

        @contextmanager
        def recording(name: str) -> Iterator[None]:
            kept[name] = []  # with_shared_passes runs a loss twice; the second run counts
            with _stop_gradient_is(lambda x: kept[name].append(x) or x):
                yield

        @contextmanager
        def replaying(name: str) -> Iterator[None]:
            rest = iter(kept[name])
            with _stop_gradient_is(lambda x: next(rest)):
                yield
            assert next(rest, None) is None, f"{name} stops other gradients the second time"

        _all_losses(self.cases, functions, base, reference, state, batches, 1, recording)
        answers = _all_losses(self.cases, functions, moves, reference, state, batches, 1, replaying)
        return jnp.stack([answers[case.name][0].value() for case in self.cases])


@contextmanager
def _stop_gradient_is(function: Any) -> Iterator[None]:
    before = jax.lax.stop_gradient
    jax.lax.stop_gradient = lambda tree: jax.tree.map(function, tree)
    try:
        yield
    finally:
        jax.lax.stop_gradient = before


def alone(case: Case, policy: Any, reference: Any, state: Any, batch: Batch) -> tuple[Any, Any]:
    """The shapes of (value, metrics) of one case that is traced, not run; or an error of its own."""

    def run(policy: Any, reference: Any, state: Any, batch: Batch) -> Any:
        moves = {"policy": policy}
        found = _all_losses([case], {case.name: case.loss}, moves, reference, state, {case.name: batch}, 1)
        mean, metrics = found[case.name]
        return mean.value(), metrics

    return jax.eval_shape(run, policy, reference, state, case.fields(batch))
