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
import typing
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tyro

from alignjax.cli.number_words import plain_numbers
from alignjax.config import ConfigError, Fn, Pipeline, hyperparameters, members, nearest, type_hints, type_name
from alignjax.ranges import plain

EVERY_STEP = "all"
SEED = "seed"
SEEDS_APART = 1000  # `--seed N` adds N times this to the seeds of a pipeline's steps, which differ by less
_PLAIN = (bool, int, float, str, pathlib.Path)
_IN_WORDS = {int: "an integer (int)", float: "a number (float)", bool: "true or false (bool)", str: "one word (str)"}
_UNSAID = (inspect.Parameter.empty, Any, object, tuple)


@dataclasses.dataclass(frozen=True)
class Slot:
    """One value of a config that the command line can change: its dotted path, the type asked for, the value now."""

    path: str
    annotation: Any
    value: Any


def _is_plain(annotation: Any) -> bool:
    """Whether words of a command line can be turned into this type."""
    options = members(annotation)
    if typing.get_origin(annotation) is tuple:
        options = typing.get_args(annotation)
    elif len(options) == 1:
        is_enum = isinstance(annotation, type) and issubclass(annotation, enum.Enum)
        return annotation in _PLAIN or is_enum or typing.get_origin(annotation) is typing.Literal
    return all(_is_plain(option) for option in options if option not in (type(None), Ellipsis))


def writable(annotation: Any) -> Any:
    """Returns the part of a type that words can say: of `float | Fn` the number."""
    options = [option for option in members(annotation) if _is_plain(option) or option is type(None)]
    return functools.reduce(operator.or_, options) if set(options) - {type(None)} else annotation


def _annotation_of(value: Any, annotation: Any) -> Any:
    """The declared type or, where a slot is not annotated, the type of what stands there."""
    if annotation not in _UNSAID and not isinstance(annotation, (str, typing.TypeVar)):
        return writable(annotation)
    if isinstance(value, tuple) and value and len({type(item) for item in value}) == 1:
        return tuple[type(value[0]), ...]
    return type(value)


def children(node: Any) -> dict[str, tuple[Any, Any]]:
    """Returns {component: (value, annotation)} one step below a node of the tree; empty where no path goes on.

    No path goes into records of functions (a Model): a change of one of their fields would not remake the functions
    that were built from it.
    """
    if isinstance(node, Pipeline):
        return children(node.steps)
    if isinstance(node, Fn):
        known = hyperparameters(node.function)
        return {name: (value, plain(known[name].annotation)) for name, value in node.kwargs.items()}
    if isinstance(node, Mapping) and all(isinstance(key, str) for key in node):
        return {name: (value, Any) for name, value in node.items()}
    if isinstance(node, tuple) and any(map(_is_node, node)):
        return {str(index): (value, Any) for index, value in enumerate(node)}
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return {}
    hints = type_hints(type(node))
    values = {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.init}
    if any(map(inspect.isroutine, values.values())):
        return {}
    return {name: (value, plain(hints.get(name, Any))) for name, value in values.items()}


def _is_node(value: Any) -> bool:
    return isinstance(value, Fn) or bool(children(value))


def slots(node: Any, prefix: str = "") -> Iterator[Slot]:
    """Yields every value under `node` that an override can reach, in the order of the tree.

    Args:
        node: A config, or a part of it.
        prefix: The path of the part, with its last dot.
    """
    for name, (value, annotation) in children(node).items():
        annotation = _annotation_of(value, annotation)
        if _is_node(value):
            yield from slots(value, f"{prefix}{name}.")
        elif _is_plain(annotation):
            yield Slot(f"{prefix}{name}", annotation, value)


def _with_value(node: Any, path: Sequence[str], value: Any) -> Any:
    """`node` with the value at a path below it changed; the checks of every record on the path run again."""
    if not path:
        return value
    name, *rest = path
    value = _with_value(children(node)[name][0], rest, value)
    if isinstance(node, Pipeline):
        return dataclasses.replace(node, steps={**node.steps, name: value})
    if isinstance(node, Fn):
        return node.replace(**{name: value})
    if isinstance(node, Mapping):
        return OrderedDict(node, **{name: value}) if isinstance(node, OrderedDict) else {**node, name: value}
    if isinstance(node, tuple):
        return tuple(value if str(index) == name else old for index, old in enumerate(node))
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
    options, got = members(annotation), repr(" ".join(words)) if words else "no value"
    if len(words) == 1 and str in options and type(None) not in options:
        return words[0]
    if bool in options and (not words or (len(words) == 1 and words[0].lower() in ("true", "false"))):
        return not words or words[0].lower() == "true"
    if len(words) == 1 and words[0].lower() != "none" and any(typing.get_origin(option) is tuple for option in options):
        words = [word.strip() for word in words[0].strip("()[] ").split(",") if word.strip()]
    if words and type(None) in options and words[0].lower() == "none":
        words = ["None", *words[1:]]
    try:
        # tyro describes its own dummy argument on stderr even when told to be quiet; the message below names the flag.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(
                tyro.conf.Positional[annotation],
                args=list(words),
                console_outputs=False,
                add_help=False,
                registry=plain_numbers,
            )
    except SystemExit:
        raise ConfigError(
            f"--{flag} got {got}; it must be {_IN_WORDS.get(annotation, type_name(annotation))}"
        ) from None


