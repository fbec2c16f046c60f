"""Special tokens as the files of a published tokenizer say them: tokens that are added, ids that have a meaning, and
whether a text begins with BOS.

Tokens are added to the tokenizer in the way `transformers` does it (its version 5), so that texts have the same ids.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers as hf

from alignjax.config import ConfigError, DataError
from alignjax.workspace import DOWNLOAD_AGAIN, read_json

MARKS = ("eos", "bos", "pad", "sep")

# Files beside a tokenizer that say which of its tokens are special; of two that name one the first counts.
NAMING = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
ADDED = "added_tokens.json"  # beside a SentencePiece model: tokens that came after it was trained

_USUAL = tuple(f"{mark}_token" for mark in (*MARKS, "unk", "cls", "mask"))
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_UNNAMED = "additional_special_tokens["
_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclasses.dataclass(frozen=True)
class FileMarks:
    """What the files beside a tokenizer say about its special tokens.

    Attributes:
        spelled: mark -> (its spelling, the file that gives it); None for a mark that a file says there is none of.
        numbered: mark -> the ids that generation_config.json gives it.
        special: The ids of all tokens that any file marks as special.
        adds_bos: The setting add_bos_token; None where there is no such setting.
    """

    spelled: Mapping[str, tuple[str, Path] | None]
    numbered: Mapping[str, tuple[int, ...]]
    special: tuple[int, ...]
    adds_bos: bool | None = None


def json_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; {} if there is no such file. Raises ConfigError for anything else."""
    content = read_json(path, DOWNLOAD_AGAIN)
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object; {DOWNLOAD_AGAIN}")
    return content or {}


def read_marks(folder: Path, backend: hf.Tokenizer, later: bool) -> FileMarks:
    """Reads the files beside a tokenizer, and adds the tokens to it that they list or name.

    A special token that the tokenizer does not have is not added, since the model has no row for it.

    Args:
        folder: The folder of the tokenizer.
        backend: The tokenizer, which is changed.
        later: Whether tokens of added_tokens.json count, as they do beside a SentencePiece model.

    Returns:
        What the files say.

    Raises:
        ConfigError: A file is not JSON, holds values of another type, or lists tokens of another tokenizer; it is
            named.
    """
    settings, spellings = (json_object(folder / name) for name in NAMING[:2])
    if settings.get("split_special_tokens"):
        raise ConfigError(
            f"{folder / NAMING[0]}: split_special_tokens is {settings['split_special_tokens']!r}, which would cut "
            "special tokens into pieces of text; set it to false"
        )
    special = {*special_ids_of(backend)}
    _add_listed(folder, backend, settings, later)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}  # whose flags stay as they are
    spelled: dict[str, tuple[str, Path] | None] = {}
    for name, values in zip(NAMING, (settings, spellings), strict=False):
        for key, value in _named(folder / name, values).items():
            token = None if value is None else _token(folder / name, key, value, special=True)
            number = None if token is None else backend.token_to_id(token.content)
            if token is not None and number is not None and token.content not in added:
                backend.add_special_tokens([token])
            if number is not None and not key.startswith(_UNNAMED):
                special.add(number)
            if (mark := key.removesuffix("_token")) in MARKS and mark not in spelled:
                spelled[mark] = None if token is None else (token.content, folder / name)
    adds_bos = settings.get("add_bos_token")
    if not isinstance(adds_bos, bool | None):
        raise ConfigError(f"{folder / NAMING[0]}: add_bos_token is {adds_bos!r}; it must be true or false")
    every = tuple(sorted(special.union(special_ids_of(backend))))  # what was special once stays it
    return FileMarks(spelled, _numbered(folder / NAMING[2], backend), every, adds_bos)


def special_ids_of(backend: hf.Tokenizer) -> tuple[int, ...]:
    """Returns the ids of the tokens that a tokenizer marks as special."""
    return tuple(i for i, token in backend.get_added_tokens_decoder().items() if token.special)


