"""Published weights as params: checked from headers first, then read leaf by leaf, each device's part alone."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.gguf_files import origin, read_header
from alignjax.models.huggingface.config_codec import config_in, fields_in
from alignjax.models.huggingface.families import FAMILIES, WITH_IMAGES, Family, family_of, text_name
from alignjax.models.huggingface.folders import CONFIG, Stored, fingerprint, folder_of, opened, read_json, tensors_of
from alignjax.models.huggingface.tensor_places import Place, place_of, read_part
from alignjax.models.rotary import rope_frequencies
from alignjax.tree_names import leaves_by_name, nested
from alignjax.types import Array, Model, Params


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A start from the weights in a folder or a GGUF file. Heads that it has not start afresh. The fingerprint stands
    in the run's config.json, so that a run is not resumed with other weights under the same name, and with it what kind
    of numbers a GGUF file, or a folder in MXFP4, holds ("Q4_1 dequantized")."""

    folder: str
    fingerprint: str
    numbers: str | None = None


def pretrained(folder: Path | str) -> Pretrained:
    """Starts a role from published weights: `Role(transformer(config_of(folder)), pretrained(folder))`.

    Args:
        folder: A folder of published weights, or a GGUF file.

    Raises:
        ConfigError: It holds none that can be read.
    """
    path = folder_of(folder)
    packed = path.is_dir() and any(tensor.scales is not None for tensor in tensors_of(path).values())
    numbers = origin(read_header(path)) if path.is_file() else "MXFP4 dequantized" if packed else None
    return Pretrained(str(folder), fingerprint(path), numbers)


# What is looked at and then passed over: tables of rotary frequencies, and those of who sees whom.
_TABLE = "rotary_emb.inv_freq"
_CAUSAL = re.compile(r".*\.(attn|attention)\.(bias|masked_bias)")


class Part(NamedTuple):
    """The tensors that a leaf is made of, in the order of its first axes, and where it lies in each."""

    tensors: tuple[str, ...]
    place: Place


def check(folder: Path | str, model: Model) -> dict[str, Part]:
    """Checks that a folder holds a model's weights, and finds what each leaf is made of. Reads headers, and of the
    tensors those that are passed over.

    Args:
        folder: A folder of published weights.
        model: A transformer.

    Returns:
        The part of each leaf by name ("layers/q"); none for heads that start afresh.

    Raises:
        ConfigError: An unknown architecture, a model of another configuration, files that are missing or cut short, or
            tensors that are missing, of another shape or kind, or that no leaf takes; the message names them.
    """
    # All problems are collected before the first few are named. A causal language model has no classifier's head, so
    # such a head starts afresh; in a classifier's folder it is read.
    raw, where = config_in(folder)
    for name, value in fields_in(raw, where).items():
        if name not in ("outputs", "classes", "head_bias") and getattr(model.config, name) != value:
            raise ConfigError(
                f"{where} describes a model with {name}={value!r}, and this one has {getattr(model.config, name)!r}; "
                "make it with transformer(huggingface.config_of(folder))"
            )
    family, stored = family_of(raw, where), _stored(folder)
    leaves = leaves_by_name(jax.eval_shape(model.init, jax.random.key(0)))
    fresh = () if raw["architectures"][0] == family.classifier else ("heads/reward/", "heads/classes/")
    parts, wrong = {}, []
    for leaf, abstract in leaves.items():
        place = None if leaf.startswith(fresh) and fresh else place_of(leaf, abstract.ndim, family, model.config)
        if place is None:
            continue
        names = tuple(place.pattern.format(*index) for index in np.ndindex(abstract.shape[: place.stack]))
        parts[leaf] = Part(names, place)
        shape = place.shape(abstract.shape[place.stack :])
        wrong += [problem for name in names if (problem := _problem(name, stored, shape)) and problem not in wrong]
    taken = {name for part in parts.values() for name in part.tensors}
    copy = {f"{family.modules['heads/lm']}.weight": f"{family.modules['embed']}.weight"}
    passed = [name for name in stored if name in copy or name.endswith(_TABLE) or _CAUSAL.fullmatch(name)]
    spare = [name for name in stored if name not in taken and name not in passed]
    wrong += [f"{name} in {stored[name].file.name} belongs nowhere in a {family.name} of this config" for name in spare]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        whose = f"{where.parent} does not fit its {CONFIG}" if where.name == CONFIG else f"{where} is no whole model"
        raise ConfigError(f"{whose}: {'; '.join(wrong[:4])}{more}")
    _check_passed_over({name: stored[name] for name in passed if name not in taken}, stored, model, copy)
    return parts


def _stored(folder: Path | str) -> dict[str, Stored]:
    """The tensors of a folder by the names that its family has for them."""
    tensors, path = tensors_of(folder), folder_of(folder)
    if path.is_file():
        return tensors
    config = read_json(path / CONFIG)
    if config.get("architectures") != [WITH_IMAGES]:
        return _with_prefix(tensors, FAMILIES.get(str(config.get("model_type"))))
    named: dict[str, Stored] = {}
    for key, stored in tensors.items():
        name = text_name(key)
        if name in named:
            raise ConfigError(f"{stored.file} has both {key!r} and {named[name].name!r}, which are one tensor here")
        named |= {} if name is None else {name: stored}
    return named


def _with_prefix(tensors: dict[str, Stored], family: Family | None) -> dict[str, Stored]:
    """Tensors by their whole names, where a file was written of the backbone alone ("h.0" for "transformer.h.0")."""
    prefix, _, embed = ("", "", "") if family is None else family.modules["embed"].partition(".")
    if family is None or f"{embed}.weight" not in tensors:
        return tensors
    prefix += "."
    beside = {module for module in family.modules.values() if not module.startswith(prefix)}
    return {key if key.rpartition(".")[0] in beside else prefix + key: stored for key, stored in tensors.items()}