def _no_slot(config: Any, path: Sequence[str]) -> ConfigError:
    """The error for a path that leads to no value: what stands where it ends, or the nearest path that exists."""
    # First the path is followed as far as the tree goes. What is meant is looked for there: a path whose beginning was
    # left out, then a like name in the place of the wrong one, then a like name at the end of any longer path.
    node, depth = config, 0
    while depth < len(path) and path[depth] in children(node):
        node, depth = children(node)[path[depth]][0], depth + 1
    parent, rest, kind, inside = ".".join(path[:depth]), path[depth:], type(node).__name__, children(node)
    below = [slot.path for slot in slots(node, f"{parent}." if parent else "")]
    flag = f"--{'.'.join(path)}"
    if not rest:
        tail = f" Inside it: --{', --'.join(below[:8])}." if below else " Change it in the config file."
        return ConfigError(f"{flag} is a {kind}, not a value to write on a command line.{tail}")
    if not inside:
        return ConfigError(f"{flag}: {parent} is a {kind} and has no parts to change; change it in the config file")
    options = [*inside, EVERY_STEP] if isinstance(node, Pipeline) else list(inside)
    meant = [other for other in below if other.endswith(f".{'.'.join(rest)}")]
    if not meant:
        close = difflib.get_close_matches(rest[0], options, n=1, cutoff=0.5)
        meant = [".".join([*path[:depth], *close, *rest[1:]])] if close else []
    if not meant and len(rest) == 1:
        ends = difflib.get_close_matches(rest[0], {other.rsplit(".", 1)[-1] for other in below}, n=1, cutoff=0.6)
        meant = [other for other in below if other.rsplit(".", 1)[-1] in ends]
    names = " or ".join(f"--{other}" for other in meant[:4]) + (" or ..." if len(meant) > 4 else "")
    hint = f"Did you mean {names}?" if meant else f"Known: {', '.join(options)}."
    return ConfigError(f"{flag}: {parent or f'this {kind}'} has no {rest[0]!r}. {hint}")


def _everywhere(config: Pipeline, tail: str, words: Sequence[str]) -> Pipeline:
    """The override in every step that has the path."""
    steps = {name: {slot.path: slot.value for slot in slots(step)} for name, step in config.steps.items()}
    values = {name: paths[tail] for name, paths in steps.items() if tail in paths}
    if not values:
        raise ConfigError(f"--{EVERY_STEP}.{tail}: no step has {tail!r}.{nearest(tail, set().union(*steps.values()))}")
    if tail.rsplit(".", 1)[-1] == SEED and len(set(values.values())) > 1:  # two judges, or two players, would be one
        shown = ", ".join(f"{name} {seed}" for name, seed in values.items())
        raise ConfigError(
            f"--{EVERY_STEP}.{tail} would give one seed to steps that have their own ({shown}): "
            f"--{SEED} N draws all of them anew and keeps them apart"
        )
    for name in values:
        config = override(config, f"{name}.{tail}", words)
    return config


def _reseeded(config: Pipeline, words: Sequence[str]) -> Pipeline:
    """Every step's seed moved by the same large number, so that steps that differ go on differing."""
    shift = SEEDS_APART * parse(SEED, words, int)
    for name, step in config.steps.items():
        seed = children(step).get(SEED, (None, None))[0]
        if isinstance(seed, int):
            config = _with_value(config, (name, SEED), seed + shift)
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
        if path.split(".")[0] in config.steps:  # a step may be called "offline-ipo"
            parts[0] = path.split(".")[0]
        elif parts[0] == EVERY_STEP and len(parts) > 1:
            return _everywhere(config, ".".join(parts[1:]), words)
        elif parts == [SEED]:
            return _reseeded(config, words)
    slot = next((slot for slot in slots(config) if slot.path == ".".join(parts)), None)
    if slot is None:
        raise _no_slot(config, parts)
    value = parse(path, words, slot.annotation)
    try:
        return _with_value(config, parts, value)
    except ConfigError as error:  # a record's own check
        raise ConfigError(f"--{path} {' '.join(words)}: {error}") from None


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
