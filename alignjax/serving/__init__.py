"""Serving: a model that was opened, the thread that samples from it, and OpenAI's API in front of that (`serving.app`,
which needs the extra "serve")."""

from alignjax.serving.asking import pieces_of as pieces_of
from alignjax.serving.jobs import (
    Done as Done,
    Job as Job,
    Piece as Piece,
    PromptScores as PromptScores,
    Wanted as Wanted,
)
from alignjax.serving.opened_model import OpenedModel as OpenedModel
from alignjax.serving.worker import Worker as Worker
