"""`WHERE --behavior NAME` of generate and serve: the options of a behavior as flags, and the models of its streams."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax import sampling
from alignjax.cli.catalogue import public
from alignjax.cli.number_words import number_of
from alignjax.cli.open_model import has_own_dtype, open_model
from alignjax.config import ConfigError, Fn, check_known, fn, hyperparameters, members, nearest
from alignjax.outside import user_path
from alignjax.ranges import plain
from alignjax.sampling import Stream
from alignjax.serving import OpenedModel
from alignjax.types import Model, Params

NO_SYSTEM = "no-system"  # in the place of a model: WHERE itself, on the prompts without --system
WRITTEN = {"lambda": "lam"}  # a word of Python's own


class Speakers(NamedTuple):
    """What is sampled: how streams combine, and the models that they read, "policy" being WHERE."""

    behaviour: Fn
    streams: tuple[Stream, ...]
    models: tuple[tuple[str, Model], ...]
    params: Mapping[str, Params]

    @property
    def without_system(self) -> bool:
        """Says whether a stream reads the prompts without their system message."""
        return any(stream.view for stream in self.streams)


def behavior_of(name: str | None, words: Sequence[str], flags: Sequence[str]) -> tuple[Fn, dict[str, str]]:
    """Makes the behavior of a command line.

    Args:
        name: What --behavior says; None: the policy alone.
        words: The words that are no flags of the command.
        flags: The flags of the command, for the message about one that does not exist.

    Returns:
        The behavior, and by stream which model is meant, "policy" (WHERE) left out.

    Raises:
        ConfigError: For a behavior or a flag that does not exist, one that is missing, or a value that it cannot have.
    """
    # An option whose hyper-parameter is a string, or a tuple of strings, names streams: its words are models, and the
    # streams are called by the option. All others are numbers.
    given = _grouped(words)
    if name is None:
        for flag in given:
            raise ConfigError(f"there is no flag --{flag}.{nearest(flag, flags)}")
        return fn(sampling.own), {}
    known = {
        each: function
        for each, function in public(sampling).items()
        if list(inspect.signature(function).parameters)[:2] == ["logits", "history"]
    }
    name = name.replace("-", "_")
    check_known(name, known, f"there is no behavior {name!r}")
    options = hyperparameters(known[name])
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    for flag, said in given.items():
        option = _option(flag, options)
        if option is None or option == "policy":
            raise ConfigError(
                f"--behavior {name} has no flag --{flag}.{nearest(flag, {*options, *flags} - {'policy'})}"
            )
        kinds = [plain(kind) for kind in members(options[option].annotation)]
        if str in kinds:
            values[option], where[option] = option, _one(flag, said)
        elif tuple[str, ...] in kinds:
            if not said:
                raise ConfigError(f"--{flag} takes one WHERE or more, and none was given")
            names = [f"{option}_{number}" for number in range(1, len(said) + 1)]
            values[option] = tuple(names if "policy" in options else ["policy", *names])
            where |= dict(zip(names, said, strict=True))
        else:
            values[option] = _value(flag, said, kinds)
    _check_given(name, values, options)
    return fn(known[name], **values), where


def _check_given(name: str, values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that is missing: one without a default, or a stream, whose default is a role of
    a run and no model."""
    for option, parameter in options.items():
        default = parameter.default
        stream = str in map(plain, members(parameter.annotation)) or tuple[str, ...] == plain(parameter.annotation)
        if option in (*values, "policy") or (
            default is not inspect.Parameter.empty and (default is None or not stream)
        ):
            continue
        flag = {each: word for word, each in WRITTEN.items()}.get(option, option.replace("_", "-"))
        raise ConfigError(f"--behavior {name} needs --{flag}{' WHERE' * stream}")


def _grouped(words: Sequence[str]) -> dict[str, list[str]]:
    """{flag: the words behind it}. Raises ConfigError for words in front of the first."""
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            if flag in found:
                raise ConfigError(f"--{flag} stands twice; give all that it takes behind one")
            found[flag] = [value] if equals else []
        elif not found:
            raise ConfigError(f"{word!r} belongs to no flag; one WHERE stands behind the command")
        else:
            found[next(reversed(found))].append(word)
    return found


def _option(flag: str, options: Mapping[str, Any]) -> str | None:
    """The hyper-parameter that a flag means, `references` also by --reference."""
    name = WRITTEN.get(flag, flag).replace("-", "_")
    return next((each for each in (name, f"{name}s") if each in options), None)


def _one(flag: str, words: list[str]) -> str:
    if len(words) != 1:
        raise ConfigError(f"--{flag} takes one word, and {len(words)} were given")
    return words[0]


def _value(flag: str, words: list[str], kinds: list[Any]) -> Any:
    """What the words of an option that is no stream say."""
    try:
        if bool in kinds:
            said = _one(flag, words or ["true"])
            if said not in ("true", "false"):
                raise ConfigError(f"--{flag} is {said!r}; it must be true or false")
            return said == "true"
        if any(getattr(kind, "__origin__", None) is tuple for kind in kinds):
            return tuple(number_of(word, float) for word in words)
        return number_of(_one(flag, words), int if int in kinds else float)
    except ConfigError:  # a ValueError that has the flag's name already
        raise
    except ValueError as error:
        raise ConfigError(f"--{flag}: {error}") from None


def opened_streams(
    behaviour: Fn, where: Mapping[str, str], opened: OpenedModel, *, dtype: str | None, system: str | None
) -> Speakers:
    """Opens the models that a behavior reads beside WHERE.

    Args:
        behaviour: How they combine.
        where: By stream a run folder, an import, published weights or a GGUF file, with `:ROLE` behind it for another
            role than the policy; or NO_SYSTEM.
        opened: WHERE.
        dtype: What published weights are computed in.
        system: What --system says.

    Raises:
        ConfigError: One cannot be opened, has other tokens than WHERE, or is without a system message where there is
            none.
    """
    models, params = {"policy": opened.model}, {"policy": opened.params}
    streams, roles = [Stream("policy", "policy")], {}
    for stream, place in where.items():
        if place == NO_SYSTEM:
            if system is None:
                raise ConfigError(
                    f"--{stream} {NO_SYSTEM}: give the system message that it goes without, --system TEXT"
                )
            streams.append(Stream(stream, "policy", view=NO_SYSTEM))
            continue
        if place not in roles:  # a model that is named twice is opened once
            other = _opened(place, opened, dtype)
            roles[place], models[stream], params[stream] = stream, other.model, other.params
        streams.append(Stream(stream, roles[place]))
    return Speakers(behaviour, tuple(streams), tuple(models.items()), params)


def _opened(place: str, opened: OpenedModel, dtype: str | None) -> OpenedModel:
    """A further model. Raises ConfigError if it reads other tokens, or shorter texts, than WHERE."""
    folder, colon, role = place.rpartition(":")
    if not colon or user_path(place).exists():
        folder, role = place, "policy"
    other = open_model(folder, role, None if has_own_dtype(folder) else dtype)
    if other.tokenizer.backend.get_vocab() != opened.tokenizer.backend.get_vocab():
        raise ConfigError(f"{place} has another vocabulary than {opened.name}; streams of logits need the same tokens")
    if None not in (other.max_length, opened.max_length) and other.max_length < opened.max_length:  # type: ignore[operator]
        raise ConfigError(
            f"{place} is meant for {other.max_length} tokens and {opened.name} for {opened.max_length}: name the "
            "shorter one as WHERE, or another"
        )
    return other
