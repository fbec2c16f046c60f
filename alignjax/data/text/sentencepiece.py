"""A reader of SentencePiece's `tokenizer.model`: a `tokenizers.Tokenizer` with its pieces, scores and whitespace rules.

Ids and text are those of the `sentencepiece` package, but for what `read_sentencepiece` names; what cannot be said
exactly is refused. Sources: Kudo and Richardson 2018 (SentencePiece), Kudo 2018 (unigram), Sennrich et al. 2016
(BPE).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers

from alignjax.config import ConfigError
from alignjax.data.text.special_tokens import NAMING, json_object
from alignjax.outside import user_path

SPACE = "▁"  # U+2581, what a space is in a piece

# Numbers of sentencepiece_model.proto: the types of a piece and the models.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2


def _parsed(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError  # noqa: PLC0415 (optional)
        from sentencepiece import sentencepiece_model_pb2 as proto  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(
            f"reading {path} (SentencePiece) needs sentencepiece: pip install 'alignjax[sentencepiece]'"
        ) from error
    model = proto.ModelProto()  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ConfigError(f"{path} is not a SentencePiece model ({error}); download it again") from error
    if not model.pieces:
        raise ConfigError(f"{path} is not a SentencePiece model: it has no pieces; download it again")
    return model


def _inexact(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path}: {what}; that cannot be said exactly in a tokenizer.json. Take the tokenizer.json that the model's "
        "authors publish, if there is one"
    )


def _pieces(model: Any, *types: int) -> list[str]:
    return [piece.piece for piece in model.pieces if piece.type in types]


def _check(path: Path, model: Any) -> None:
    """Raises ConfigError for a model that tokenizers would read differently."""
    trainer, rules = model.trainer_spec, model.normalizer_spec
    for wrong, what in (
        (trainer.model_type not in (UNIGRAM, BPE), "it is a word or char model, neither unigram nor BPE"),
        (trainer.treat_whitespace_as_suffix, "treat_whitespace_as_suffix is set"),
        (not rules.escape_whitespaces, "escape_whitespaces is off"),
        (bool(model.denormalizer_spec.precompiled_charsmap), "it rewrites decoded text (denormalizer_spec)"),
        (bool(_pieces(model, UNUSED)), "it has pieces of type UNUSED"),
        (len(_pieces(model, UNKNOWN)) != 1, "it has not exactly one unknown piece"),
        (len({piece.piece for piece in model.pieces}) < len(model.pieces), "a piece occurs twice"),
    ):
        if wrong:
            raise _inexact(path, what)
    # A character that is in pieces but none itself can be merged in sentencepiece, and is unknown in tokenizers.
    ordinary = _pieces(model, NORMAL)
    alone = {piece for piece in ordinary if len(piece) == 1}
    for piece in ordinary:
        if not alone.issuperset(piece):
            raise _inexact(path, f"piece {piece!r} has the character {min(set(piece) - alone)!r}, which is no piece")


def _any(pieces: Iterable[str]) -> str:
    """A regular expression for any of the pieces that prefers the longest."""
    return "|".join(re.escape(piece) for piece in sorted(pieces, key=len, reverse=True))


def _cut_bytes(path: Path, model: Any) -> list[pre_tokenizers.PreTokenizer]:
    """A cut inside texts that spell a byte piece out: "<0x41>" is six characters in sentencepiece, never one piece."""
    if not model.trainer_spec.byte_fallback:
        return []
    for piece in _pieces(model, NORMAL, USER):
        if "<0" in piece:
            raise _inexact(path, f"piece {piece!r} looks like the start of a byte piece")
    return [pre_tokenizers.Split(hf.Regex(r"<(?=0x[0-9A-F]{2}>)"), "merged_with_previous")]


def _unigram(path: Path, model: Any) -> tuple[models.Unigram, list[pre_tokenizers.PreTokenizer]]:
    """A unigram model; a user-defined piece has sentencepiece's own score, -0.1: above what any other piece has."""
    scores = [(piece.piece, -0.1 if piece.type == USER else piece.score) for piece in model.pieces]
    unknown = [piece.type for piece in model.pieces].index(UNKNOWN)
    return models.Unigram(scores, unknown, model.trainer_spec.byte_fallback), _cut_bytes(path, model)


def _merges(path: Path, model: Any) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the piece with the highest score first: sentencepiece keeps no merges, it
    joins the neighbors whose piece scores highest."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == NORMAL}
    merges: list[tuple[str, str]] = []
    before: tuple[float, str] | None = None
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in scores and piece[i:] in scores]
        if pairs and before and before[0] == scores[piece]:
            raise _inexact(path, f"pieces {before[1]!r} and {piece!r} have the same score, so no order of merging")
        if pairs:
            before = scores[piece], piece
        merges += pairs
    return merges


def _bpe(path: Path, model: Any) -> tuple[models.BPE, list[pre_tokenizers.PreTokenizer]]:
    """A BPE model; user-defined pieces are cut out first, and looked up whole (ignore_merges)."""
    user = _pieces(model, USER)
    rules: dict[str, Any] = {
        "vocab": {piece.piece: i for i, piece in enumerate(model.pieces)},
        "merges": _merges(path, model),
        "unk_token": _pieces(model, UNKNOWN)[0],
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
    }
    merging = models.BPE(**rules)
    if not user:
        return merging, []
    # What lies between them is looked up whole as well, which is right only if merging would end there.
    for piece in _pieces(model, NORMAL):
        if len(merging.tokenize(piece)) != 1:
            raise _inexact(path, f"it has user-defined pieces, and merging never makes its piece {piece!r}")
    split = pre_tokenizers.Split(hf.Regex(_any(user)), "isolated")
    return models.BPE(**rules, ignore_merges=True), [split, *_cut_bytes(path, model)]


