"""The TFDS builder of all our datasets: a prompt, its completions, what is known about them, and their tokens.

It writes the rows that it receives, in order, and downloads nothing. `tfds.builder_from_directory(folder)` reads the
result back without this class and without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

Row = dict[str, Any]


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes splits {name: rows} as array_record files; K completions may differ from row to row."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First version."}  # noqa: RUF012 (tfds reads it from the class)

    def __init__(self, *, rows: Mapping[str, Iterable[Row]] | None = None, **kwargs: Any) -> None:
        self._rows = rows or {}
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return self.dataset_info_from_configs(
            features=features.FeaturesDict(
                {
                    "prompt": features.Text(),
                    "completions": features.Sequence(features.Text()),  # K
                    "scores": features.Tensor(shape=(None,), dtype=np.float32),  # K, or none if not rated
                    "preference": np.float32,  # probability that completion 0 beats completion 1; NaN: not judged
                    "weight": np.float32,
                    "answer": np.float32,  # the number a verifier looks for; NaN: there is none
                    "example_id": np.int32,  # unique over all splits
                    "meta": features.Text(),  # JSON: where the row comes from
                    "prompt_tokens": features.Tensor(shape=(None,), dtype=np.int32),
                    "completion_tokens": features.Tensor(shape=(None,), dtype=np.int32),  # of all K, one after another
                    "completion_lengths": features.Tensor(shape=(None,), dtype=np.int32),  # K
                }
            ),
            # Rows stay in order, so that a row's number says the same thing on every machine.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Row]]]:
        return {split: self._generate_examples(rows) for split, rows in self._rows.items()}

    def _generate_examples(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        yield from enumerate(rows)