def _problem(name: str, stored: Mapping[str, Stored], shape: tuple[int, ...]) -> str | None:
    if name not in stored:
        return f"{name} is missing"
    file, _, dtype, actual, _ = stored[name]
    if actual != shape:
        return f"{name} in {file.name} has the shape {list(actual)} where the config means {list(shape)}"
    if dtype not in ("float32", "bfloat16", "float16"):
        return f"{name} in {file.name} is {dtype}; float32, bfloat16 and float16 are read"
    return None


def _check_passed_over(
    spare: Mapping[str, Stored], stored: Mapping[str, Stored], model: Model, copy: Mapping[str, str]
) -> None:
    """Looks at what is passed over because it says nothing new: tables of rotary frequencies and of who sees whom,
    which older files kept, and the second copy of a tied embedding. Raises ConfigError for one that says something
    else."""
    for name, tensor in spare.items():
        if _CAUSAL.fullmatch(name):
            table = np.asarray(_numbers(tensor))
            if name.endswith(".bias") and not np.array_equal(table[0, 0] != 0, np.tri(table.shape[-1], dtype=bool)):
                raise ConfigError(f"{name} in {tensor.file} is no table in which each token sees all before it")
        elif name.endswith(_TABLE):
            table, c = np.asarray(_numbers(tensor), np.float64), model.config
            # Older files kept the table before it was scaled.
            half = (c.rotary_dim or c.head_dim) // 2
            meant = [rope_frequencies(half, c.rope_theta, scaling) for scaling in (None, c.rope_scaling)]
            close = {"float32": (1e-4, 0.0)}.get(tensor.dtype, (1e-2, 1e-4))
            if not any(table.shape == each.shape and np.allclose(table, each, *close) for each in meant):
                raise ConfigError(
                    f"{name} in {tensor.file} is not the table of rope_theta={c.rope_theta:g}; set the rope_theta in "
                    f"{CONFIG} that the weights were trained with, or take the tensor out"
                )
        elif not _same(tensor, stored[copy[name]]):
            raise ConfigError(
                f"{name} in {tensor.file} is another matrix than {copy[name]}, and tie_word_embeddings says that "
                f"they are one; set it to false in {CONFIG} to use the head, or take {name} out of the file"
            )


def _same(one: Stored, other: Stored, rows: int = 4096) -> bool:
    """Tells whether two tensors hold the same numbers; few rows are in memory at a time."""
    if one.shape != other.shape:
        return False
    with opened(one.file) as file, opened(other.file) as beside:
        first, second = file.get_slice(one.name), beside.get_slice(other.name)
        size = one.shape[0]
        pieces = [slice(start, min(start + rows, size)) for start in range(0, size, rows)]
        return all(np.array_equal(first[piece], second[piece]) for piece in pieces)


def _numbers(tensor: Stored) -> np.ndarray:
    with opened(tensor.file) as file:
        return file.get_tensor(tensor.name)


def load(
    folder: Path | str,
    model: Model,
    shardings: Any = None,
    *,
    report_progress: Callable[[str, int, int], None] = lambda leaf, number, of: None,
) -> Params:
    """Reads the params that a folder holds, in the dtypes of the model.

    Of each tensor only the slices are read that this process's devices keep, and beside what is on them there is one
    leaf's at a time.

    Args:
        folder: A folder of published weights.
        model: A transformer.
        shardings: A tree like the params with each leaf's sharding; the first device if None.
        report_progress: Called with (leaf, number, of) before each leaf.

    Returns:
        The params, without the heads that the folder has not.

    Raises:
        ConfigError: See `check`; before anything is read.
    """
    # Files stay open for all leaves and each leaf goes to its devices before the next is read, so host memory holds one
    # leaf and no file is opened twice.
    parts, stored = check(folder, model), _stored(folder)
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    leaves, placement = leaves_by_name(abstract), {} if shardings is None else leaves_by_name(shardings)
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    params: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        files = {
            path: stack.enter_context(opened(path))
            for path in {path for part in parts.values() for name in part.tensors for path in stored[name].files}
        }
        for number, (leaf, part) in enumerate(parts.items()):
            report_progress(leaf, number, len(parts))
            views = [stored[name].view(files) for name in part.tensors]
            params[leaf] = _leaf(leaves[leaf], part, views, placement.get(leaf, default))
    return {"heads": {}, **nested(params)}  # there are no heads besides a tied one


def _leaf(abstract: Any, part: Part, views: Sequence[Any], sharding: jax.sharding.Sharding) -> Array:
    """Makes an array on its devices, of which each reads its own slices."""

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        index = index or tuple(slice(None) for _ in abstract.shape)
        ranges = [range(*along.indices(size)) for along, size in zip(index, abstract.shape, strict=True)]
        numbers = np.empty([len(numbered) for numbered in ranges], abstract.dtype)
        stack, shape = part.place.stack, abstract.shape[: part.place.stack]
        for to in np.ndindex(numbers.shape[:stack]):
            at = [numbered[i] for numbered, i in zip(ranges[:stack], to, strict=True)]
            view = views[int(np.ravel_multi_index(at, shape)) if stack else 0]
            numbers[to] = read_part(view, part.place, index[stack:])
        return numbers

    array = jax.make_array_from_callback(abstract.shape, sharding, shard)
    # On CPU the array may stand in NumPy's memory, which could not be donated.
    return jnp.copy(array) if jax.default_backend() == "cpu" else array
