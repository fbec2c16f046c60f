"""Token ids of an experiment: they come from the tokenizer of its data, and every model has a row for each.

A hyper-parameter `stop` or `separator` of any stage or loss that is None becomes what the tokenizer says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import tokenizers as hf
from tokenizers import models

from alignjax.config import ConfigError, Experiment, Fn, functions_within
from alignjax.data.prepared import Dataset, digest_file, is_prepared, tokenizer_in, tokenizer_of
from alignjax.data.text.tokenizers import SPECIAL_TOKENS, Tokenizer, load_tokenizer, own_tokenizer
from alignjax.ranges import Natural
from alignjax.types import Algorithm
from alignjax.workspace import Workspace

STOP, SEPARATOR = "stop", "separator"  # the hyper-parameters
_UNTRAINED = own_tokenizer(hf.Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPECIAL_TOKENS)})))


class TokenIds(NamedTuple):
    """What the tokenizer of a data set says.

    Attributes:
        dataset: The name of the data set.
        size: The number of its tokens; None before it is trained.
        ends: The ids that end a completion, EOS first.
        separator: The id between two completions.
    """

    dataset: str
    size: int | None
    ends: tuple[int, ...]
    separator: int


def datasets_of(functions: Any) -> list[Dataset]:
    """Returns the datasets that a function (or those in a mapping) names, and those within it do, once each."""
    values = [value for function in functions_within(functions) for value in function.kwargs.values()]
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return list(dict.fromkeys(part for part in parts if isinstance(part, Dataset)))


def ends_of(source: Fn, workspace: Workspace | None) -> tuple[int, ...]:
    """Returns the ids that end a completion, by the tokenizer of a source's data; which is prepared if need be.

    Args:
        source: The source.
        workspace: The run that asks.

    Raises:
        ConfigError: The source names no dataset.
    """
    datasets = datasets_of(source)
    if not datasets:
        raise ConfigError(f"the source {source.name} names no dataset, so nothing says which tokens end a completion")
    return tokenizer_of(datasets[0], workspace).ends


def check_one_tokenizer(who: str, experiment: Experiment, stage: str, earlier: Experiment) -> None:
    """Checks that two steps read data of one tokenizer, of which one starts from what the other trained.

    Args:
        who: The role that starts so, for the message.
        experiment: The later step.
        stage: The name of the earlier one.
        earlier: The earlier one.

    Raises:
        ConfigError: Their tokenizers are not the same, so that token ids would mean other texts.
    """
    here, there = (datasets_of(step.source)[:1] for step in (experiment, earlier))
    if here and there and _tokenizer_key(here[0]) != _tokenizer_key(there[0]):
        raise ConfigError(
            f"{who} starts from step {stage!r}, whose data ({there[0].name}) has another tokenizer than this step's "
            f"({here[0].name}), so that token ids would mean other texts: share one, "
            "tokenizer=<the data set of the other step>"
        )


def _tokenizer_key(dataset: Dataset) -> Any:
    """What two datasets have in common if and only if their tokenizers are one: the file's contents and the tokens that
    are named, or the dataset that it is trained on."""
    owner = dataset.tokenizer_owner
    return (digest_file(owner.tokenizer), owner.named_tokens) if owner.tokenizer else owner


def with_token_ids(experiment: Experiment, workspace: Workspace | None, prepare: bool) -> Experiment:
    """Fills in the token ids that an experiment leaves to its data, and checks all that it has.

    Args:
        experiment: The experiment.
        workspace: The run that asks, which goes on using the prepared files that it used before.
        prepare: Prepares datasets; else a tokenizer that is not there yet is taken to be one that is trained here, and
            of a file that is missing nothing is known.

    Returns:
        The experiment, without None where a token id is meant.

    Raises:
        ConfigError: Data and models disagree, a token id is out of range, or nothing says which tokens end a
            completion.
    """
    datasets = datasets_of([experiment.source, experiment.sample])
    ids = _ids_of_all(datasets, workspace, prepare)
    algorithm, rows = experiment.algorithm, _rows(experiment.algorithm.roles)
    if ids is not None and ids.size is not None:
        for role, count in rows.items():
            if ids.size > count:
                raise ConfigError(
                    f"the tokenizer of {ids.dataset} has {ids.size:,} tokens and the model of role {role!r} a vocab of "
                    f"{count:,}, so that ids {count:,} to {ids.size - 1:,} have no row: raise vocab, or take the "
                    "tokenizer that the model was made for"
                )
    for name, stage in {**algorithm.experience, **algorithm.losses}.items():
        _check(name, stage, ids, rows)
    unread = ids is None and bool(datasets)  # nothing is sampled before a data set is read
    stop, separator = (() if unread else None, 0 if unread else None) if ids is None else ids[2:]
    changed = fill_token_ids(algorithm, stop=stop, separator=separator)
    for name, stage in changed.experience.items():
        if any(function.kwargs.get(STOP, ()) is None for function in functions_within(stage)):
            raise ConfigError(
                f"stage {name!r} samples with stop=None, and the source {experiment.source.name} names no dataset that "
                "says which tokens end a completion: give stop=(...) to the recipe or stage, () for none"
            )
    return dataclasses.replace(experiment, algorithm=changed)


def fill_token_ids(algorithm: Algorithm, *, stop: tuple[Natural, ...] | None, separator: Natural | None) -> Algorithm:
    """Returns an algorithm in whose stages and losses a hyper-parameter stop or separator that was None has a value.

    Args:
        algorithm: The algorithm.
        stop: The tokens that end a completion.
        separator: The token between two completions that are read together.
    """
    filled = {STOP: stop, SEPARATOR: separator}
    experience = {name: _filled(stage, filled) for name, stage in algorithm.experience.items()}
    losses = {name: _filled(loss, filled) for name, loss in algorithm.losses.items()}
    return dataclasses.replace(algorithm, experience=experience, losses=losses)


def _ids_of_all(datasets: list[Dataset], workspace: Workspace | None, prepare: bool) -> TokenIds | None:
    """The ids of the one tokenizer that all datasets have. Raises ConfigError if they have several."""
    first: tuple[TokenIds, Tokenizer] | None = None
    for dataset in datasets:
        tokenizer, whole = (tokenizer_of(dataset, workspace), True) if prepare else _expected(dataset)
        if tokenizer is None:
            continue
        ids = TokenIds(dataset.name, tokenizer.vocab_size if whole else None, tokenizer.ends, tokenizer.sep)
        first = first or (ids, tokenizer)
        if ids[2:] != first[0][2:] or (prepare and tokenizer.backend.to_str() != first[1].backend.to_str()):
            raise ConfigError(
                f"the experiment reads {first[0].dataset} and {ids.dataset}, whose tokenizers differ "
                f"({_said(first[0])}; {_said(ids)}): give one the other's, tokenizer=<the data set>"
            )
    return first[0] if first else None


def _expected(dataset: Dataset) -> tuple[Tokenizer | None, bool]:
    """The tokenizer that a dataset has or will have, without preparing it, and whether it is whole."""
    while isinstance(dataset.tokenizer, Dataset):
        dataset = dataset.tokenizer
    try:
        if is_prepared(dataset.folder):
            return tokenizer_in(dataset.folder), True
        if dataset.tokenizer:
            return load_tokenizer(dataset.tokenizer, **dataset.named_tokens), True
    except ConfigError:  # its files are not on this machine; the run itself will say so
        if dataset.tokenizer:
            return None, False
    return _UNTRAINED, False


def _said(ids: TokenIds) -> str:
    size = "one to be trained" if ids.size is None else f"{ids.size:,} tokens"
    return f"{size}, ends {', '.join(map(str, ids.ends))}, separator {ids.separator}"


def _rows(roles: Mapping[str, Any]) -> dict[str, int]:
    """The vocabulary of each role's model, of those that have one."""
    sizes = {name: getattr(getattr(role.model, "config", None), "vocab", None) for name, role in roles.items()}
    return {name: size for name, size in sizes.items() if isinstance(size, int)}


