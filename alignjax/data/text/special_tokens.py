"""Special tokens as the files of a published tokenizer say them: tokens that are added, ids that have a meaning, and
whether a text begins with BOS.

Tokens are added to the tokenizer in the way `transformers` does it (its version 5), so that texts have the same ids.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tokenizers as hf

from alignjax.config import ConfigError, DataError
from alignjax.outside import Unreadable
from alignjax.workspace import DOWNLOAD_AGAIN, read_json

MARKS = ("eos", "bos", "pad", "sep")

# Files beside a tokenizer that say which of its tokens are special.
NAMING = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
ADDED = "added_tokens.json"  # tokens that came after a vocabulary was made

# The named special tokens, in the order in which `transformers` adds those that a tokenizer lacks.
_USUAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_UNNAMED = "additional_special_tokens["
_DECODER = "added_tokens_decoder"
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_CLEANS, _CLEANS_BPE = (
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
)


# One after another, as `transformers` does it: an apostrophe between spaces, then forms such as "do n't".
_FORMS = ("n't", "'m", "'s", "'ve", "'re")
_STRAY = (*((f" {mark}", mark) for mark in ".?!,"), (" ' ", "'"), *((f" {form}", form) for form in _FORMS))


@dataclasses.dataclass(frozen=True)
class FileMarks:
    """What the files beside a tokenizer say about its special tokens.

    Attributes:
        spelled: mark -> (its spelling, the file that gives it); None for a mark that a file says there is none of.
        numbered: mark -> the ids that generation_config.json gives it.
        special: The ids of all tokens that any file marks as special.
        adds_bos: The setting add_bos_token; None where there is no such setting.
        cleans_up: Whether decoded texts lose the spaces before punctuation.
    """

    spelled: Mapping[str, tuple[str, Path] | None]
    numbered: Mapping[str, tuple[int, ...]]
    special: tuple[int, ...]
    adds_bos: bool | None = None
    cleans_up: bool = False


def json_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; {} if there is no such file. Raises ConfigError for anything else."""
    content = read_json(path, DOWNLOAD_AGAIN)
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object; {DOWNLOAD_AGAIN}")
    return content or {}


def read_marks(folder: Path, backend: hf.Tokenizer, later: bool) -> FileMarks:
    """Reads the files beside a tokenizer, and adds the tokens to it that they list or name.

    One of MARKS that the tokenizer does not have is not added: a completion would end with a token that no model has
    learned, so whoever loads it has to name another.

    Args:
        folder: The folder of the tokenizer.
        backend: The tokenizer, which is changed.
        later: Whether the tokens of added_tokens.json come after those of a SentencePiece model.

    Returns:
        What the files say.

    Raises:
        ConfigError: A file is not JSON, holds values of another type, or lists tokens of another tokenizer; it is
            named.
    """
    # First the tokens of lists with ids, then all that are named, in transformers' order; a token that is added before
    # has the lower id.
    settings, spellings = (json_object(folder / name) for name in NAMING[:2])
    values, sources = _merged(folder, settings, spellings)
    if values.get("split_special_tokens"):
        raise ConfigError(
            f"{sources['split_special_tokens']}: split_special_tokens is {values['split_special_tokens']!r}, which "
            "would cut special tokens into pieces of text; set it to false"
        )
    special, listed = {*special_ids_of(backend)}, _DECODER in settings
    named = sorted(_named(values, sources).items(), key=lambda each: _place(each[0]))
    tokens = {key: None if value is None else _token(path, key, value, _always(key)) for key, (path, value) in named}
    _add_listed(folder, backend, settings, later, {token.content for token in tokens.values() if token is not None})
    added = {token.content for token in backend.get_added_tokens_decoder().values()}  # whose flags stay as they are
    spelled: dict[str, tuple[str, Path] | None] = {}
    for key, (path, _) in named:
        token, mark = tokens[key], key.removesuffix("_token")
        present = token is not None and backend.token_to_id(token.content) is not None
        # Where tokenizer_config.json lists what was added, transformers takes no token from another file.
        passed = listed and path.name != NAMING[0]
        if token is not None and token.content not in added and not passed and (present or mark not in MARKS):
            backend.add_tokens([token])
            added.add(token.content)
        number = None if token is None else backend.token_to_id(token.content)
        if number is not None and not key.startswith(_UNNAMED):
            special.add(number)
        if mark in MARKS:
            spelled[mark] = None if token is None else (token.content, path)
    adds_bos, cleans_up, cleans_bpe = (_flag(sources, values, key) for key in ("add_bos_token", _CLEANS, _CLEANS_BPE))
    every = tuple(sorted(special.union(special_ids_of(backend))))  # what was special once stays it
    pieces = type(backend.model).__name__ != "BPE"  # whose texts have their spaces in their tokens
    cleaned = bool(cleans_up and (pieces or cleans_bpe))
    return FileMarks(spelled, _numbered(folder / NAMING[2], backend), every, adds_bos, cleaned)


