"""Command-line overrides are dotted paths into the tree that a config file returned.

`--algorithm.losses.pair.tau 0.1` walks frozen dataclasses by field, mappings by key, `Fn`s by hyper-parameter and
tuples of records by index. The value is parsed as the annotation at the end of the path asks (by tyro), and the tree is
rebuilt from there to the root with `dataclasses.replace` and `Fn.replace`, so every check of every record runs again.
The first component of a path into a `Pipeline` is the name of a step; `all` stands for every step that has the rest of
the path, and `--seed N` alone for another draw of the whole pipeline.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import enum
import functools
import inspect
import io
import operator
import pathlib
import types
import typing
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tyro

from alignjax.config import ConfigError, Fn, Pipeline, hyperparameters, nearest

EVERY_STEP = "all"
SEED = "seed"
SEEDS_APART = 1000  # `--seed N` adds N times this to the seeds of a pipeline's steps, which differ by less
_PLAIN = (bool, int, float, str, pathlib.Path)
_UNSAID = (inspect.Parameter.empty, Any, object)


@dataclasses.dataclass(frozen=True)
class Slot:
    """One value of a config that the command line can change: its dotted path, the type asked for, the value now."""

    path: str
    annotation: Any
    value: Any

    @property
    def type_name(self) -> str:
        return type_name(self.annotation)


def _is_union(annotation: Any) -> bool:
    return isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union


def type_name(annotation: Any) -> str:
    """Writes an annotation as a person does: `float | None`, `tuple[int, ...]`."""
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    if _is_union(annotation):
        return " | ".join(type_name(option) for option in typing.get_args(annotation))
    return str(annotation).replace("typing.", "").replace("pathlib.", "")


def _is_plain(annotation: Any) -> bool:
    """Whether words of a command line can be turned into this type."""
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return True
    if _is_union(annotation) or origin is tuple:
        return all(_is_plain(option) for option in options if option not in (type(None), Ellipsis))
    return annotation in _PLAIN or (isinstance(annotation, type) and issubclass(annotation, enum.Enum))


def writable(annotation: Any) -> Any:
    """Returns the part of a type that words can say: of `float | Fn` the number."""
    if not _is_union(annotation):
        return annotation
    options = [option for option in typing.get_args(annotation) if _is_plain(option) or option is type(None)]
    return functools.reduce(operator.or_, options) if set(options) - {type(None)} else annotation


def _annotation_of(value: Any, annotation: Any) -> Any:
    """The declared type or, where a slot is not annotated, the type of what stands there."""
    if annotation not in _UNSAID and not isinstance(annotation, (str, typing.TypeVar)) and annotation is not tuple:
        return writable(annotation)
    if isinstance(value, tuple) and value and len({type(item) for item in value}) == 1:
        return tuple[type(value[0]), ...]
    return type(value)


def _hints(record: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(type(record))
    except (NameError, TypeError):  # an annotation under TYPE_CHECKING in a user's file: treated as unannotated
        return {}


def _is_node(value: Any) -> bool:
    """Whether a path can go through the value. Records of functions (a Model) are built in the config file: closed."""
    if isinstance(value, Fn):
        return True
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return not _is_record_of_functions(value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value)
    return isinstance(value, tuple) and any(_is_node(item) for item in value)


def _is_record_of_functions(value: Any) -> bool:
    """A Model and the like: a change of one of its fields would not remake the functions that were built from it."""
    return any(inspect.isroutine(getattr(value, field.name, None)) for field in dataclasses.fields(value))


def children(node: Any) -> dict[str, tuple[Any, Any]]:
    """{component: (value, annotation)} one step below a node of the tree; empty for anything that is not a node."""
    if not _is_node(node):
        return {}
    if isinstance(node, Pipeline):
        return {name: (step, type(step)) for name, step in node.steps.items()}
    if isinstance(node, Fn):
        known = hyperparameters(node.function)
        return {name: (value, known[name].annotation) for name, value in node.kwargs.items()}
    if isinstance(node, Mapping):
        return {name: (value, type(value)) for name, value in node.items()}
    if isinstance(node, tuple):
        return {str(index): (value, type(value)) for index, value in enumerate(node)}
    hints = _hints(node)
    return {
        field.name: (getattr(node, field.name), hints.get(field.name, inspect.Parameter.empty))
        for field in dataclasses.fields(node)
        if field.init
    }


def slots(node: Any, prefix: str = "") -> Iterator[Slot]:
    """Yields every value under `node` that an override can reach, in the order of the tree.

    Args:
        node: A config, or a part of it.
        prefix: The path of the part, with its last dot.
    """
    for name, (value, annotation) in children(node).items():
        path = f"{prefix}{name}"
        if _is_node(value):
            yield from slots(value, f"{path}.")
            continue
        annotation = _annotation_of(value, annotation)
        if _is_plain(annotation):
            yield Slot(path, annotation, value)


def _with_child(node: Any, name: str, value: Any) -> Any:
    """`node` with one child changed, its own checks run again."""
    if isinstance(node, Pipeline):
        return dataclasses.replace(node, steps=_with_child(node.steps, name, value))
    if isinstance(node, Fn):
        return node.replace(**{name: value})
    if isinstance(node, Mapping):
        kind = OrderedDict if isinstance(node, OrderedDict) else dict
        return kind((key, value if key == name else old) for key, old in node.items())
    if isinstance(node, tuple):
        index = int(name)
        return (*node[:index], value, *node[index + 1 :])
    return dataclasses.replace(node, **{name: value})


def parse(flag: str, words: Sequence[str], annotation: Any) -> Any:
    """Reads the words after a flag as the type that its slot asks for.

    Args:
        flag: the dotted path, for messages.
        words: what stands after the flag; none for a bool that is switched on.
        annotation: the type.

    Returns:
        The value.

    Raises:
        ConfigError: the words are not of that type; the message names the flag, what it got and what it must be.
    """
    # tyro reads the words. Before it: a str is taken verbatim, since it may look like a number or begin with a dash;
    # true and false in any case; a tuple as one word with commas; "none" in any case.
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if len(words) == 1 and (annotation is str or (str in options and type(None) not in options)):
        return words[0]
    if bool in options and (not words or (len(words) == 1 and words[0].lower() in ("true", "false"))):
        return not words or words[0].lower() == "true"
    if typing.get_origin(annotation) is tuple and len(words) == 1:
        words = [word.strip() for word in words[0].strip("()[] ").split(",") if word.strip()]
    if words and typing.get_origin(annotation) is not tuple and type(None) in options and words[0].lower() == "none":
        words = ["None", *words[1:]]
    try:
        # tyro describes its own dummy argument on stderr even when told to be quiet; the message below names the flag.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(
                tyro.conf.Positional[annotation],
                args=list(words),
                console_outputs=False,
                add_help=False,
            )
    except SystemExit:
        got = repr(" ".join(words)) if words else "no value"
        raise ConfigError(f"--{flag} got {got}; it must be {_in_words(annotation)}") from None


def _in_words(annotation: Any) -> str:
    names = {int: "an integer (int)", float: "a number (float)", bool: "true or false (bool)", str: "one word (str)"}
    if typing.get_origin(annotation) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(annotation)))}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return f"one of {', '.join(annotation.__members__)}"
    return names.get(annotation, type_name(annotation))


def _unknown(done: Sequence[str], node: Any, todo: Sequence[str]) -> ConfigError:
    """The error for a path that leaves the tree at `todo[0]`, naming the nearest path that exists."""
    parent, name, path, rest = ".".join(done), todo[0], ".".join([*done, *todo]), ".".join(todo)
    inside = children(node)
    if not inside:
        kind = type(node).__name__
        return ConfigError(f"--{path}: {parent} is a {kind} and has no parts to change; change it in the config file")
    below = [slot.path for slot in slots(node, f"{parent}." if parent else "")]
    meant = [other for other in below if other.endswith(f".{rest}")]  # the path is right, its beginning was left out
    options = [*inside, EVERY_STEP] if isinstance(node, Pipeline) else list(inside)
    if not meant:
        close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
        meant = [".".join([*done, *close, *todo[1:]])] if close else []
    if not meant and len(todo) == 1:
        ends = difflib.get_close_matches(name, {other.rsplit(".", 1)[-1] for other in below}, n=1, cutoff=0.6)
        meant = [other for other in below if other.rsplit(".", 1)[-1] in ends]
    names = " or ".join(f"--{other}" for other in meant[:4]) + (" or ..." if len(meant) > 4 else "")
    hint = f"Did you mean {names}?" if meant else f"Known: {', '.join(options)}."
    return ConfigError(f"--{path}: {parent or 'this config'} has no {name!r}. {hint}")


def _set(node: Any, done: Sequence[str], todo: Sequence[str], words: Sequence[str]) -> Any:
    """`node`, which stands at the path `done`, with the value at `todo` below it changed."""
    known, path = children(node), ".".join([*done, *todo])
    if todo[0] not in known:
        raise _unknown(done, node, todo)
    value, annotation = known[todo[0]]
    if len(todo) > 1:
        here = [*done, todo[0]]
        if not _is_node(value):
            raise _unknown(here, value, todo[1:])
        return _with_child(node, todo[0], _set(value, here, todo[1:], words))
    annotation = _annotation_of(value, annotation)
    if _is_node(value) or not _is_plain(annotation):
        inside = [f"--{slot.path}" for slot in slots(value, f"{path}.")]
        tail = f" Inside it: {', '.join(inside[:8])}." if inside else " Change it in the config file."
        raise ConfigError(f"--{path} is a {type(value).__name__}, not a value to write on a command line.{tail}")
    return _with_child(node, todo[0], parse(path, words, annotation))


def _everywhere(config: Pipeline, rest: Sequence[str], words: Sequence[str]) -> Pipeline:
    """The override in every step that has the path."""
    tail = ".".join(rest)
    having = [name for name, step in config.steps.items() if any(slot.path == tail for slot in slots(step))]
    if not having:
        tails = {slot.path for step in config.steps.values() for slot in slots(step)}
        raise ConfigError(f"--{EVERY_STEP}.{tail}: no step has {tail!r}.{nearest(tail, tails)}")
    if rest[-1] == SEED:
        seeds = {name: next(slot.value for slot in slots(config.steps[name]) if slot.path == tail) for name in having}
        if len(set(seeds.values())) > 1:  # two judges, or two players, would become one
            shown = ", ".join(f"{name} {seed}" for name, seed in seeds.items())
            raise ConfigError(
                f"--{EVERY_STEP}.{tail} would give one seed to steps that have their own ({shown}): "
                f"--{SEED} N draws all of them anew and keeps them apart"
            )
    for name in having:
        config = _set(config, (), [name, *rest], words)
    return config


def _reseeded(config: Pipeline, words: Sequence[str]) -> Pipeline:
    """Every step's seed moved by the same large number, so that steps that differ go on differing."""
    shift = SEEDS_APART * parse(SEED, words, int)
    for name, step in config.steps.items():
        for slot in slots(step):
            if slot.path == SEED and isinstance(slot.value, int):
                config = _set(config, (), [name, SEED], [str(slot.value + shift)])
    return config


