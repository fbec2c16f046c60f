"""Configs as data: `fn` for function-valued slots, and the records that a config file returns.

A config is a Python file with `get_config(mode)` that returns an `Experiment` or a `Pipeline`: frozen dataclasses,
plain imports, no strings that name code.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax

from alignjax.outside.errors import ConfigError as ConfigError, DataError as DataError
from alignjax.ranges import LARGEST, Count, Seed, plain, undeclared, violation


def nearest(word: str, options: typing.Iterable[str]) -> str:
    """Returns ' Did you mean X?' or the list of what exists: the tail of every error about a name.

    Args:
        word: What was asked for.
        options: What exists.

    Returns:
        The sentence, with a space in front.
    """
    options = list(options)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(options)) or 'none'}."


def check_known(word: str, options: typing.Collection[str], message: str) -> None:
    """Checks that something exists.

    Args:
        word: What was asked for.
        options: What exists.
        message: What is wrong where it does not, without a full stop; the nearest option follows.

    Raises:
        ConfigError: It does not exist.
    """
    if word not in options:
        raise ConfigError(f"{message}.{nearest(str(word), options)}")


def members(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, without ranges; any other annotation is its own only member."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(option for member in typing.get_args(annotation) for option in members(member))
    return members(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is Annotated else (annotation,)


def type_name(annotation: Any) -> str:
    """Writes an annotation as a person does: `float | None`, `tuple[int, ...]`, `one of hard, soft`."""
    annotation = plain(annotation)
    options = members(annotation)
    if len(options) > 1:
        return " | ".join(map(type_name, options))
    if typing.get_origin(annotation) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(annotation)))}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return f"one of {', '.join(annotation.__members__)}"
    name = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return name.replace("typing.", "").replace("pathlib.", "").replace("NoneType", "None")


def _fits(value: Any, option: Any) -> bool:
    """True if a value may stand where one member of a union is asked for."""
    if option is None or option is type(None):
        return value is None
    if typing.get_origin(option) is typing.Literal:
        return value in typing.get_args(option)
    if option in (int, float, bool) and hasattr(value, "dtype"):
        return True  # an array or a tracer in the place of a number
    if isinstance(value, bool):
        return option is bool or not isinstance(option, type)
    wanted = typing.get_origin(option) or option
    return not isinstance(wanted, type) or isinstance(value, wanted)


def _coerced(where: str, value: Any, annotation: Any) -> Any:
    """Converts a value as its annotation asks: ints become floats where a float is meant; a wrong type is refused by
    name. Lists become tuples, to be hashable."""
    if isinstance(value, list):
        value = tuple(value)
    options = members(annotation)
    checked = any(
        option in (float, int, bool, str) or typing.get_origin(option) is typing.Literal for option in options
    )
    if isinstance(value, Fn) or not checked:
        _check_range(where, value, annotation)
        return value
    if isinstance(value, int) and not isinstance(value, bool) and int not in options and float in options:
        _check_range(where, value, annotation)  # while it is as large as it is
        value = float(value) if abs(value) <= LARGEST else math.copysign(math.inf, value)
    if not any(_fits(value, option) for option in options):
        raise ConfigError(f"{where} is {shown(value)} ({type(value).__name__}); it must be {type_name(annotation)}")
    _check_range(where, value, annotation)
    return value


def _check_range(where: str, value: Any, annotation: Any) -> None:
    if words := violation(value, annotation):
        raise ConfigError(f"{where} is {shown(value)}; it must be {words}")


def shown(value: Any) -> str:
    """Returns a value as a message shows it; of a whole number with very many digits, which Python may not even write,
    how many there are."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of some {int(value.bit_length() * math.log10(2)) + 1:,} digits"
    return repr(value)


@functools.cache
def _ranges(record: type) -> dict[str, Any]:
    """The annotations of the numeric fields of a dataclass. Kept, because a record that is a pytree is made anew
    whenever it goes through jax."""
    return {name: hint for name, hint in type_hints(record).items() if undeclared(plain(hint))}


def unsaid(default: Any) -> Any:
    """Makes a field of a config that its record leaves out while it is at its default (`train/run_record.py`): runs of
    before there was such a field go on with a program that has it."""
    return dataclasses.field(default=default, metadata={"unsaid": True})


