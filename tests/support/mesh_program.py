"""Runs recipes on meshes of simulated devices and compares what came of them with one device.

    python -m tests.support.mesh_program [RECIPE ...] [MESH ...]

prints a table: every recipe of `toy_recipes.py` and every variant below, on every mesh, or those that are named. Each
makes two iterations by one compiled program, which refuses what is laid out otherwise than it was compiled for.
`test_mesh.py` reads a part of the table as JSON (--part): a program of its own, because the number of devices is set
before jax starts.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from alignjax import algorithms
from alignjax.config import MeshConfig, Packing, fn
from alignjax.models import Quantized
from alignjax.parallel import mesh
from alignjax.train.state import TrainState, abstract_state, init_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Batch, Model
from tests.support.collectives import Gather, all_gathers
from tests.support.mesh_table import head, row, summary
from tests.support.recipe_parts import kinds, representatives
from tests.support.tiny import model as tiny_model, ragged
from tests.support.toy_recipes import COUPLED, FROM_TEXT, PLAYED, RECIPES, WITH_TEXTS, filled, judged

# Beside JAX_DISABLE_MOST_OPTIMIZATIONS: what runs for milliseconds is to compile in one second, not in three.
QUICK = {"xla_cpu_parallel_codegen_split_count": 1}
# Sizes that 2 x 2 x 2 devices divide, and by which an array's shape says what it is.
LAYERS, VOCAB, WIDTH, MLP, ROWS, N, T = 2, 40, 16, 24, 8, 2, 7
NETWORK = tiny_model(vocab=VOCAB, width=WIDTH, layers=LAYERS, mlp=MLP, outputs=("preference", "reward", "value"))
# Traced once for all recipes of a mesh; the compiler puts what was traced in the place of every call.
NETWORK = dataclasses.replace(
    NETWORK,
    init=jax.jit(NETWORK.init),
    hidden=jax.jit(NETWORK.hidden, static_argnames=("sites", "packing")),
    extend=jax.jit(NETWORK.extend, static_argnames="states"),
)
MESHES = {"1": (1, 1, 1), "8x1": (1, 8, 1), "4x2": (1, 4, 2), "2x2x2": (2, 2, 2)}
FULL = ragged(rows=ROWS, n=N, t=T, vocab=VOCAB).replace(prompts={"domain": np.zeros(ROWS, np.int32)})


# --------------------------------------------------------------------------------------------------- what is looked at


def lora(network: Model, **parts: Any) -> Algorithm:
    """DPO with adapters over a base in 8 bits."""
    return algorithms.with_lora(RECIPES["dpo"](network, **parts), rank=4, bits=8)


def split_sampler(network: Model, **parts: Any) -> Algorithm:
    """IPO-MD whose sampler leaves the weights split over the tensor axis."""
    algorithm = RECIPES["ipo_md"](network, **parts)
    stage = algorithm.experience["generate"].replace(tensor_parallel=True)
    return dataclasses.replace(algorithm, experience={**algorithm.experience, "generate": stage})


def replay(network: Model, **parts: Any) -> Algorithm:
    """Online DPO that learns from older examples too, fewer of them than there are devices."""
    algorithm = RECIPES["online_dpo"](network, **parts)
    return algorithms.with_replay(algorithm, slots=16, rows=6, max_age=3, prompt_tokens=6, n=N, max_tokens=5)


def pool(network: Model, **parts: Any) -> Algorithm:
    """Self-play against one of the past policies."""
    return filled(judged(algorithms.self_play_pg))(network, pool=2, **parts)


def look_ahead(network: Model, **parts: Any) -> Algorithm:
    """EGPO whose first iteration leaves its gradient in the moments, where it is looked at."""
    return filled(judged(algorithms.egpo))(network, tau=0.5, restore_moments=False, **parts)


def changed(name: str, **changes: Any) -> Callable[..., Algorithm]:
    return lambda network, **parts: dataclasses.replace(RECIPES[name](network, **parts), **changes)


VARIANTS: dict[str, Callable[..., Algorithm]] = {
    "lora": lora,
    "split_sampler": split_sampler,
    "replay": replay,
    "pool": pool,
    "egpo": look_ahead,
    "minibatches": changed("dpo", epochs=2, minibatches=2),
    "microbatches": changed("ipo", microbatches=2),
    "packed": changed("ipo", packing=Packing(prompts=2, length=38)),
}
# What a variant is compared with, where it is another algorithm on one device.
SAME_AS = {"split_sampler": "ipo_md", "microbatches": "ipo", "packed": "ipo"}
BUILDS = {**RECIPES, **PLAYED, **COUPLED, **VARIANTS}


@functools.cache
def kinds_of_parts() -> dict[str, set[str]]:
    """Of every recipe, and of the variants that the tests look at."""
    return {name: kinds(algorithm_of(name)) for name in [*RECIPES, *PLAYED, "split_sampler", "lora"]}


def part() -> dict[str, tuple[str, ...]]:
    """What the tests look at: recipes in which every kind of part occurs, each on one mesh, taking turns; among them
    one on all meshes, one that learns from given pairs, and two variants."""
    turns = itertools.cycle(list(MESHES)[1:])
    fixed = {"ipo_md": tuple(MESHES)[1:], "split_sampler": ("4x2",), "lora": ("4x2",)}
    chosen = representatives(kinds_of_parts(), first=(*fixed, "dpo"))
    return {name: fixed[name] if name in fixed else (next(turns),) for name in chosen}


def algorithm_of(name: str) -> Algorithm:
    return BUILDS[name](NETWORK, optimizer=fn(momentum, learning_rate=0.1))


def momentum(*, learning_rate: float) -> optax.GradientTransformation:
    """Moments that are the gradient after one update, and are laid out too."""
    return optax.sgd(learning_rate, momentum=0.9)


def source_batch(name: str, algorithm: Algorithm) -> Batch:
    """What the recipe's source would give: pairs, texts or prompts."""
    if name in FROM_TEXT:
        text = {field: getattr(FULL, field)[:, :1] for field in ("tokens", "valid", "mask")}
        return FULL.replace(**text, preference=None, logps={})
    texts = {"pretrain": ragged(seed=7, rows=ROWS, n=1, p=3, t=5, vocab=VOCAB)}
    batch = FULL.replace(views=texts if name in (*COUPLED, *WITH_TEXTS) else {})
    if "generate" in algorithm.experience:
        return batch.replace(tokens=None, valid=None, mask=None, preference=None, logps={})
    return batch