def override(config: Any, path: str, words: Sequence[str]) -> Any:
    """Replaces the value at a dotted path of a config.

    Args:
        config: an experiment, a pipeline or a record inside one.
        path: where the value stands, for example "algorithm.losses.pair.tau"; of a pipeline it begins with the name of
            a step, or with "all", or is "seed".
        words: the new value, as words of a command line.

    Returns:
        The changed config; all checks of the records on the path have run again.

    Raises:
        ConfigError: the path does not exist (the message names the nearest), or the value is of the wrong type.
    """
    parts = path.replace("-", "_").split(".")
    if isinstance(config, Pipeline):
        for name in config.steps:  # a step may be called "offline-ipo"
            if path.split(".")[0] == name:
                parts[0] = name
        if parts[0] == EVERY_STEP and EVERY_STEP not in config.steps and len(parts) > 1:
            return _everywhere(config, parts[1:], words)
        if parts == [SEED] and SEED not in config.steps:
            return _reseeded(config, words)
    try:
        return _set(config, (), parts, words)
    except ConfigError as error:
        if str(error).startswith("--"):
            raise
        raise ConfigError(f"--{path} {' '.join(words)}: {error}") from None  # a record's own check, after the change


def as_words(value: Any) -> list[str]:
    """Writes a value as the words that `parse` would read it from."""
    if isinstance(value, (tuple, list)):
        return [word for item in value for word in as_words(item)]
    return [value.name if isinstance(value, enum.Enum) else str(value)]