def check_ranges(record: Any, label: Callable[[str], str] | None = None) -> None:
    """Checks that the numbers in the fields of a dataclass are numbers, in the ranges that its annotations declare: for
    its `__post_init__`.

    Args:
        record: The dataclass.
        label: Makes of a field's name what the message calls it; by default Record.field.

    Raises:
        ConfigError: One is of another type, or not in its range.
    """
    for name, annotation in _ranges(type(record)).items():
        place = f"{type(record).__name__}.{name}" if label is None else label(name)
        _coerced(place, getattr(record, name, None), annotation)


@jax.tree_util.register_pytree_with_keys_class
class Fn:
    """A function with its hyper-parameters: frozen, callable, comparable, printable. `fn` makes and checks it.

    It is a pytree: hyper-parameters annotated `float`, and nested `Fn`s, are its leaves and enter jitted functions as
    arguments, so that a sweep over them compiles once; everything else is static. A function must therefore not branch
    in Python on a float hyper-parameter.

    Attributes:
        function: The function.
        kwargs: All its hyper-parameters by name.
        leaves: The names of those that are leaves.
    """

    __slots__ = ("__weakref__", "function", "kwargs", "leaves")
    function: Callable[..., Any]
    kwargs: dict[str, Any]
    leaves: tuple[str, ...]

    def __init__(self, function: Callable[..., Any], kwargs: dict[str, Any], leaves: tuple[str, ...]) -> None:
        for name, value in (("function", function), ("kwargs", kwargs), ("leaves", leaves)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"fn({self.name}) is frozen; use .replace({name}=...)")

    @property
    def name(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **{**self.kwargs, **kwargs})

    def replace(self, **changes: Any) -> Fn:
        """Returns the function with some hyper-parameters changed, checked again."""
        return fn(self.function, **{**self.kwargs, **changes})

    def __repr__(self) -> str:
        return f"fn({', '.join([self.name, *(f'{key}={value!r}' for key, value in self.kwargs.items())])})"

    def _static(self) -> tuple[Any, ...]:
        """All but the leaves, hashable."""
        rest = tuple((key, value) for key, value in sorted(self.kwargs.items()) if key not in self.leaves)
        return self.function, self.leaves, rest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fn) and self.function == other.function and self.kwargs == other.kwargs

    def __hash__(self) -> int:
        return hash((self.function, tuple(sorted(self.kwargs))))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        """Flattens for jax, with the names of the leaves."""
        return [(jax.tree_util.GetAttrKey(name), self.kwargs[name]) for name in self.leaves], self._static()

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """Flattens for jax."""
        return [self.kwargs[name] for name in self.leaves], self._static()

    @classmethod
    def tree_unflatten(cls, static: Any, children: typing.Iterable[Any]) -> Fn:
        """Makes the Fn again, from leaves that may be tracers: nothing is checked."""
        function, leaves, rest = static
        return cls(function, {**dict(rest), **dict(zip(leaves, children, strict=True))}, leaves)


def type_hints(owner: Any) -> dict[str, Any]:
    """Returns the evaluated annotations of a function or class, with their ranges; none where a user's file has one
    under TYPE_CHECKING."""
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except (NameError, TypeError):
        return {}


def hyperparameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the keyword-only parameters of a function with their annotations evaluated: `fn` accepts them, the
    command line offers them and `alignjax list` shows them."""
    hints = type_hints(inspect.unwrap(function))
    return {
        name: parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def fn(function: Callable[..., Any], /, **kwargs: Any) -> Fn:
    """Fills a function-valued slot of a config: `fn(losses.ipo, tau=0.1)`.

    Args:
        function: The function; its hyper-parameters are its keyword-only parameters.
        **kwargs: Hyper-parameters. Unset ones take their defaults now, so that config.json shows every number a run
            used.

    Raises:
        ConfigError: The function has no parameter of a name (the message names the nearest), one is missing, or a value
            has the wrong type or cannot be hashed.
    """
    # A value is a leaf of the pytree if it is an Fn, a tuple of these, or a number where a float is allowed; None stays
    # static, so that a function may branch on it. All that is static is part of a jit cache's key, hence the hashing.
    known = hyperparameters(function)
    name = getattr(function, "__name__", repr(function))
    for key in kwargs:
        if key not in known:
            raise ConfigError(f"{name} has no hyper-parameter {key!r}.{nearest(key, known)}")
    missing = [
        key for key, parameter in known.items() if parameter.default is inspect.Parameter.empty and key not in kwargs
    ]
    if missing:
        raise ConfigError(
            f"{name} needs {', '.join(missing)}: write fn({name}, {', '.join(f'{key}=...' for key in missing)})"
        )
    values, leaves = {}, []
    for key, parameter in known.items():
        value = values[key] = _coerced(f"{name}.{key}", kwargs.get(key, parameter.default), parameter.annotation)
        functions = isinstance(value, tuple) and value and all(isinstance(part, Fn) for part in value)
        number = float in members(parameter.annotation) and not isinstance(value, (bool, str, types.NoneType))
        if isinstance(value, Fn) or functions or number:
            leaves.append(key)
            continue
        try:
            hash(value)
        except TypeError:
            kind = type(value).__name__
            raise ConfigError(
                f"{name}.{key} is a {kind}, which cannot be hashed; use a tuple, a frozen dataclass or an fn"
            ) from None
    return Fn(function, values, tuple(leaves))


def functions_within(value: Any) -> typing.Iterator[Fn]:
    """Yields a function with hyper-parameters and all those among its own, such as the loss that `on` wraps."""
    if isinstance(value, Fn):
        yield value
        value = tuple(value.kwargs.values())
    if isinstance(value, Mapping):
        value = tuple(value.values())
    for inner in value if isinstance(value, tuple | list) else ():
        yield from functions_within(inner)


def as_fn(function: Any) -> Any:
    """Takes a bare function in a slot for `fn(function)`; an Fn, None or a traced placeholder passes through."""
    return fn(function) if inspect.isfunction(function) else function


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes of the device mesh; -1 for one of them means "all that is left".

    Attributes:
        replica: The number of copies of the weights.
        fsdp: The number of devices over which rows and weights are split.
        tensor: The number of devices over which heads and widths are split.
    """

    replica: Count | Literal[-1] = 1
    fsdp: Count | Literal[-1] = -1
    tensor: Count | Literal[-1] = 1

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class Packing:
    """A layout that takes padding out while a batch is scored (`models/packing.py`).

    Prompts with all their completions are laid end to end, the longest first, each into the row that is emptiest. A
    batch that does not fit is scored with its padding, in a second compiled program.

    Attributes:
        prompts: The number of prompts that share rows.
        length: The number of slots of a row, in tokens.
        rows: The number of rows that they share.
    """

    prompts: Count
    length: Count
    rows: Count = 1

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One training run.

    Attributes:
        algorithm: The algorithm.
        source: source(workspace, seed) -> batches by the number of the step.
        steps: The number of iterations (experience + update).
        seed: The seed of data, weights and samples.
        mesh: The sizes of the device mesh.
        log_every: The number of iterations between lines of metrics.
        checkpoint_every: The number of iterations between checkpoints.
        keep: The number of checkpoints that are kept.
        sample: sample(experiment, workspace) -> (state, batch, step) -> [{name: text}], which shows a few completions.
        sample_every: The number of iterations between samples.
        tags: Projects to log to, by the tracker: "wandb", "trackio" or "mlflow" (`train/trackers.py`).
        cached_logps: Frozen roles whose log-probs of the source's completions are scored once and stored on disk, for
            later epochs and runs (`train/logp_cache/`).
        overlap: Makes the experience of the next iteration while this one is learned from, by a policy that is one step
            older (`train/overlap.py`).
    """

    algorithm: Any
    source: Fn
    steps: Count
    seed: Seed = 0
    mesh: MeshConfig = MeshConfig()
    log_every: Count = 10
    checkpoint_every: Count = 200
    keep: Count = 2
    sample: Fn | None = None
    sample_every: Count = 200
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cached_logps: tuple[str, ...] = ()
    overlap: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Named steps in order.

    A later step names an earlier one's checkpoint as a role's start (`roles.restored("sft", "policy")`) or reads its
    folder through the workspace.

    Attributes:
        steps: By name an `Experiment`, or a job: `fn(function, ...)`, which is called as function(workspace) and
            prepares data, evaluates or reports.
    """

    steps: Mapping[str, Experiment | Fn]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("a Pipeline needs at least one step")