def first_state(algorithm: Algorithm) -> TrainState:
    """A state on the host. Roles that begin as copies of another are moved apart, so that no ratio is 1 and no KL 0."""
    state = init_state(algorithm, jnp.uint32(0), {})
    draw = np.random.default_rng(1)

    def moved(leaf: Any) -> np.ndarray:
        leaf = np.array(leaf)
        apart = np.issubdtype(leaf.dtype, np.floating)
        return (leaf + 0.05 * draw.normal(size=leaf.shape)).astype(leaf.dtype) if apart else leaf

    for name, role in algorithm.roles.items():
        if role.model is not None and name != "base":  # scales of quantized weights are small
            state.roles[name] = jax.tree.map(moved, state.roles[name])
    return jax.tree.map(np.array, state)


# ----------------------------------------------------------------------------------------------------------- one run


@dataclasses.dataclass(frozen=True)
class Run:
    """Two iterations of an algorithm on a mesh: the batches made, the metrics, the optimizers after the first (their
    moments are its gradients) and the roles after the second; what is looked at besides the numbers."""

    batches: list[Any]
    metrics: list[dict[str, np.ndarray]]
    moments: dict[str, Any]
    roles: dict[str, Any]
    seen: dict[str, Any]


def run(name: str, label: str) -> Run:
    begun = time.perf_counter()
    algorithm, sizes = algorithm_of(name), MESHES[label]
    place = mesh.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    shardings = mesh.state_shardings(algorithm, abstract_state(algorithm), place)
    state = jax.device_put(first_state(algorithm), shardings)
    batch = mesh.place_batch(source_batch(name, algorithm), place)
    experience = jax.jit(make_experience(algorithm), compiler_options=QUICK).lower(state, batch).compile()
    given, _ = experience(state, batch)
    program = jax.jit(make_update(algorithm), donate_argnums=0, compiler_options=QUICK)
    update = program.lower(state, given).compile()
    found = Run([], [], {}, {}, {})
    for number in range(2):
        given = given if number == 0 else experience(state, batch)[0]
        state, metrics = update(state, given)
        found.batches.append(jax.tree.map(np.array, given))
        found.metrics.append(jax.tree.map(np.array, metrics))
        if number == 0:
            found.moments.update(jax.tree.map(np.array, state.optimizers))
    found.roles.update(jax.tree.map(np.array, state.roles))
    kept = jax.tree.map(lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim), state, shardings)
    declared = weights_in_use(algorithm, place)
    found.seen.update(
        shardings_kept=all(jax.tree.leaves(kept)),
        weight_shards=_shards(algorithm, state),
        experience=gathered(experience, declared | sampler_weights(algorithm, place)),
        update=gathered(update, declared),
        seconds=round(time.perf_counter() - begun, 1),
    )
    return found