def _check(name: str, stage: Fn, ids: TokenIds | None, rows: Mapping[str, int]) -> None:
    """Raises ConfigError for token ids that a stage or loss names itself and that no model has, or that are not those
    of the data."""
    limits = {f"the model of role {role!r}": count for role, count in rows.items()}
    if ids is not None and ids.size is not None:
        limits[f"the tokenizer of {ids.dataset}"] = ids.size
    for function in functions_within(stage):
        for slot in (STOP, SEPARATOR):
            value = function.kwargs.get(slot)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            for number in numbers:
                whose, count = min(limits.items(), key=lambda pair: pair[1], default=("", number + 1))
                if not 0 <= number < count:
                    raise ConfigError(
                        f"{slot}={value!r} of {name!r} names token {number}, and {whose} has {count:,}, of ids 0 to "
                        f"{count - 1:,}"
                    )
        stop = function.kwargs.get(STOP)
        if stop and ids is not None and not set(stop) & set(ids.ends):
            raise ConfigError(
                f"stop={stop!r} of {name!r} has none of the tokens that end a text of {ids.dataset} "
                f"({', '.join(map(str, ids.ends))}): leave stop out, or add one"
            )


def _filled(value: Any, filled: Mapping[str, Any]) -> Any:
    """A function, and those within it, with the token ids that were left open."""
    if isinstance(value, Fn):
        kwargs = {name: _filled(inner, filled) for name, inner in value.kwargs.items()}
        kwargs |= {slot: number for slot, number in filled.items() if slot in kwargs and kwargs[slot] is None}
        changed = {name: inner for name, inner in kwargs.items() if inner is not value.kwargs[name]}
        return value.replace(**changed) if changed else value
    if isinstance(value, tuple) and any(isinstance(part, Fn) for part in value):
        return tuple(_filled(part, filled) for part in value)
    return value