def _named(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens of a file by key: KEY_token, and those of its lists or mappings of further ones."""
    tokens: dict[str, Any] = {
        key: value
        for key, value in values.items()
        if key in _USUAL or (key.endswith("_token") and isinstance(value, str | dict))
    }
    for key in _LISTS:
        more = values.get(key) or ()
        if not isinstance(more, list | tuple | dict):
            raise ConfigError(f"{path}: {key} is {more!r}; it must be a list of tokens")
        tokens |= more if isinstance(more, dict) else {f"{_UNNAMED}{i}]": token for i, token in enumerate(more)}
    return tokens


def _token(path: Path, key: str, value: Any, special: bool = False) -> hf.AddedToken:
    """A token as a file writes it: its text, or an object with its content and flags."""
    if isinstance(value, str) and value:
        return hf.AddedToken(value, special=True, normalized=False)
    flags = value if isinstance(value, dict) else {}
    flags = {name: flag for name, flag in flags.items() if name not in ("__type", "id")}
    content = flags.pop("content", None)
    wrong = [name for name, flag in flags.items() if name not in _FLAGS or not isinstance(flag, bool)]
    if not isinstance(content, str) or not content or wrong:
        raise ConfigError(
            f"{path}: {key} is {value!r}; it must be the text of a token, or an object with its content and the flags "
            f"{', '.join(_FLAGS)}"
        )
    return hf.AddedToken(content, **({"normalized": False, **flags, "special": True} if special else flags))


def _add_listed(folder: Path, backend: hf.Tokenizer, settings: Mapping[str, Any], later: bool) -> None:
    """Adds the tokens of added_tokens_decoder and, where they count, of added_tokens.json."""
    config = folder / NAMING[0]
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        listed = {int(i): _token(config, f"added_tokens_decoder[{i}]", value) for i, value in decoder.items()}
        counted = json_object(folder / ADDED) if later else {}
        both = {int(i): hf.AddedToken(token, normalized=False, special=True) for token, i in counted.items()}
    except (ConfigError, DataError):
        raise  # worded already
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"the tokens added to {folder} cannot be read ({error}); download it again") from error
    if later:  # a SentencePiece model reads the text between these tokens, not they the text that it rewrites
        listed = {i: _as_written(token) for i, token in listed.items()}
    for i, token in sorted((both | listed).items()):
        present = backend.token_to_id(token.content)
        if present != i and not (present is None and i == backend.get_vocab_size()):
            raise ConfigError(
                f"{folder}: token {token.content!r} is to have id {i}, but it has {present} of "
                f"{backend.get_vocab_size()}; its files belong to different tokenizers"
            )
        if repr(token) != repr(backend.get_added_tokens_decoder().get(i)):
            backend.add_tokens([token])


def _as_written(token: hf.AddedToken) -> hf.AddedToken:
    """The token, looked for in texts as they are, not in what a normalizer makes of them."""
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "special")}
    return hf.AddedToken(token.content, normalized=False, **flags)


def _numbered(path: Path, backend: hf.Tokenizer) -> dict[str, tuple[int, ...]]:
    """The ids in a generation_config.json by mark. Raises ConfigError for what is no id of the tokenizer."""
    values, size = json_object(path), backend.get_vocab_size()
    ids: dict[str, tuple[int, ...]] = {}
    for mark in MARKS:
        value = values.get(key := f"{mark}_token_id")
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < size:
                raise ConfigError(
                    f"{path}: {key} is {value!r}, and the tokenizer has {size:,} tokens, of ids 0 to {size - 1:,}; "
                    "correct it, or take the file of this tokenizer"
                )
        if numbers:
            ids[mark] = tuple(dict.fromkeys(numbers))
    return ids


def written_before(backend: hf.Tokenizer) -> tuple[int, ...]:
    """Returns the ids that a tokenizer's own post-processor writes before every text."""
    return _before(json.loads(backend.post_processor.__getstate__())) if backend.post_processor else ()


def _before(processor: Mapping[str, Any]) -> tuple[int, ...]:
    match processor:
        case {"type": "Sequence", "processors": list(parts)}:  # the last one's stand in front
            return tuple(number for part in reversed(parts) for number in _before(part))
        case {"type": "TemplateProcessing", "single": list(pieces), "special_tokens": dict(tokens)}:
            names = [piece.get("SpecialToken", {}).get("id") for piece in pieces]
            first = next((i for i, name in enumerate(names) if name is None), 0)
            return tuple(number for name in names[:first] for number in tokens[name]["ids"])
        case {"type": "BertProcessing" | "RobertaProcessing", "cls": [_, int(number)]}:
            return (number,)
    return ()
