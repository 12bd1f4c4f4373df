"""Stream a catalog in (Parquet file, directory of Parquet parts, CSV); write one out atomically."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tagger.errors import CatalogError, OutputError, closest, listing

CSV_BLOCK_BYTES = 4 << 20
ROW_GROUP_ROWS = 16384


@dataclass(frozen=True)
class Columns:
    """Names of the columns that tagger reads; an absent id column is fine."""

    image: str = "image"
    title: str = "title"
    id: str = "id"


class Catalog:
    """A table of products on disk: its schema, and its rows as record batches in order.

    CSV fields are strings exactly as written: "NA" and "007" stay, an empty field is null and a
    quoted empty field is the empty string.
    """

    def __init__(self, path: Path) -> None:
        """Raises:
        CatalogError: no such file, a kind that is not read, unreadable, or no rows.
        """
        self.path = path
        if not path.exists():
            raise CatalogError(f"no such catalog: {path}", _neighbours(path))
        self._parts = _parquet_parts(path)
        try:
            self.schema: pa.Schema = (
                self._open_csv().schema if not self._parts else pq.read_schema(self._parts[0])
            )
            names = self.schema.names
            self._check_parts()
            empty = next(iter(self.batches(1)), None) is None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise CatalogError(f"{path} has the column {twice!r} twice", "rename one of them")
        if empty:
            raise CatalogError(f"{path} has no rows", "check how the catalog was written")

    @property
    def folder(self) -> Path:
        """Where relative image paths start by default."""
        return folder_of(self.path)

    @property
    def num_rows(self) -> int | None:
        """Rows from the Parquet footers; None for CSV, which would have to be read for it."""
        if not self._parts:
            return None
        return sum(int(pq.read_metadata(part).num_rows) for part in self._parts)

    def require(self, names: Sequence[str], option: str) -> None:
        """Raises:
        CatalogError: a column is not there; the message names those that are.
        """
        for name in names:
            if name not in self.schema.names:
                raise CatalogError(
                    f"{self.path} has no column {name!r}; it has: {listing(self.schema.names)}",
                    f"name the right column with {option}.{closest(name, self.schema.names)}",
                )

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most `batch_rows` at a time, whatever the file's own grouping.

        Raises:
            CatalogError: the file is damaged, or changed its columns between two parts.
        """
        try:
            if self._parts:
                for part in self._parts:
                    with pq.ParquetFile(part) as file:
                        yield from file.iter_batches(batch_size=batch_rows)
            else:
                for batch in self._open_csv():
                    for start in range(0, batch.num_rows, batch_rows):
                        yield batch.slice(start, batch_rows)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The named columns of all rows, in memory."""
        batches = [batch.select(list(columns)) for batch in self.batches(65536)]
        return pa.Table.from_batches(batches)

    def _open_csv(self) -> pa_csv.CSVStreamingReader:
        with pa.OSFile(str(self.path)) as file:
            header = pa_csv.open_csv(
                file,
                read_options=pa_csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            ).schema.names
        # A blank line is a row only where a row is a single field.
        parse = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(header) > 1)
        return pa_csv.open_csv(
            str(self.path),
            read_options=pa_csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
            parse_options=parse,
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in header},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _check_parts(self) -> None:
        for part in self._parts[1:]:
            if not pq.read_schema(part).equals(self.schema):
                raise CatalogError(
                    f"{part.name} has other columns or types than {self._parts[0].name}",
                    "write all parts of the catalog with one schema",
                )

    def _unreadable(self, error: Exception) -> CatalogError:
        reason = str(error).splitlines()[0]
        hint = "the file must be Parquet (.parquet) or UTF-8 CSV (.csv)"
        if "UTF8" in reason or "utf-8" in reason.lower():
            hint = "save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 old.csv > new.csv"
        return CatalogError(f"{self.path} cannot be read: {reason}", hint)


def folder_of(path: Path) -> Path:
    """Where relative image paths of the catalog at `path` start by default."""
    return path if path.is_dir() else path.parent


def strings(batch: pa.RecordBatch | pa.Table, column: str, path: Path) -> list[str | None]:
    """A column as Python strings; empty and blank ones are None.

    Raises:
        CatalogError: the column holds something that has no text form (lists, structs, bytes).
    """
    values = batch.column(column)
    try:
        texts = values.cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise CatalogError(
            f"{path}: column {column!r} holds {values.type}, not text", "name another column"
        ) from error
    return [text if text is not None and text.strip() else None for text in texts]


class ParquetOutput:
    """A Parquet file that appears under its name only when it is whole.

    Used as a context manager: rows go to a temporary file beside it, which is flushed to disk and
    renamed on a clean exit and deleted on an error.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Raises:
        OutputError: the folder does not exist or cannot be written.
        """
        self.path = path
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd")
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> ParquetOutput:
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; they are written in groups of ROW_GROUP_ROWS.

        Raises:
            OutputError: the disk is full or gone.
        """
        self._waiting.append(batch)
        if sum(waiting.num_rows for waiting in self._waiting) >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        try:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        except OSError as error:
            raise self._failed(error) from error
        self._waiting = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                with open(self._temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self._temporary, self.path)
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            self._temporary.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.path}: {error.strerror or error}",
            "check the folder, its permissions and the free space, or name another --out",
        )


def _parquet_parts(path: Path) -> list[Path]:
    """The Parquet files behind `path` in name order; empty for a CSV file."""
    if path.is_dir():
        parts = sorted(part for part in path.rglob("*.parquet") if not part.name.startswith("."))
        if not parts:
            raise CatalogError(f"{path} is a directory without .parquet files", "name a catalog")
        return parts
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return [path]
    if suffix == ".csv":
        return []
    raise CatalogError(
        f"{path}: a catalog ends in .parquet or .csv, not {suffix!r}", "convert or rename it"
    )


def _neighbours(path: Path) -> str:
    folder = path.parent if str(path.parent) else Path()
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".csv", ".parquet", ".pq"))
    return f"{folder} holds: {listing(names)}" if names else f"{folder} holds no catalog"
