"""Functions are asked about the rows of `tests.support.asked` through the host of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignjax.asking import Calls, RowTexts, calls
from alignjax.config import Fn
from alignjax.train.text_host import TextHost
from alignjax.types import Batch
from tests.support.asked import TOKENIZER, Ask, batch, row


@pytest.fixture
def caller() -> Iterator[Calls]:
    with calls() as made:
        yield made


@pytest.fixture
def ask(caller: Calls) -> Ask:
    texts = RowTexts(TOKENIZER, ((), ()), [row(k) for k in range(3)], 7)  # type: ignore[arg-type]

    def asks(
        asked: Fn, step: int = 0, given: Batch | None = None, folder: Path | None = None, chat: bool = False
    ) -> Any:
        rows = RowTexts(TOKENIZER, ((), ()), [row(k, chat=True) for k in range(3)], 7) if chat else texts  # type: ignore[arg-type]
        return TextHost(rows, caller, folder, 9)("reward", asked, step, given or batch())

    return asks
