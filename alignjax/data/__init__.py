"""Data: datasets that prepare themselves, tokenizers, and sources of batches.

A dataset (`Docstrings()`, `Aeslc(path=...)`, `Preferences(path=...)`) says where rows come from; a source
(`prompts`, `instructions`, `preferences`, ...) makes batches of them.
"""

from alignjax.config import DataError as DataError
from alignjax.data.datasets.chat_files import (
    Instructions as Instructions,
    JointPreferences as JointPreferences,
    Judgements as Judgements,
    Preferences as Preferences,
    Prompts as Prompts,
    Rankings as Rankings,
    Thumbs as Thumbs,
)
from alignjax.data.datasets.docstrings import Docstrings as Docstrings
from alignjax.data.datasets.from_files import (
    Aeslc as Aeslc,
    AlpacaEval as AlpacaEval,
    Gsm8k as Gsm8k,
    HelpfulHarmless as HelpfulHarmless,
)
from alignjax.data.datasets.written_rows import written_rows as written_rows
from alignjax.data.prepared import Dataset as Dataset, prepare as prepare, tokenizer_of as tokenizer_of
from alignjax.data.sources.beside import beside as beside
from alignjax.data.sources.edited import judgements as judgements, revisions as revisions
from alignjax.data.sources.kinds import (
    candidates as candidates,
    instructions as instructions,
    joint_preferences as joint_preferences,
    preferences as preferences,
    prompts as prompts,
    rankings as rankings,
    thumbs as thumbs,
)
from alignjax.data.sources.recorded import BatchWriter as BatchWriter, recorded as recorded
from alignjax.data.sources.source import Source as Source
from alignjax.data.text.chat import render as render
from alignjax.data.text.tokenizers import (
    BOS as BOS,
    EOS as EOS,
    PAD as PAD,
    SEP as SEP,
    Tokenizer as Tokenizer,
    load_tokenizer as load_tokenizer,
    special_ids as special_ids,
    train_bpe as train_bpe,
)