def _normalizer(path: Path, model: Any) -> normalizers.Normalizer:
    """The map of characters and the rules of whitespace, in sentencepiece's order."""
    rules = model.normalizer_spec
    steps: list[normalizers.Normalizer] = []
    prefix = [normalizers.Prepend(SPACE)] if rules.add_dummy_prefix else []
    if rules.precompiled_charsmap:
        charsmap = normalizers.Precompiled(rules.precompiled_charsmap)
        for piece in _pieces(model, USER):
            if charsmap.normalize_str(piece) != piece:
                raise _inexact(path, f"its characters' map would change the user-defined piece {piece!r}")
        # It is applied to a grapheme at a time; this one is two characters in sentencepiece.
        steps += [normalizers.Replace(hf.Regex(r"\r(?=\n)"), charsmap.normalize_str("\r")), charsmap]
    if rules.remove_extra_whitespaces:
        steps.append(normalizers.Replace(hf.Regex(rf"\A +| +(?= )|[ {SPACE}]+\z"), ""))
    return normalizers.Sequence([*steps, *prefix, normalizers.Replace(" ", SPACE)])


def _decoder(model: Any) -> decoders.Decoder:
    """Pieces as text: control pieces vanish, bytes are joined, the dummy prefix goes."""
    trainer, rules = model.trainer_spec, model.normalizer_spec
    control, unknown = _pieces(model, CONTROL), _pieces(model, UNKNOWN)
    # Token by token up to Fuse, on the whole text after it.
    steps: list[decoders.Decoder] = [decoders.Replace(hf.Regex(rf"\A(?:{_any(unknown)})\z"), trainer.unk_surface)]
    if control:
        steps.append(decoders.Replace(hf.Regex(rf"\A(?:{_any(control)})\z"), ""))
    steps += [decoders.ByteFallback()] * trainer.byte_fallback + [decoders.Fuse()]
    if rules.add_dummy_prefix or rules.remove_extra_whitespaces:
        many = "+" if rules.remove_extra_whitespaces else ""
        steps.append(decoders.Replace(hf.Regex(rf"\A{SPACE}{many}"), ""))
    return decoders.Sequence([*steps, decoders.Replace(SPACE, " ")])


def read_sentencepiece(path: Path | str) -> tuple[hf.Tokenizer, dict[str, int]]:
    """Reads a SentencePiece model file (unigram or BPE). Needs the `sentencepiece` extra.

    It differs from the `sentencepiece` package in this: a control piece spelled out in a text ("</s>") becomes its
    id, as chat templates expect, and the text after it is normalized anew; a run of byte pieces that is not UTF-8
    decodes to one U+FFFD for each of its bytes; and sums of unigram scores are of 64 bits, not 32, so that
    segmentations that are as good to seven digits may change places. A map of characters (nmt_nfkc) is applied as
    in published tokenizer.json files, a grapheme at a time: several combining marks on one letter, a mark on a
    letter that the map changes, Korean in separate jamo and halfwidth katakana with voicing marks come out
    otherwise than in `sentencepiece`. Such models are read with a warning; text in NFKC form has none of this.

    Args:
        path: The file; of tokenizer_config.json beside it add_prefix_space is read, which counts more than the model's
            own dummy prefix. Tokens that other files add are not (`special_tokens.read_marks`).

    Returns:
        (a tokenizer with the same ids, the ids that the model names of pad, bos, eos and unk).

    Raises:
        ConfigError: The package is missing, the file is no model, or the model cannot be represented.
    """
    # A model is checked for what tokenizers would read differently, then put together from parts that stand for its
    # parts: pieces and scores, normalizer, what is cut out before, decoder, control pieces, added tokens.
    path = user_path(path)
    model = _parsed(path)
    prefix = json_object(path.parent / NAMING[0]).get("add_prefix_space")
    if isinstance(prefix, bool):
        model.normalizer_spec.add_dummy_prefix = prefix
    backend = backend_of_model(path, model)
    named = {name: getattr(model.trainer_spec, f"{name}_id") for name in ("pad", "bos", "eos", "unk")}
    return backend, {name: i for name, i in named.items() if 0 <= i < len(model.pieces)}


def backend_of_model(path: Path, model: Any) -> hf.Tokenizer:
    """Makes the tokenizer of a SentencePiece model.

    Args:
        path: Its file, for messages.
        model: What has the fields of a ModelProto that are read here.

    Returns:
        A tokenizer with the same ids.

    Raises:
        ConfigError: The model cannot be represented.
    """
    _check(path, model)
    kind = _unigram if model.trainer_spec.model_type == UNIGRAM else _bpe
    rules, splits = kind(path, model)
    backend = hf.Tokenizer(rules)
    backend.normalizer = _normalizer(path, model)
    if splits:
        backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.decoder = _decoder(model)
    if model.normalizer_spec.precompiled_charsmap:
        warnings.warn(
            f"{path} rewrites characters ({model.normalizer_spec.name or 'its own map'}): stacked combining marks, "
            "Korean in separate jamo and halfwidth voiced katakana get other ids than in sentencepiece; text in NFKC "
            "form does not",
            stacklevel=2,
        )
    marks = _pieces(model, CONTROL, UNKNOWN)
    backend.add_special_tokens([hf.AddedToken(mark, normalized=False, special=True) for mark in marks])
    return backend
