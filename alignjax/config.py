"""Configs as data: `fn` for function-valued slots, and the records that a config file returns.

A config is a Python file with `get_config(mode)` that returns an `Experiment` or a `Pipeline`: frozen dataclasses,
plain imports, no strings that name code.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax


class ConfigError(ValueError):
    """A config says something that cannot be meant. The message names the place and what to write instead."""


def nearest(word: str, options: typing.Iterable[str]) -> str:
    """' Did you mean X?' or the list of what there is: the tail of every error about a name."""
    options = list(options)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(options)) or 'none'}."


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation is its own only member."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(option for member in typing.get_args(annotation) for option in _options(member))
    return (annotation,)


def _accepts(annotation: Any, wanted: type) -> bool:
    """Whether `annotation` is `wanted` or a union with it."""
    return wanted in _options(annotation)


def _fits(value: Any, option: Any) -> bool:
    """Whether a value may stand where one member of a union is asked for."""
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
    """`value` as its annotation asks: ints become floats where a float is meant; a wrong type is refused by name. Lists
    become tuples, to be hashable."""
    if isinstance(value, list):
        value = tuple(value)
    options = _options(annotation)
    checked = any(
        option in (float, int, bool, str) or typing.get_origin(option) is typing.Literal for option in options
    )
    if isinstance(value, Fn) or not checked:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and int not in options and float in options:
        return float(value)
    if not any(_fits(value, option) for option in options):
        wanted = str(annotation).replace("typing.", "") if typing.get_origin(annotation) else annotation
        raise ConfigError(
            f"{where} is {value!r} ({type(value).__name__}); it must be {getattr(wanted, '__name__', wanted)}"
        )
    return value


@jax.tree_util.register_pytree_with_keys_class
class Fn:
    """A function with its hyper-parameters: frozen, callable, comparable, printable. Made by `fn`, which checks them.

    A pytree: hyper-parameters annotated `float`, and nested `Fn`s, are its leaves and enter jitted functions as
    arguments, so that a sweep over them compiles once; everything else is static. A function must therefore not branch
    in Python on a float hyper-parameter.
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
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **{**self.kwargs, **kwargs})

    def replace(self, **changes: Any) -> Fn:
        """The same function with some hyper-parameters changed, checked again."""
        return fn(self.function, **{**self.kwargs, **changes})

    def __repr__(self) -> str:
        return f"fn({', '.join([self.name, *(f'{key}={value!r}' for key, value in self.kwargs.items())])})"

    def _static(self) -> tuple[Any, ...]:
        return (
            self.function,
            self.leaves,
            tuple((key, value) for key, value in sorted(self.kwargs.items()) if key not in self.leaves),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fn) and self.function == other.function and self.kwargs == other.kwargs

    def __hash__(self) -> int:
        return hash((self.function, tuple(sorted(self.kwargs))))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        return [(jax.tree_util.GetAttrKey(name), self.kwargs[name]) for name in self.leaves], self._static()

    def tree_flatten(self) -> tuple[list[Any], Any]:
        return [self.kwargs[name] for name in self.leaves], self._static()

    @classmethod
    def tree_unflatten(cls, static: Any, children: typing.Iterable[Any]) -> Fn:
        function, leaves, rest = static
        return cls(function, {**dict(rest), **dict(zip(leaves, children, strict=True))}, leaves)


def hyperparameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a function, annotations evaluated: what `fn` accepts, what the command line offers
    and what `alignjax list` shows."""
    signature = inspect.signature(function)
    try:
        hints = typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):  # an annotation under TYPE_CHECKING, in a user's file: treated as unannotated
        hints = {}
    return {
        name: parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def fn(function: Callable[..., Any], **kwargs: Any) -> Fn:
    """A function-valued slot of a config: `fn(losses.ipo, tau=0.1)`.

    Hyper-parameters are the keyword-only parameters of `function`. Unset ones take their defaults now, so that
    config.json shows every number a run used.

    Raises ConfigError for a name the function does not have (naming the nearest), a missing one, or a value of the
    wrong type.
    """
    known = hyperparameters(function)
    name = getattr(function, "__name__", repr(function))
    for given in kwargs:
        if given not in known:
            raise ConfigError(f"{name} has no hyper-parameter {given!r}.{nearest(given, known)}")
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
        if (
            isinstance(value, Fn)
            or functions
            or (value is not None and _accepts(parameter.annotation, float) and not isinstance(value, (bool, str)))
        ):
            leaves.append(key)
        else:
            try:
                hash(value)
            except TypeError:
                raise ConfigError(
                    f"{name}.{key} is a {type(value).__name__}, which cannot be hashed; "
                    "use a tuple, a frozen dataclass or an fn"
                ) from None
    return Fn(function, values, tuple(leaves))


def as_fn(function: Any) -> Any:
    """A bare function in a slot means `fn(function)`; an Fn, None or a traced placeholder passes through."""
    return fn(function) if inspect.isfunction(function) else function


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the device mesh axes; -1 for one of them means "all that is left"."""

    replica: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Packing:
    """How padding is taken out while a batch is scored: each `prompts` prompts, with all their completions, are laid
    end to end in `rows` rows of `length` slots, the longest first, each into the row that is emptiest. A batch for
    which that does not do is scored with its padding, in a second compiled program (`models/packing.py`)."""

    prompts: int
    length: int
    rows: int = 1

    def __post_init__(self) -> None:
        if min(self.prompts, self.length, self.rows) < 1:
            raise ConfigError(f"{self}: all are positive numbers")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One training run. `source(seed=...)` makes the random-access stream of batches; `sample` shows a few completions
    while training.

    steps: iterations (experience + update); log_every, checkpoint_every, sample_every: in iterations; keep: checkpoints
    kept; cached_logps: frozen roles whose log-probs of the source's completions are scored once and kept on disk, for
    later epochs and runs (`train/logp_cache/`); overlap: make the experience of the next iteration while this one is
    learned from, by a policy that is one step older (`train/overlap.py`)
    """

    algorithm: Any
    source: Fn
    steps: int
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    log_every: int = 10
    checkpoint_every: int = 200
    keep: int = 2
    sample: Fn | None = None
    sample_every: int = 200
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cached_logps: tuple[str, ...] = ()
    overlap: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep", "sample_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(f"Experiment.{name} is {getattr(self, name)!r}; it must be a positive integer")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Named steps in order. A step is an `Experiment`, or a job: `fn(function, ...)` called as function(workspace) for
    data preparation, evaluation and reports.

    A later step names an earlier one's checkpoint as a role's start (`roles.restored("sft", "policy")`) or reads its
    folder through the workspace.
    """

    steps: Mapping[str, Experiment | Fn]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("a Pipeline needs at least one step")
