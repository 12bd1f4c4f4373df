"""What one run of `tagger predict` is to do: its options, checked, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.arrow_types import as_file, valid_text
from tagger.calibration import Target
from tagger.catalog import PARQUET, Catalog, Columns, check_image_root
from tagger.columns import Labelling, check_precision, refuse_overwriting
from tagger.errors import CatalogError, OutputError, UsageError, listing
from tagger.hashes import file_digest
from tagger.mapping import read_mapping
from tagger.output import check_types
from tagger.paths import is_there
from tagger.products import check_inputs, input_columns
from tagger.run_directory import Fingerprint, Shard
from tagger.runtime import Model
from tagger.version import __version__

PART_ROWS = 4096
"""Rows of a part: what a kill costs at most, and what a shard takes at a time."""

ADDED, FINGERPRINT = b"tagger_columns", b"tagger_fingerprint"
"""Parquet metadata: the columns that tagger added, the fingerprint of the run; both JSON."""
ANSWERS_HANG_ON = (
    "model",
    "top-k",
    "minimum precision",
    "mapping",
    "device",
    "computed in",
    "tagger",
    "pillow",
)
"""Of a fingerprint, beside the versions of what computes: where one of these differs, the answer to
the same picture and title may."""


@dataclass(frozen=True)
class MaxFailures:
    """How many failed products a run may publish: a number, or a share (0..1) of its rows."""

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> MaxFailures:
        """'100' or '5%'.

        Raises:
            UsageError: neither a number from 0 nor a percentage from 0 to 100.
        """
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if 0 <= share <= 1:
                    return cls(share=share)
            elif int(text) >= 0:
                return cls(count=int(text))
        except ValueError:
            pass
        raise UsageError(f"--max-failures {text!r}", "for example --max-failures 100, or 5%")

    def exceeded(self, num_failed: int, num_rows: int) -> bool:
        """Whether `num_failed` products of a run of `num_rows` are too many."""
        if self.count is not None:
            return num_failed > self.count
        # .29 * 100 is a little less than 29.
        return self.share is not None and num_failed > self.share * num_rows * (1 + 1e-9)


@dataclass(frozen=True)
class JobOptions:
    """One run, as the command line states it; the README tells what each option does."""

    catalog: Path
    tasks: Sequence[str]
    out: Path
    columns: Columns = field(default_factory=Columns)
    image_root: Path | None = None
    confined: bool = True
    top_k: int | None = None
    limit: int | None = None
    batch_size: int | None = None
    min_precision: Target | None = None
    shard: Shard = field(default_factory=Shard)
    incremental: Path | None = None
    retry_failed: bool = False
    overwrite: bool = False
    overwrite_own_columns: bool = False
    max_failures: MaxFailures = field(default_factory=MaxFailures)
    cache: Path | None = None
    mapping: Path | None = None
    part_rows: int = PART_ROWS


class Job:
    """A run that has been checked: catalog, columns, model, output; nothing is written yet."""

    def __init__(self, bundle: Model, options: JobOptions, catalog: Catalog | None = None) -> None:
        """Raises:
        ModelError: a task that the model does not know.
        CatalogError: see `Catalog`, `input_columns` and `refuse_overwriting`.
        UsageError: options that do not go together; a type that the output cannot hold.
        OutputError: `out` is in the way of something.
        """
        if options.incremental is not None and not is_there(options.incremental, UsageError):
            raise UsageError(
                f"--incremental: there is no {options.incremental}",
                "name an earlier output, or leave it out the first time",
            )
        is_there(options.out, OutputError)
        if options.out.is_symlink():  # parts and the output belong where it leads to
            options = replace(options, out=_behind_link(options.out))
        self.bundle, self.options = bundle, options
        self.catalog = catalog or Catalog(options.catalog)
        check_image_root(options.image_root)
        input_columns(self.catalog, options.columns)
        check_inputs(self.catalog, options.columns)
        if options.columns.id != Columns().id:
            self.catalog.require([options.columns.id], "--id-column")
        check_out(self.catalog, options)
        self.how = Labelling(
            [bundle.task(name) for name in options.tasks],
            options.image_root or self.catalog.folder,
            options.columns,
            options.top_k,
            options.confined,
            self.batch_size,
            options.min_precision,
            _read_mapping(bundle, options),
        )
        check_precision(bundle, self.how)
        if bundle.is_export and options.cache is not None:
            raise UsageError(
                f"--cache keeps what towers say, and {bundle.path.name} is an export: one graph",
                "leave --cache out, or label with the model that the export was made from",
            )
        own = added_columns(self.catalog.schema)
        replaced = own if options.overwrite_own_columns else []
        self.kept = [name for name in self.catalog.schema.names if name not in replaced]
        refuse_overwriting(self.kept, self.how.schema, str(self.catalog.path), own)
        self.previous = None if options.incremental is None else Catalog(options.incremental)
        check_types(self.schema, options.out.suffix if self.is_file else ".parquet")

    @property
    def batch_size(self) -> int:
        """Products that the network sees at once, if they fit into the memory of the device."""
        return self.options.batch_size or self.bundle.batch_size

    @property
    def is_file(self) -> bool:
        """Whether the output is one file; otherwise it is a directory of parts."""
        return self.options.out.suffix in (".parquet", ".csv")

    @property
    def directory(self) -> Path:
        """Where the parts are: the output itself, or a hidden directory beside the file."""
        out = self.options.out
        return out.with_name(f".{out.name}.tagger") if self.is_file else out

    @cached_property
    def num_rows(self) -> int:
        """Rows of the whole output."""
        return min(self.catalog.num_rows, self.options.limit or self.catalog.num_rows)

    @property
    def num_parts(self) -> int:
        """Parts of the whole output, from part 0 on."""
        return -(-self.num_rows // self.options.part_rows)

    @cached_property
    def part_sizes(self) -> dict[int, int]:
        """Rows of each part of this run's share."""
        size, rows = self.options.part_rows, self.num_rows
        mine = (k for k in range(self.num_parts) if self.options.shard.has(k))
        return {k: min(size, rows - k * size) for k in mine}

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """All that decides the result, by name; the picture files themselves are not read."""
        options = self.options
        return {
            "catalog": self.catalog.sha256[:16],
            "model": f"{self.bundle.path.name} {self.bundle.sha256[:16]}",
            "tasks": ",".join(options.tasks),
            "image column": options.columns.image,
            "title column": options.columns.title,
            "image root": _short_hash(str(self.how.root.resolve())),
            "paths outside it": "refused" if options.confined else "allowed",
            "top-k": str(options.top_k),
            "minimum precision": self._precision,
            "mapping": "none" if options.mapping is None else file_digest(options.mapping)[:16],
            "limit": str(options.limit),
            "batch size": str(self.batch_size),
            "rows per part": str(options.part_rows),
            "own columns": "replaced" if options.overwrite_own_columns else "none",
            "previous output": "none" if self.previous is None else self.previous.sha256[:16],
            "device": self.bundle.device_type,
            "computed in": self.bundle.computed_in,
            "tagger": __version__,
            "pillow": metadata.version("pillow"),
            **self.bundle.versions,
        }

    @property
    def _precision(self) -> str:
        """What --min-precision comes to: one number, or one for each task where they differ."""
        asked, calibration = self.options.min_precision, self.bundle.calibration
        if asked is None or calibration is None:
            return str(asked)
        meant = {name: calibration.meant(name, asked) for name in self.options.tasks}
        if len({*meant.values()}) == 1:
            return str(meant[self.options.tasks[0]])
        return ", ".join(f"{name} {value}" for name, value in meant.items())

    @cached_property
    def schema(self) -> pa.Schema:
        """Of every part and of the output: columns kept, columns added, where they are from."""
        given = self.catalog.schema
        metadata = {
            **(given.metadata or {}),
            b"tagger_version": __version__.encode(),
            b"tagger_model": self.bundle.path.name.encode(),
            b"tagger_model_sha256": self.bundle.sha256.encode(),
            ADDED: json.dumps(self.how.schema.names).encode(),
            FINGERPRINT: json.dumps(self.fingerprint).encode(),
        }
        return pa.schema([*(given.field(name) for name in self.kept), *self.how.schema], metadata)