def _shards(algorithm: Algorithm, state: TrainState) -> int:
    """Into how many pieces a matrix of the policy is split, or of the base under its adapters."""
    role = next(role for role in ("base", "policy", *algorithm.roles) if role in algorithm.roles)
    held = state.roles[role]["layers"]["gate"]
    weight = held.values if isinstance(held, Quantized) else held
    return len({str(shard.index) for shard in weight.addressable_shards})


# ---------------------------------------------------------------------------------------------------- what is gathered


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _used(axes: tuple[str | None, ...], shape: tuple[int, ...], place: Mesh) -> tuple[int, ...]:
    """What one device holds of an array while it is at work."""
    return NamedSharding(place, mesh.partition_spec(axes, shape, place, mesh.COMPUTE_LAYOUT)).shard_shape(shape)


def _weights(algorithm: Algorithm) -> Iterator[tuple[bool, tuple[str | None, ...], tuple[int, ...]]]:
    """(of the layers or not, logical axes, shape) of every array of the models' params."""
    params = jax.eval_shape(NETWORK.init, jax.random.key(0))
    named = jax.tree_util.tree_leaves_with_path(NETWORK.axes, is_leaf=lambda node: isinstance(node, tuple))
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    for (path, axes), shape in zip(named, shapes, strict=True):
        yield path[0].key == "layers", axes, shape
    if "base" in algorithm.roles:  # adapters: a [L,D,4] and b [L,4,F]
        for path, axes in named:
            if path[0].key == "layers" and len(axes) == 3:
                shape = params["layers"][path[1].key].shape
                yield True, (*axes[:-1], None), (*shape[:-1], 4)
                yield True, (*axes[:-2], None, axes[-1]), (*shape[:-2], 4, shape[-1])


def weights_in_use(algorithm: Algorithm, place: Mesh) -> dict[tuple[Any, ...], str]:
    """What a scoring pass gathers over fsdp: a layer's weights where it runs, embedding, norm and heads once; or, in
    several passes, those as often. By (shape, stands in a loop)."""
    passes = algorithm.microbatches * algorithm.epochs * algorithm.minibatches
    loops = {True: (True,), False: (False,) if passes == 1 else (False, True)}
    return {
        (_squeezed(_used(axes[layer:], shape[layer:], place))[::order], loop): "a layer" if layer else "ends"
        for layer, axes, shape in _weights(algorithm)
        for loop in loops[layer]
        for order in (1, -1)  # transposed for the backward pass
    }


def sampler_weights(algorithm: Algorithm, place: Mesh) -> dict[tuple[Any, ...], str]:
    """What a sampler gathers before its first token: all weights of all layers over all axes, or over fsdp alone."""
    stage = algorithm.experience.get("generate")
    if stage is None:
        return {}
    found = {}
    for _, axes, shape in _weights(algorithm):
        used, held = (
            _used(axes, shape, place),
            NamedSharding(place, mesh.partition_spec(axes, shape, place)).shard_shape(shape),
        )
        whole = not stage.kwargs.get("tensor_parallel")
        steps = itertools.product(*zip(shape, used, held, strict=True)) if whole else [used]
        found |= {(_squeezed(step), False): "all layers" for step in steps}
    return found


def gathered(compiled: Any, declared: Mapping[tuple[Any, ...], str]) -> dict[str, Any]:
    """The all-gathers of a program by what they are: weights in use, numbers of the batch (at most one a token), and
    those that should not be."""
    kinds: dict[str, set[str]] = {}
    for gather in all_gathers(compiled):
        kinds.setdefault(_kind(gather, declared), set()).add(_said(gather))
    return {kind: sorted(shapes) for kind, shapes in kinds.items()}


