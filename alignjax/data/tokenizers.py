"""Tokenizers: a byte-level BPE trained on the spot, or anybody's Hugging Face `tokenizer.json`.

Ids pad 0, bos 1, eos 2 and sep 3 are fixed in what we train; in a file that somebody else trained they are looked up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers, trainers

from alignjax.config import ConfigError

PAD, BOS, EOS, SEP = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<sep>")

# Spellings of the special tokens in published tokenizer files, most specific first.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "</s>", "<eos>"),
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "[BOS]", "<|im_start|>", "<|endoftext|>", "[CLS]"),
    "eos": ("<eos>", "</s>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "[EOS]", "[SEP]"),
    "sep": ("<sep>", "[SEP]", "<|sep|>", "<|im_end|>", "<|eot_id|>", "</s>", "<eos>", "<|endoftext|>"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer and the ids that have a meaning. `encode` never adds special tokens; `decode` leaves them out."""

    backend: hf.Tokenizer = dataclasses.field(repr=False)
    pad: int = PAD
    bos: int = BOS
    eos: int = EOS
    sep: int = SEP

    @cached_property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. A special token spelt out in the text becomes that token only in files whose vocabulary
        says so; in ours it stays text."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; the four special ids are dropped, wherever they stand."""
        special = {self.pad, self.bos, self.eos, self.sep}
        return self.backend.decode([int(i) for i in ids if int(i) not in special], skip_special_tokens=False)

    def decode_batch(self, rows: Iterable[Iterable[int]]) -> list[str]:
        return [self.decode(row) for row in rows]

    def save(self, path: Path | str) -> None:
        self.backend.save(str(path))


def train_bpe(texts: Iterable[str], vocab_size: int = 4096, min_frequency: int = 2) -> Tokenizer:
    """A byte-level BPE learned from `texts`: every UTF-8 text can be written, and decode(encode(text)) == text.

    vocab_size counts the four special tokens and the 256 bytes; a small corpus may end below it. Raises ConfigError
    where it is too small to hold these.
    """
    least = len(SPECIAL_TOKENS) + 256
    if vocab_size < least:
        raise ConfigError(f"vocab_size is {vocab_size}; a byte-level BPE needs at least {least} (256 bytes + 4 marks)")
    backend = hf.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # A post that happens to contain "<eos>" must not turn into an end token: special tokens are ids, never spellings.
    backend.encode_special_tokens = True
    return Tokenizer(backend)


def _look_up(backend: hf.Tokenizer, wanted: str, path: Path) -> int:
    for spelling in _SPELLINGS[wanted]:
        found = backend.token_to_id(spelling)
        if found is not None:
            return found
    raise ConfigError(
        f"{path} has no {wanted} token under any usual name ({', '.join(_SPELLINGS[wanted])}); "
        f"say which one it is: load_tokenizer(path, {wanted}='...')"
    )


def load_tokenizer(path: Path | str, **special: str) -> Tokenizer:
    """A `tokenizer.json` from disk (or the folder that holds one). Special ids are looked up by their usual spellings;
    name them to be sure: `load_tokenizer(path, eos="<|eot_id|>")`.

    Raises ConfigError for a missing or unreadable file, or a special token that cannot be found.
    """
    path = Path(path).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"there is no tokenizer at {path}; give the path of a tokenizer.json or of its folder")
    try:
        backend = hf.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
    ids = {}
    for wanted in _SPELLINGS:
        if wanted in special:
            found = backend.token_to_id(special[wanted])
            if found is None:
                raise ConfigError(f"{path} has no token {special[wanted]!r}, given as {wanted}")
            ids[wanted] = found
        else:
            ids[wanted] = _look_up(backend, wanted, path)
    if all(backend.id_to_token(i) == token for i, token in enumerate(SPECIAL_TOKENS)):
        backend.encode_special_tokens = True
    return Tokenizer(backend, **ids)