def _read_mapping(bundle: Model, options: JobOptions) -> dict[str, tuple[str | None, ...]]:
    """Raises:
    UsageError: none of the tasks is a tree, or several are.
    TaxonomyError: see `read_mapping`.
    """
    if options.mapping is None:
        return {}
    trees = [task for task in map(bundle.task, options.tasks) if task.is_tree]
    if len(trees) != 1 or trees[0].separator is None:
        named = listing([task.name for task in trees])
        raise UsageError(
            f"--map is for the one task whose labels are paths; here these are: {named}",
            f"name one in --tasks; {bundle.path.name} knows: "
            + listing([task.name for task in bundle.config.tasks if task.is_tree]),
        )
    task = trees[0]
    return {task.name: read_mapping(options.mapping, task.nodes, task.separator or "")}


def check_out(catalog: Catalog, options: JobOptions) -> None:
    """Raises:
    UsageError: `out` is or holds the catalog, the previous output or the cache, or lies inside one
        of the former; an option that needs a directory of parts, or a Parquet file, and `out` is
        none.
    OutputError: `out` is a directory where a file is asked for, or the other way round, or neither;
        its name is not UTF-8.
    """
    out = options.out
    is_file = out.suffix in (".parquet", ".csv")
    if is_file and out.is_dir():
        raise OutputError(f"--out {out} is a directory", "name a file, or leave the ending out")
    if is_file and out.exists() and not out.is_file():
        raise OutputError(f"--out {out} is a pipe or a device", "name a file")
    if not is_file and out.exists() and not out.is_dir():
        raise OutputError(f"--out {out} is a file", "end it in .parquet or .csv")
    if is_file:  # the longest name of what stands beside it while it is made
        is_there(out.with_name(f".{out.name}.tagger.removed"), OutputError)
    if not out.absolute().parent.is_dir():
        raise OutputError(
            f"--out {out}: there is no folder {out.parent}",
            f"make it: mkdir -p {shlex.quote(str(out.parent))}",
        )
    if str(out) != valid_text(str(out)):
        raise OutputError(f"--out {out}: its name is not UTF-8", "name another --out")
    target, source = out.resolve(), catalog.path.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise UsageError(f"--out {out} would overwrite the catalog", "name another --out")
    if options.incremental is not None and not is_file:
        earlier = options.incremental.resolve()
        if target == earlier or target in earlier.parents:
            raise UsageError(f"--out {out} holds --incremental", "name another --out")
    if options.cache is not None:
        is_there(options.cache, OutputError)
        folder = options.cache.resolve()
        if target == folder or target in folder.parents:
            raise UsageError(f"--out {out} holds --cache", "name another --cache")
    if options.shard.count > 1 and is_file:
        raise UsageError(
            f"--shard makes parts, and --out {out} is one file", "name a directory with --out"
        )
    if options.retry_failed and out.suffix == ".csv" and out.exists():
        raise UsageError(
            f"--retry-failed cannot read {out}: CSV has lost the types of the columns",
            "write a .parquet file or a directory, or label anew with --overwrite",
        )


