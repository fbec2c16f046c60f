"""Data: datasets that prepare themselves, tokenizers, and sources of batches."""

from alignjax.data.docstrings import Docstrings
from alignjax.data.prepared import Dataset, prepare, tokenizer_of
from alignjax.data.sources import candidates, instructions, preferences, prompts, rankings, thumbs
from alignjax.data.stream import Source
from alignjax.data.tokenizers import BOS, EOS, PAD, SEP, Tokenizer, load_tokenizer, train_bpe

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SEP",
    "Dataset",
    "Docstrings",
    "Source",
    "Tokenizer",
    "candidates",
    "instructions",
    "load_tokenizer",
    "preferences",
    "prepare",
    "prompts",
    "rankings",
    "thumbs",
    "tokenizer_of",
    "train_bpe",
]