def _merged(
    folder: Path, settings: Mapping[str, Any], spellings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """What the two files say together, and the file of every key.

    As in `transformers`, special_tokens_map.json counts before tokenizer_config.json, and its list adds to the one
    there; unless that file lists the tokens that were added: then only marks that it leaves out are looked up.
    """
    config, other = (folder / name for name in NAMING[:2])
    if _DECODER in settings:
        marks = [f"{mark}_token" for mark in MARKS]
        later = {key: value for key, value in spellings.items() if key in marks and key not in settings}
        return {**settings, **later}, {**dict.fromkeys(settings, config), **dict.fromkeys(later, other)}
    later = {key: _all_special(value) if key in _LISTS else value for key, value in spellings.items()}
    sources = {**dict.fromkeys(settings, config), **dict.fromkeys(later, other)}
    (first, key), (second, newer) = _further(settings, dict.fromkeys(settings, config)), _further(later, sources)
    if first and second and type(first) is not type(second):
        raise ConfigError(
            f"{key} is {first!r} in {config} and {newer} {second!r} in {other.name} beside it; let one file say them"
        )
    if first and second and isinstance(first, list):
        # its older name counts there only where the first file has no list
        later[_LISTS[0]] = [*first, *(token for token in second if token not in first and newer == _LISTS[0])]
    elif first and second:
        later[_LISTS[0]] = {**first, **second}
    return {**settings, **later}, {**sources, **dict.fromkeys(later, other)}


def _all_special(tokens: Any) -> Any:
    if not isinstance(tokens, list):
        return tokens
    return [{**token, "special": True} if isinstance(token, dict) else token for token in tokens]


def _further(values: Mapping[str, Any], sources: Mapping[str, Path]) -> tuple[Any, str]:
    """The further special tokens that a file lists, or names, and the key; the older key counts where the newer says
    nothing."""
    for key in _LISTS:
        if not isinstance(values.get(key) or [], list | dict):
            raise ConfigError(f"{sources[key]}: {key} is {values[key]!r}; it must be a list of tokens")
    key = next((key for key in _LISTS if values.get(key)), _LISTS[0])
    return values.get(key) or [], key


def _flag(sources: Mapping[str, Path], values: Mapping[str, Any], key: str) -> bool | None:
    """A setting that is true, false or null. Raises ConfigError for another value."""
    if not isinstance(value := values.get(key), bool | None):
        raise ConfigError(f"{sources[key]}: {key} is {value!r}; it must be true or false")
    return value


def without_stray_spaces(text: str) -> str:
    """Returns a decoded text as clean_up_tokenization_spaces asks for it: without the spaces that tokens of words and
    marks leave before punctuation and short forms.

    Args:
        text: The text.
    """
    for stray, tidy in _STRAY:
        text = text.replace(stray, tidy)
    return text


def special_ids_of(backend: hf.Tokenizer) -> tuple[int, ...]:
    """Returns the ids of the tokens that a tokenizer marks as special."""
    return tuple(i for i, token in backend.get_added_tokens_decoder().items() if token.special)


def _named(values: Mapping[str, Any], sources: Mapping[str, Path]) -> dict[str, tuple[Path, Any]]:
    """The special tokens by key, each with its file: KEY_token, and those of the list or mapping of further ones."""
    tokens = {
        key: (sources[key], value)
        for key, value in values.items()
        if key in _USUAL or (key.endswith("_token") and isinstance(value, str | dict))
    }
    more, key = _further(values, sources)
    each = more if isinstance(more, dict) else {f"{_UNNAMED}{i}]": token for i, token in enumerate(more)}
    return tokens | {name: (sources[key], token) for name, token in each.items()}


def _always(key: str) -> bool:
    """Whether a token is special whatever its flags say; of those in lists they say it."""
    return not key.startswith(_UNNAMED)


def _place(key: str) -> int:
    """Where a token stands in the order in which `transformers` adds them: by their usual names, then those with other
    names, then those of lists."""
    return _USUAL.index(key) if key in _USUAL else len(_USUAL) + key.startswith(_UNNAMED)


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


def _add_listed(
    folder: Path, backend: hf.Tokenizer, settings: Mapping[str, Any], later: bool, named: Collection[str]
) -> None:
    """Adds the tokens of added_tokens_decoder and, where they count, of added_tokens.json; `named` are those that files
    name as special."""
    config, known = folder / NAMING[0], backend.get_added_tokens_decoder()
    decoder = settings.get(_DECODER) or {}
    try:
        listed = {int(i): _token(config, f"{_DECODER}[{i}]", value) for i, value in decoder.items()}
        counted = json_object(folder / ADDED) if later or _DECODER not in settings else {}
        both = {
            int(i): hf.AddedToken(token, normalized=not (later or token in named), special=later or token in named)
            for token, i in counted.items()
            if later or int(i) not in known or known[int(i)].content != token
        }
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
        value = None if value == -1 and mark != "eos" else value  # how some published files write that there is none
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
    """Returns the ids that a tokenizer's own post-processor writes before every text.

    Raises:
        Unreadable: It writes a token that the tokenizer does not have.
    """
    before = _before(json.loads(backend.post_processor.__getstate__())) if backend.post_processor else ()
    for number in before:
        if backend.id_to_token(number) is None:
            raise Unreadable(f"its post_processor writes the id {number}, which the tokenizer does not have")
    return before


def _before(processor: Mapping[str, Any]) -> tuple[int, ...]:
    match processor:
        case {"type": "Sequence", "processors": list(parts)}:  # the last one's stand in front
            return tuple(number for part in reversed(parts) for number in _before(part))
        case {"type": "TemplateProcessing", "single": list(pieces), "special_tokens": dict(tokens)}:
            names = [piece.get("SpecialToken", {}).get("id") for piece in pieces]
            first = next((i for i, name in enumerate(names) if name is None), 0)
            if missing := [name for name in names[:first] if name not in tokens]:
                raise Unreadable(f"its post_processor writes {missing[0]!r}, which its special_tokens do not have")
            return tuple(number for name in names[:first] for number in tokens[name]["ids"])
        case {"type": "BertProcessing" | "RobertaProcessing", "cls": [_, int(number)]}:
            return (number,)
    return ()
