"""Tables that pyarrow reads: parquet, and Arrow as a file or as a stream, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from alignjax.config import ConfigError
from alignjax.outside import Unreadable

MOST_ROWS = 4096  # of a block
Cut = tuple[int, bytes, float]  # the number of the first row, rows as an Arrow stream, the share that is read


def _pyarrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415 (optional)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("reading parquet and Arrow needs pyarrow: pip install 'alignjax[parquet]'") from error
    return pyarrow


def _cut_parquet(file: Any, columns: Collection[str] | None, size: int) -> Iterator[Cut]:
    """The rows of a parquet file; of a row group a buffer of some MiB is in memory, however large it is."""
    parquet = _pyarrow().parquet
    whole = parquet.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=1 << 20)
    metadata, names = whole.metadata, whole.schema_arrow.names
    total = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
    rows = max(1, min(MOST_ROWS, size * metadata.num_rows // max(total, 1)))
    batches = whole.iter_batches(batch_size=rows, columns=_used(names, columns))
    yield from _cut(batches, size, metadata.num_rows)


def _cut_arrow(file: Any, columns: Collection[str] | None, size: int) -> Iterator[Cut]:
    whole = _pyarrow().ipc.open_file(file)
    used = _used(whole.schema.names, columns)
    batches = (_selected(whole.get_batch(k), used) for k in range(whole.num_record_batches))
    yield from _cut(batches, size, None)


def _cut_stream(file: Any, columns: Collection[str] | None, size: int) -> Iterator[Cut]:
    whole = _pyarrow().ipc.open_stream(file)
    used = _used(whole.schema.names, columns)
    yield from _cut((_selected(batch, used) for batch in whole), size, None)


def _used(names: list[str], columns: Collection[str] | None) -> list[str] | None:
    """The columns that are read. Raises Unreadable if a name stands twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Unreadable(f"column {twice[0]!r} stands twice")
    return None if columns is None else [name for name in names if name in columns] or None  # rows have a column


def _selected(batch: Any, used: list[str] | None) -> Any:
    batch.validate(full=True)  # of an Arrow file nothing else is checked before values are looked up
    return batch if used is None else batch.select(used)


def _cut(batches: Iterator[Any], size: int, total: int | None) -> Iterator[Cut]:
    """Batches as blocks of about `size` bytes, the large ones in pieces, with the share of the rows that was read."""
    number = 0
    for batch in batches:
        step = max(1, min(MOST_ROWS, size * batch.num_rows // max(batch.nbytes, 1)))
        for start in range(0, batch.num_rows, step):
            piece = batch.slice(start, step)
            yield number + 1, _stream(piece), (number + piece.num_rows) / total if total else 0.0
            number += piece.num_rows


def _stream(batch: Any) -> bytes:
    pyarrow = _pyarrow()
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def rows_of_content(content: bytes) -> list[dict[str, Any]]:
    """Returns the rows of a block as dicts, nulls included.

    Args:
        content: An Arrow stream.
    """
    return _pyarrow().ipc.open_stream(content).read_all().to_pylist()


CUTS: dict[str, Callable[[Any, Collection[str] | None, int], Iterator[Cut]]] = {
    "parquet": _cut_parquet,
    "arrow": _cut_arrow,
    "arrow stream": _cut_stream,
}
