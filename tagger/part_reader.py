"""Rows of a catalog by their number, and those of files that tagger wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.arrow_types import as_file
from tagger.errors import CatalogError, OutputError

COPY_ROWS = 1024
COPY_BYTES = 4 << 20
"""Rows of a finished part that are read at a time: nothing is decoded here, so that READ_ROWS would
only cost time; fewer where they carry pictures, so that those fit into memory."""


class RowReader:
    """Rows of a stream by their number, forwards only."""

    def __init__(self, batches: Iterator[pa.RecordBatch], start: int) -> None:
        self._batches, self._next = batches, start
        self._rest: pa.RecordBatch | None = None

    def rows(self, first: int, end: int) -> Iterator[pa.RecordBatch]:
        """Rows `first` to `end` (exclusive); those before `first` are passed over.

        Raises:
            CatalogError: the stream ends before `end`.
        """
        while self._next < end:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                raise CatalogError(
                    f"the catalog ends after {self._next} rows, not {end}",
                    "it is damaged, or was written to: check it and run the command again",
                )
            start, stop = self._next, min(self._next + batch.num_rows, end)
            self._rest = batch.slice(stop - start) if stop < start + batch.num_rows else None
            self._next = stop
            if stop > first:
                skip = max(0, first - start)
                yield batch.slice(skip, stop - start - skip)


def part_rows(file: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file that tagger wrote; of `columns` those that it has.

    COPY_ROWS at a time, or fewer of about COPY_BYTES, and never more than a row group.

    Raises:
        OutputError: it is damaged, or cannot be read.
    """
    try:
        with pq.ParquetFile(as_file(file), pre_buffer=False) as content:
            names = content.schema_arrow.names
            chosen = None if columns is None else [name for name in columns if name in names]
            for number in range(content.num_row_groups):
                group = content.metadata.row_group(number)
                fitting = group.num_rows * COPY_BYTES // max(1, group.total_byte_size)
                rows = min(max(1, fitting), COPY_ROWS)
                yield from content.iter_batches(rows, [number], chosen)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, MemoryError) or getattr(error, "errno", None):  # the machine's fault
            raise OutputError(
                f"{file} cannot be read: {reason}", "run the same command again"
            ) from error
        raise OutputError(
            f"{file} is damaged: {reason}", "delete it, and run the same command again"
        ) from error
