"""Data: datasets that prepare themselves, tokenizers, and sources of batches.

A dataset (`Docstrings()`, `Aeslc(path=...)`, `Preferences(path=...)`) says where rows come from; a source
(`prompts`, `instructions`, `preferences`, ...) makes batches of them.
"""

from alignjax.data.datasets.docstrings import Docstrings
from alignjax.data.datasets.from_files import (
    Aeslc,
    AlpacaEval,
    Gsm8k,
    HelpfulHarmless,
    Instructions,
    JointPreferences,
    Judgements,
    Preferences,
    Prompts,
    Rankings,
    Thumbs,
)
from alignjax.data.datasets.parsing import DataError
from alignjax.data.prepared import Dataset, prepare, tokenizer_of
from alignjax.data.sources.edited import judgements, revisions
from alignjax.data.sources.joint import joint_preferences
from alignjax.data.sources.recorded import BatchWriter, recorded
from alignjax.data.sources.source import Source
from alignjax.data.sources.text_sources import candidates, instructions, preferences, prompts, rankings, thumbs
from alignjax.data.text.chat import render
from alignjax.data.text.tokenizers import BOS, EOS, PAD, SEP, Tokenizer, load_tokenizer, special_ids, train_bpe

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SEP",
    "Aeslc",
    "AlpacaEval",
    "BatchWriter",
    "DataError",
    "Dataset",
    "Docstrings",
    "Gsm8k",
    "HelpfulHarmless",
    "Instructions",
    "JointPreferences",
    "Judgements",
    "Preferences",
    "Prompts",
    "Rankings",
    "Source",
    "Thumbs",
    "Tokenizer",
    "candidates",
    "instructions",
    "joint_preferences",
    "judgements",
    "load_tokenizer",
    "preferences",
    "prepare",
    "prompts",
    "rankings",
    "recorded",
    "render",
    "revisions",
    "special_ids",
    "thumbs",
    "tokenizer_of",
    "train_bpe",
]