def _kind(gather: Gather, declared: Mapping[tuple[Any, ...], str]) -> str:
    known = declared.get((_squeezed(gather.shape), gather.loop))
    if known is not None and not gather.open:
        return known
    few = not {VOCAB, VOCAB // 2, WIDTH, MLP, MLP // 2} & {*gather.shape} and np.prod(gather.shape) <= 4 * ROWS * T
    return "numbers" if few else "unexpected"


def _said(gather: Gather) -> str:
    where = " at every token" if gather.open else " in a loop" if gather.loop else ""
    return f"{'x'.join(map(str, gather.shape))}{where}"


# ------------------------------------------------------------------------------------------------------- the comparison


def _gap(one: Any, other: Any, scale: float | None = None, least: float = 1e-30) -> float:
    """The largest difference of two trees of floats, relative to `scale` or to the largest number of each leaf; inf if
    one of whole numbers or truths differs."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not np.issubdtype(a.dtype, np.floating):
            worst = max(worst, 0.0 if np.array_equal(a, b) else np.inf)
        elif a.size:
            largest = scale if scale is not None else float(np.max(np.abs(a)))
            gap = np.max(np.abs(np.asarray(a, np.float64) - b)) / max(largest, least)
            worst = max(worst, np.inf if np.isnan(gap) else float(gap))
    return worst


def _largest(tree: Any) -> float:
    return max((float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree)), default=0.0)


def _losses(run: Run) -> list[dict[str, np.ndarray]]:
    return [{key: one[key] for key in one if key.split("/")[0] in ("loss", "gradient_norm")} for one in run.metrics]


def compare(one: Run, many: Run) -> dict[str, Any]:
    """Relative differences: of all that stages made, of losses and gradient norms, of each role's first gradient at the
    scale of its largest number, and of the roles in the end. Not of other metrics: some count signs, and labels of
    two equal samples are 1/2 to rounding only."""
    largest = {role: _largest(moments) for role, moments in one.moments.items()}
    gradients = [_gap(one.moments[role], many.moments[role], size) for role, size in largest.items()]
    return {
        "batch": _gap(one.batches, many.batches, least=1e-2),
        "losses": _gap(_losses(one), _losses(many), least=1e-2),
        "gradient": max(gradients),
        "gradient_size": max(largest.values()),
        "roles": _gap(one.roles, many.roles, least=1e-2),
        **many.seen,
    }


# --------------------------------------------------------------------------------------------------------- the program


def control() -> dict[str, Any]:
    """What is gathered by a program that does what no update should: weights of all layers whole on every device, and
    logits whole in every turn of a loop."""
    place = mesh.make_mesh(MeshConfig(*MESHES["8x1"]))

    def arrays(*axes: str | None, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            shape, np.float32, sharding=NamedSharding(place, mesh.partition_spec(axes, shape, place))
        )

    def gathers(weights: Any, logits: Any) -> Any:
        turn = lambda _, x: mesh.shard_rows(mesh.replicate(2 * x))  # noqa: E731
        return mesh.replicate(weights), jax.lax.fori_loop(0, 3, turn, logits)

    weights = arrays("layers", "embed", "mlp", shape=(LAYERS, WIDTH, MLP))
    logits = arrays("batch", None, None, None, shape=(ROWS, N, 5, VOCAB))
    declared = weights_in_use(algorithm_of("sft"), place)
    return gathered(jax.jit(gathers).lower(weights, logits).compile(), declared)


def main() -> None:
    gc.set_threshold(100_000)  # tracing makes many objects and little garbage
    os.environ.setdefault("PJRT_NPROC", "16")  # threads: with one per core, devices may wait for each other for ever
    jax.config.update("jax_num_cpu_devices", 8)
    words = sys.argv[1:]
    if unknown := {*words} - {*MESHES, *BUILDS, "--part"}:
        sys.exit(f"there are no {', '.join(unknown)}; recipes: {', '.join(BUILDS)}; meshes: {', '.join(MESHES)}")
    labels = tuple(word for word in words if word in MESHES and word != "1") or tuple(MESHES)[1:]
    names = [word for word in words if word in BUILDS] or [*BUILDS]
    print(head())
    table: dict[str, Any] = {}
    alone = functools.lru_cache(maxsize=len(SAME_AS))(lambda name: run(name, "1"))
    for name, shapes in (part() if "--part" in words else dict.fromkeys(names, labels)).items():
        one = alone(SAME_AS.get(name, name))
        table[name] = {"1": one.seen}
        for label in shapes:
            table[name][label] = compare(one, run(name, label))
            print(row(name, label, table[name][label]), flush=True)
    if "--part" in words:
        parts = {name: sorted(own) for name, own in kinds_of_parts().items()}
        print(json.dumps({"table": table, "control": control(), "parts": parts}))
    else:
        print(summary(table))


if __name__ == "__main__":
    main()
