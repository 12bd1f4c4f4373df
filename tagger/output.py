"""Files that appear under their name only when they are whole: Parquet and CSV."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tagger.arrow_types import RANKING, as_file, is_bytes
from tagger.errors import DiskFullError, OutputError, UsageError
from tagger.paths import is_there

ROW_GROUP_ROWS = 16384
ROW_GROUP_BYTES = 64 << 20
"""A row group ends at either, so that catalogs that carry their pictures fit into memory."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RESUME = "run the same command again with --resume: finished epochs are kept"
"""What `cannot_write` tells whoever trains."""


class Output(ABC):
    """A table that is written beside its name, flushed to disk and renamed when whole.

    Used as a context manager; on an error the temporary file is deleted.
    """

    def __init__(self, path: Path, schema: pa.Schema, temporary: Path | None = None) -> None:
        """`temporary` must be on the file system of `path`; one that lies there is overwritten.

        Raises:
            OutputError: the folder cannot be made or written.
        """
        self.path = path
        self._temporary = temporary or path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._open(self._temporary, schema)
        except BaseException as error:  # a signal among them, before there is an __exit__
            with suppress(OSError):
                self._temporary.unlink()
            if isinstance(error, OSError):
                raise cannot_write(path, error) from error
            raise

    def __enter__(self) -> Self:
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            DiskFullError, OutputError: the disk is full or gone.
        """
        try:
            self._write(batch)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._close(whole=kind is None)
            if kind is None:
                publish(self._temporary, self.path)
        except OSError as failure:
            raise cannot_write(self.path, failure) from failure
        finally:
            self._temporary.unlink(missing_ok=True)

    @abstractmethod
    def _open(self, temporary: Path, schema: pa.Schema) -> Any:
        """What writes the file; it has a `close`."""

    @abstractmethod
    def _write(self, batch: pa.RecordBatch) -> None: ...

    def _close(self, whole: bool) -> None:
        """Close the writer; what the file then holds counts only if it is `whole`."""
        self._writer.close()


class ParquetOutput(Output):
    """Parquet, in row groups of ROW_GROUP_ROWS or ROW_GROUP_BYTES."""

    def __init__(self, path: Path, schema: pa.Schema, temporary: Path | None = None) -> None:
        super().__init__(path, schema, temporary)
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._num_rows = self._num_bytes = 0

    def _open(self, temporary: Path, schema: pa.Schema) -> pq.ParquetWriter:
        return pq.ParquetWriter(as_file(temporary), schema, compression="zstd")

    def _write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._num_rows += batch.num_rows
        self._num_bytes += batch.nbytes
        if self._num_rows >= ROW_GROUP_ROWS or self._num_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.Table.from_batches(self._waiting, self._schema)
            try:
                pieces = [rows.unify_dictionaries()]
            # More categories together than their type of code can number, or of a type that cannot
            # be joined: each batch keeps its own.
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                pieces = [pa.Table.from_batches([batch]) for batch in self._waiting]
            for piece in pieces:
                self._writer.write_table(piece)
        self._waiting = []
        self._num_rows = self._num_bytes = 0

    def _close(self, whole: bool) -> None:
        if whole:
            self._flush()
        super()._close(whole)


class CsvOutput(Output):
    """CSV in UTF-8.

    Strings are quoted; null is an empty field and the empty string a quoted one, as `Catalog`
    reads them. A list of likeliest labels is JSON.
    """

    def _open(self, temporary: Path, schema: pa.Schema) -> pa_csv.CSVWriter:
        return pa_csv.CSVWriter(as_file(temporary), _csv_schema(schema))

    def _write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(_csv_batch(batch))


def open_output(path: Path, schema: pa.Schema, temporary: Path | None = None) -> Output:
    """The kind of file that the suffix of `path` names; `temporary` is as that of `Output`."""
    kind = CsvOutput if path.suffix == ".csv" else ParquetOutput
    return kind(path, schema, temporary)


def check_types(schema: pa.Schema, suffix: str) -> None:
    """Raises:
    UsageError: a column of a type that a file of kind `suffix` cannot hold.
    """
    for field in schema:
        one = pa.schema([field])
        try:
            if suffix == ".csv":
                if is_bytes(field.type):
                    raise pa.ArrowInvalid("bytes have no text form")
                pa_csv.write_csv(_csv_schema(one).empty_table(), pa.BufferOutputStream())
            else:
                pq.write_table(one.empty_table(), pa.BufferOutputStream())
        except pa.ArrowException as error:
            raise UsageError(
                f"column {field.name!r} of type {field.type} cannot be written to {suffix}",
                "name an --out that ends in .parquet" if suffix == ".csv" else "drop the column",
            ) from error


def publish(temporary: Path, path: Path) -> None:
    """Flush `temporary` to the disk and give it its name, so that a power cut cannot tear it."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends well and is gone when it does not.

    Raises:
        DiskFullError, OutputError: it cannot be written, or `path` is there already.
    """
    # Not by the number of the process: in containers that is 1 for all of them.
    temporary = _nearest_folder(path) / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            with open(file, "rb+") as content:
                os.fsync(content.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        failure = cannot_write(path, error)
        raise type(failure)(
            failure.message,
            "nothing is left of it; make room, check the folder, or name another --out",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str, temporary: Path | None = None) -> None:
    """`text` in UTF-8, written as `write_bytes` does."""
    write_bytes(path, text.encode(), temporary)


def write_bytes(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """A small file, whole or not at all, in a folder that is made.

    A pipe or a link, such as /dev/stdout, is written to.

    `temporary` is as that of `Output`.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_special(path):
            path.write_bytes(content)
            return
        temporary.write_bytes(content)
        publish(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        # Where the folder itself is the trouble, this fails too.
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, document: object, temporary: Path | None = None) -> None:
    """`document`, of what msgspec encodes, indented and written as `write_bytes` does.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    write_text(path, text + "\n", temporary)


def check_writable(out: Path) -> None:
    """Raises:
    OutputError: no file can be made at `out`, or in the nearest folder above it that is there; its
        name is too long.
    """
    if is_there(out, OutputError) and _is_special(out) and os.access(out, os.W_OK):
        return
    is_there(out.with_name(f".{out.name}.{'0' * 8}.partial"), OutputError)  # it is written as that
    try:
        with tempfile.TemporaryFile(dir=_nearest_folder(out)):
            pass
    except OSError as error:
        raise cannot_write(out, error) from error


def _is_special(path: Path) -> bool:
    """Whether `path` is a pipe, a device or a link, which is written to and not replaced."""
    return path.exists() and not path.is_dir() and (path.is_symlink() or not path.is_file())


def _nearest_folder(out: Path) -> Path:
    """The folder of `out`, or the first above it that is there."""
    return next(parent for parent in out.absolute().parents if parent.exists())


def cannot_write(
    path: Path, error: Exception, again: str = "run the same command again: it goes on"
) -> DiskFullError | OutputError:
    """What `error`, of the system or of a library that passes on what the system said, means for
    the user; `again` is what to do once there is room."""
    number = error.errno if isinstance(error, OSError) else None
    # Libraries in Rust say it in words: "No space left on device (os error 28)", "Os { code: 28, ".
    if number is None and (said := re.search(r"(?:\(os error|\bOs \{ code:) (\d+)\b", str(error))):
        number = int(said[1])
    reason = f"cannot write {path}: {os.strerror(number) if number else error}"
    if number in _NO_ROOM:
        return DiskFullError(reason, f"make room, then {again}")
    return OutputError(reason, "check the folder and its permissions, or name another --out")


def _csv_schema(schema: pa.Schema) -> pa.Schema:
    """CSV has no dictionaries, no views and no lists: the first are plain, a ranking is JSON."""
    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif pa.types.is_string_view(kind):
            kind = pa.large_string()
        elif kind == RANKING:
            kind = pa.string()
        fields.append((field.name, kind))
    return pa.schema(fields)


def _csv_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = _csv_schema(batch.schema)
    columns = [
        pa.array(map(_json, column.to_pylist()), kind)
        if column.type == RANKING
        else _valid(column.cast(kind))
        for column, kind in zip(batch.columns, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _valid(column: pa.Array) -> pa.Array:
    """`column`; of text that a damaged file left without being UTF-8, what can be read."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.large_binary()).to_pylist()
        texts = [None if t is None else t.decode("utf-8", "replace") for t in raw]
        return pa.array(texts, column.type)
    return column


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