def _behind_link(out: Path) -> Path:
    """Raises:
    UsageError: it leads to a name with another ending, which says what is written.
    """
    target = out.resolve()
    if target.suffix != out.suffix:
        raise UsageError(
            f"--out {out} is a link to {target}, with another ending", "name the target itself"
        )
    return target


def added_columns(schema: pa.Schema) -> list[str]:
    """The columns that tagger added to an output; none for a catalog that is not its output."""
    return [str(name) for name in _metadata(schema, ADDED, [])]


def read_fingerprint(out: Path) -> dict[str, str]:
    """The fingerprint of a finished output file; empty where there is none, as in CSV."""
    try:
        return fingerprint_of(pq.read_schema(as_file(out)))
    except (pa.ArrowException, OSError):
        return {}


def fingerprint_of(schema: pa.Schema) -> dict[str, str]:
    """The fingerprint in the metadata of an output."""
    return {str(k): str(v) for k, v in dict(_metadata(schema, FINGERPRINT, {})).items()}


def parse_precision(text: str | None) -> Target | None:
    """'0.95' -> 0.95; 'default', what each task was calibrated for, as it is.

    Raises:
        UsageError: neither.
    """
    if text is None:
        return None
    if text == "default":
        return "default"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise UsageError(
            f"--min-precision {text!r} is no number between 0 and 1",
            "for example --min-precision 0.95, or default: what each task was calibrated for",
        )
    return value


def default_out(catalog: Path) -> Path:
    """feed/catalog.csv -> feed/catalog.labeled.parquet.

    Raises:
        CatalogError: the system cannot look `catalog` up.
    """
    is_there(catalog, CatalogError)
    named = catalog if catalog.name not in ("", "..") else catalog.resolve()
    is_dated = named.is_dir() and named.suffix.lower() not in PARQUET  # feed.2026-11-27
    return named.with_name((named.name if is_dated else named.stem) + ".labeled.parquet")


def _metadata(schema: pa.Schema, name: bytes, default: Any) -> Any:
    try:
        return json.loads((schema.metadata or {})[name])
    except (KeyError, ValueError):
        return default


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