def split(arguments: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Splits `["--a.b", "1", "--c=2"]` into `[("a.b", ["1"]), ("c", ["2"])]`: what stands after a flag, up to the next,
    is its value. A negative number begins with one dash and is a value."""
    pairs: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, value = argument[2:].partition("=")
            pairs.append((flag, [value] if equals else []))
        elif pairs:
            pairs[-1][1].append(argument)
        else:
            raise ConfigError(f"{argument!r} stands where an override should: write --path.to.value {argument}")
    return pairs


def apply(config: Any, arguments: Iterable[str], flags: Iterable[str] = ()) -> Any:
    """Applies a command line's overrides in order; the last one wins.

    Args:
        config: the config to change.
        arguments: the words of the command line: flags and their values.
        flags: what else the command line knows, so that "--resme" is told about --resume and not about the config.

    Returns:
        The changed config.

    Raises:
        ConfigError: an override does not fit, or was meant as one of the flags.
    """
    pairs = split(arguments)
    for number, (path, words) in enumerate(pairs):
        if path == SEED and any(later == SEED for later, _ in pairs[number + 1 :]):
            continue  # moves what is there, so it must not be done twice
        close = difflib.get_close_matches(path.replace("_", "-"), flags, n=1, cutoff=0.7)
        if close and path not in children(config):
            raise ConfigError(f"there is no flag --{path}. Did you mean --{close[0]}?")
        config = override(config, path, words)
    return config
