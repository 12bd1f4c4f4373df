"""Stream a catalog in: a Parquet file, a directory of Parquet parts, a CSV file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tagger.arrow_types import as_file, valid_text, with_own_dictionaries
from tagger.config import SEPARATOR
from tagger.errors import CatalogChangedError, CatalogError, UsageError, closest, listing
from tagger.paths import is_there

CSV_BLOCK_BYTES = 1 << 20
READ_BUFFER_BYTES = 1 << 20
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Columns:
    """Names of the columns that tagger reads; an absent id column is fine.

    Labels of a task stand in the column of its name, or, if it is in `labels`, in several: the
    levels of a tree, from the top. `separator` parts the names of labels that are paths, None if
    none are.
    """

    image: str = "image"
    title: str = "title"
    id: str = "id"
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    separator: str | None = SEPARATOR

    def of(self, task: str) -> tuple[str, ...]:
        """The columns that the labels of `task` stand in."""
        return self.labels.get(task, (task,))


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
        if str(path) != valid_text(str(path)):
            raise CatalogError(f"{path}: its name is not UTF-8", "rename it")
        if not is_there(path, CatalogError):
            raise CatalogError(f"no such catalog: {path}", _neighbours(path))
        self._parts: list[Path] = []
        try:
            self._parts = _parquet_parts(path)
            self._state = self._read_state()
            self.schema: pa.Schema = (
                pq.read_schema(self._parts[0]) if self._parts else self._csv_schema()
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

    @cached_property
    def num_rows(self) -> int:
        """Rows by the Parquet footers; a CSV file is read through, to its last broken field.

        Raises:
            CatalogError: a CSV row that cannot be read; better now than at its turn in the night.
        """
        if not self._parts:
            return sum(batch.num_rows for batch in self.batches(1 << 20))
        return sum(int(pq.read_metadata(part).num_rows) for part in self._parts)

    @cached_property
    def sha256(self) -> str:
        """A hash of the bytes of the catalog's files, in the order in which they are read."""
        total = hashlib.sha256()
        try:
            for file in self._files:
                with open(file, "rb") as content:
                    total.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise self._unreadable(error) from error
        return total.hexdigest()

    def check_unchanged(self) -> None:
        """Raises:
        CatalogChangedError: a file was written, replaced, added or removed since the start.
        """
        try:
            same = self._read_state() == self._state
        except (OSError, CatalogError):
            same = False
        if not same:
            raise CatalogChangedError(
                f"{self.path} changed while it was read",
                "run the same command again with --overwrite, once nothing writes to the catalog",
            )

    @property
    def _files(self) -> list[Path]:
        return self._parts or [self.path]

    def _read_state(self) -> list[tuple[str, int, int, int]]:
        """Name, size, time of the last write and inode of each file."""
        files = _parquet_parts(self.path) or [self.path]
        stats = [(file, file.stat()) for file in files]
        for file, info in stats:
            if not stat.S_ISREG(info.st_mode):  # nobody may ever write into a pipe
                raise CatalogError(f"{file} is a pipe or a device", "write it to a file first")
        return [(str(f), info.st_size, info.st_mtime_ns, info.st_ino) for f, info in stats]

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

    def batches(
        self, batch_rows: int, start: int = 0, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows from row `start` on, in order, in batches of 1 to `batch_rows` rows.

        Of Parquet only the named `columns` are read, so that pictures beside them cost no memory.

        Raises:
            CatalogError: the file is damaged, or changed its columns between two parts.
        """
        try:
            source = (
                self._parquet_batches(batch_rows, start, columns)
                if self._parts
                else self._csv_batches()
            )
            skip = 0 if self._parts else start
            for batch in source:
                batch = batch if columns is None else batch.select(list(columns))
                first = min(skip, batch.num_rows)
                skip -= first
                for offset in range(first, batch.num_rows, batch_rows):
                    yield with_own_dictionaries(batch.slice(offset, batch_rows))
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def read(self, columns: Sequence[str], limit: int | None = None) -> pa.Table:
        """The named columns of all rows, or of the first `limit`, in memory."""
        batches = []
        for batch in self.batches(min(65536, limit or 65536), columns=columns):
            batches.append(batch if limit is None else batch.slice(0, limit))
            if limit is not None and (limit := limit - batch.num_rows) <= 0:
                break
        return pa.Table.from_batches(batches)

    def _parquet_batches(
        self, batch_rows: int, start: int, columns: Sequence[str] | None
    ) -> Iterator[pa.RecordBatch]:
        """The rows from `start` on; row groups that hold earlier rows only are not read."""
        for part in self._parts:
            # Without pre_buffer a row group larger than memory is read piece by piece.
            with pq.ParquetFile(part, buffer_size=READ_BUFFER_BYTES, pre_buffer=False) as file:
                groups = list(range(file.num_row_groups))
                while groups and start >= file.metadata.row_group(groups[0]).num_rows:
                    start -= file.metadata.row_group(groups.pop(0)).num_rows
                if groups:
                    for batch in file.iter_batches(batch_rows, groups, columns):
                        first = min(start, batch.num_rows)
                        start -= first
                        yield batch.slice(first)

    def _csv_schema(self) -> pa.Schema:
        with open(self.path, "rb") as file:
            if note := _NOTE_TO_EXCEL.match(file.readline(CSV_BLOCK_BYTES)):
                raise CatalogError(
                    f"{self.path}: its first line, {note[1].decode()!r}, is a note to Excel and no "
                    "header",
                    f"delete it: tail -n +2 {shlex.quote(str(self.path))} > "
                    f"{shlex.quote(_beside(self.path))}",
                )
            file.seek(0)
            return self._open_csv(file).schema

    def _csv_batches(self) -> Iterator[pa.RecordBatch]:
        # A Python file, because of Arrow's own ones it reads 32 blocks ahead.
        num_rows, last = 0, None
        with open(self.path, "rb") as file:
            for batch in self._open_csv(file):
                num_rows += batch.num_rows
                last = batch if batch.num_rows else last
                yield batch
        if last is not None:
            self._refuse_open_quotes(last.column(last.num_columns - 1)[-1].as_py() or "", num_rows)

    def _refuse_open_quotes(self, field: str, row: int) -> None:
        """Where quotes are never closed, Arrow takes all that follows for one `field`, the last one
        of the last `row`: the file ends in a comma, a quote, and the field. In blank ones, where
        that could also be the end of `"\\n"`, no row is lost.

        Raises:
            CatalogError: so it is; rows in that field would be lost.
        """
        if not field.strip():
            return
        opened = b'"' + field.replace('"', '""').encode()
        with open(self.path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(opened) - 1))
            tail = file.read()
        if tail[:1] in (b",", b"\r", b"\n") and tail[1:] == opened:
            beginning = field.strip().splitlines()[0][:40]
            raise CatalogError(
                f"{self.path}: quotes that open in row {row}, before {beginning!r}, are not closed",
                "close them, or leave them out; quotes within quotes are doubled",
            )

    def _open_csv(self, file: BinaryIO) -> pa_csv.CSVStreamingReader:
        with open(self.path, "rb") as again:
            header = pa_csv.open_csv(
                again,
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            ).schema.names
        # A blank line is a row only where a row is a single field.
        parse = pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(header) > 1)
        return pa_csv.open_csv(
            file,
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
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

    def _nested_columns(self) -> list[str]:
        """Those with categories in them, or all where none has."""
        nested = {
            field.name: str(field.type) for field in self.schema if pa.types.is_nested(field.type)
        }
        return [name for name, kind in nested.items() if "dictionary<" in kind] or list(nested)

    def _is_utf_16(self) -> bool:
        """Whether a file begins with the byte order mark of UTF-16."""
        with suppress(OSError), open(self.path, "rb") as file:
            return file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        return False

    def _unreadable(self, error: Exception) -> CatalogError:
        reason = str(error).splitlines()[0]
        hint = "the file must be Parquet (.parquet) or UTF-8 CSV (.csv)"
        if "straddl" in reason:
            reason = f"a row of more than {CSV_BLOCK_BYTES:,} bytes"
            hint = "check its quotes, or write the catalog as Parquet"
        if "columns, got" in reason:
            hint = "put quotes around fields with commas, and close them; or write it as Parquet"
        if "UTF8" in reason or "utf-8" in reason.lower():
            hint = "save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 old.csv > new.csv"
        if "Nested data conversions" in reason:
            reason = f"Arrow does not read the nested {listing(self._nested_columns())}"
            hint = "write what they hold as plain values, without categories; or leave them out"
        if "Cannot decrypt" in reason or "no decryption found" in reason:
            reason, hint = "it is encrypted", "decrypt it first: write it anew without encryption"
        if isinstance(error, PermissionError):
            hint = f"see its rights: ls -ld {shlex.quote(str(self.path))}"
        if not self._parts and self._is_utf_16():
            reason = "it is UTF-16"
            hint = "save it as UTF-8: iconv -f UTF-16 -t UTF-8 old.csv > new.csv"
        return CatalogError(f"{self.path} cannot be read: {reason}", hint)


_NOTE_TO_EXCEL = re.compile(rb"(?:\xef\xbb\xbf)?\"?(sep=[,;\t|])\"?\r?\n")


def with_commas(path: Path, mark: str) -> str:
    """A command that writes the table at `path`, whose fields are parted by `mark`, with commas."""
    old, new, sep = (json.dumps(t, ensure_ascii=False) for t in (str(path), _beside(path), mark))
    read = f"pandas.read_csv({old}, sep={sep}, dtype=str, keep_default_na=False)"
    code = f"import pandas; {read}.to_csv({new}, index=False)"
    return f"python -c {shlex.quote(code)}"


def _beside(path: Path) -> str:
    """A name for `path` made anew as CSV."""
    taken = path.suffix.lower() == ".csv"
    return str(path.with_name(f"{path.stem}.new.csv") if taken else path.with_suffix(".csv"))


def check_image_root(root: Path | None) -> None:
    """Raises:
    UsageError: `root` was named, and is no folder: no picture would be found.
    """
    if root is not None and not (is_there(root, UsageError) and root.is_dir()):
        raise UsageError(
            f"--image-root {root} is no folder", "check its name, and whether its disk is mounted"
        )


def folder_of(path: Path) -> Path:
    """Where relative image paths of the catalog at `path` start by default."""
    return path if path.is_dir() else path.parent


def strings(batch: pa.RecordBatch | pa.Table, column: str, path: Path) -> list[str | None]:
    """A column as Python strings; empty and blank ones are None.

    A byte that is not UTF-8 becomes a lone surrogate, as in Python's file names.

    Raises:
        CatalogError: the column holds something that has no text form (lists, structs, bytes).
    """
    values = batch.column(column)
    try:
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)  # of a column in pieces as well
        if _is_text(values.type):
            # By way of bytes: a damaged file can hold strings that are not UTF-8.
            raw = values.cast(pa.large_binary()).to_pylist()
            texts = [None if t is None else t.decode(errors="surrogateescape") for t in raw]
        else:
            if pa.types.is_boolean(values.type):  # as pandas writes it into CSV
                values = pc.if_else(values, "True", "False")
            if pa.types.is_floating(values.type):  # not a number is no value
                values = pc.if_else(pc.is_nan(values), None, values)
            texts = values.cast(pa.string()).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CatalogError(
            f"{path}: column {column!r} holds {values.type}, not text", "name another column"
        ) from error
    return [text if text is not None and text.strip() else None for text in texts]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _parquet_parts(path: Path) -> list[Path]:
    """The Parquet files behind `path` in name order; empty for a CSV file."""
    path = as_file(path)
    if path.is_dir():
        parts = sorted(part for part in _files_below(path) if part.suffix.lower() in PARQUET)
        if not parts:
            raise CatalogError(f"{path} is a directory without .parquet files", "name a catalog")
        folders = (name for part in parts for name in part.relative_to(path).parts[:-1])
        if hive := next((name for name in folders if "=" in name), None):
            raise CatalogError(
                f"{path} has folders like {hive!r}, whose names hold a column that no file does",
                "write its parts anew with all columns in the files",
            )
        return parts
    suffix = path.suffix.lower()
    if suffix in PARQUET:
        return [path]
    if suffix == ".csv":
        return []
    hint = "convert or rename it"
    if suffix in (".tsv", ".tab"):
        hint = "write it with commas: " + with_commas(path, "\t")
    if suffix in (".xlsx", ".xls", ".ods"):
        hint = "save it as CSV in UTF-8, with commas, from the program that made it"
    raise CatalogError(f"{path}: a catalog ends in .parquet or .csv, not {suffix!r}", hint)


def _files_below(folder: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """All files that are data, also in linked folders; `seen` are the folders that were walked
    through, without links: of what two ways lead to, one is taken."""
    seen = set() if seen is None else seen
    here = os.path.realpath(folder)
    if here in seen:
        return
    seen.add(here)
    for entry in sorted(os.scandir(folder), key=lambda e: (e.is_symlink(), e.name)):
        # Names that start so are not data, by the habit of Spark, pyarrow and tagger itself.
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            yield from _files_below(Path(entry.path), seen)
        else:
            yield Path(entry.path)


def _neighbours(path: Path) -> str:
    folder = path.parent if str(path.parent) else Path()
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".csv", ".parquet", ".pq"))
    return f"{folder} holds: {listing(names)}" if names else f"{folder} holds no catalog"
