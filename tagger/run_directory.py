"""Where a run keeps its finished parts: lock, manifest, parts, _SUCCESS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tagger.errors import OtherRunError, OutputError, UsageError
from tagger.lock import Lock
from tagger.output import cannot_write, sync_folder, write_json, write_text

MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"
FORMAT_VERSION = 1
SETUP_SECONDS = 10.0
"""How long a shard waits for another one that is just setting the directory up."""

Fingerprint = Mapping[str, str]
"""All that decides the result of a run, by name: catalog, model, tasks, options, versions."""


@dataclass(frozen=True)
class Shard:
    """Share `number` of `count` (both from 1) of the parts of a run: every count-th part."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """'2/4' -> Shard(2, 4).

        Raises:
            UsageError: not of that form, or a number outside 1..count.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()) or not (
            1 <= int(number) <= int(count)
        ):
            raise UsageError(
                f"--shard {text!r} is not i/n", "for example --shard 1/4 to --shard 4/4"
            )
        return cls(int(number), int(count))

    def has(self, part: int) -> bool:
        """Whether part `part` (from 0) belongs to this share."""
        return part % self.count == self.number - 1


class Manifest(msgspec.Struct, frozen=True):
    """_manifest.json: what the parts are of and, once all are there, how many rows each holds."""

    fingerprint: dict[str, str]
    format_version: int = FORMAT_VERSION
    rows: dict[str, int] | None = None


class RunDirectory:
    """A locked directory of the parts of one run.

    Part k is `part-0000k.parquet`; it is there or it is not, never half. Whoever finds all parts
    writes the manifest anew with their rows, and then the empty file `_SUCCESS`. Shards share the
    directory; a run without shards has it to itself.
    """

    def __init__(self, path: Path, shard: Shard = Shard()) -> None:
        self.path = path
        self.shard = shard
        self._lock = Lock(path / ".lock")
        self._share = Lock(path / f".shard-{shard.number}-of-{shard.count}.lock")

    def open(self, fingerprint: Fingerprint, overwrite: bool) -> RunDirectory:
        """Lock the directory for the run of `fingerprint`, and make it where it is not there.

        With `overwrite`, a finished run or one of another fingerprint is removed first, but by a
        share none of its own fingerprint, which others may just have finished; without it, one that
        has done no part. What a killed run left half written is deleted.

        Raises:
            LockedError: another run is at work in it.
            OtherRunError: it holds a run of another fingerprint, or parts of one.
            OutputError: it cannot be written, or holds files that are not of a run.
        """
        try:
            alone = self.shard.count == 1
            patience = 0.0 if alone else SETUP_SECONDS
            self._lock.take(shared=not alone, patience=patience)
            if not alone:
                self._share.take(shared=False, patience=0.0)
            if not self._fits(fingerprint, overwrite):
                # Shards wait here for the one that sets up; the check is repeated under the lock.
                self._lock.take(shared=False, patience=patience)
                if not self._fits(fingerprint, overwrite):
                    self._set_up(fingerprint, overwrite)
                self._lock.take(shared=not alone, patience=patience)
                if not self._fits(fingerprint, overwrite=False):
                    raise self._lock.taken()  # another run came between the two locks
            self._delete_leftovers()
        except OSError as error:
            self.close()
            raise cannot_write(self.path, error) from error
        except BaseException:
            self.close()
            raise
        return self

    def check(self, fingerprint: Fingerprint, overwrite: bool) -> None:
        """Raises:
        OtherRunError, OutputError: what `open` would raise of what is there now; nothing is
            written.
        """
        if self.path.is_dir() and not self._fits(fingerprint, overwrite):
            self._refuse(fingerprint, overwrite)

    def close(self) -> None:
        """Give the locks back; a directory that is finished or not ours keeps no trace of them."""
        self._share.release(remove=True)
        self._lock.release(remove=self.finished or not (self.path / MANIFEST).exists())

    def is_of(self, fingerprint: Fingerprint) -> bool:
        """Whether a run of `fingerprint` has begun here."""
        return (self.path / MANIFEST).exists() and self._read().fingerprint == fingerprint

    @property
    def finished(self) -> bool:
        """Whether all parts of the run are there."""
        return (self.path / SUCCESS).exists()

    def part(self, number: int) -> Path:
        """The file of part `number`, from 0."""
        return self.path / f"part-{number:05d}.parquet"

    def temporary(self, name: str) -> Path:
        """A file of this share alone to write `name` into first; a killed run may have left it."""
        return self.path / f".{name}.{self.shard.number}-of-{self.shard.count}.partial"

    def missing(self, num_parts: int) -> list[int]:
        """Numbers of the parts that are not there yet."""
        return [number for number in range(num_parts) if not self.part(number).exists()]

    def finish(self, rows: Callable[[Path], int], num_parts: int) -> None:
        """Say that all parts are there: the manifest with the rows of each, then _SUCCESS."""
        parts = [self.part(number) for number in range(num_parts)]
        manifest = Manifest(dict(self._read().fingerprint), rows={p.name: rows(p) for p in parts})
        self._write_manifest(manifest)
        write_text(self.path / SUCCESS, "", self.temporary(SUCCESS))

    def unfinish(self) -> None:
        """Take _SUCCESS away, before finished parts are replaced."""
        (self.path / SUCCESS).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the directory: in one step under its name, then file by file."""
        self.sweep()
        os.replace(self.path, self._trash)
        sync_folder(self.path.parent)
        self.sweep()

    def sweep(self) -> None:
        """Delete what a run left that was killed while it removed its directory.

        Only of a hidden directory: beside another one, that name may be a stranger's.
        """
        shutil.rmtree(self._trash, ignore_errors=True)

    @property
    def _trash(self) -> Path:
        return self.path.with_name(f"{self.path.name}.removed")

    def _read(self) -> Manifest:
        """Raises:
        OutputError: the manifest is damaged or of another format.
        """
        path = self.path / MANIFEST
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
            if manifest.format_version != FORMAT_VERSION:
                raise msgspec.ValidationError(f"format_version {manifest.format_version}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise OutputError(
                f"{path} is damaged: {error}", f"delete {self.path}, or name another --out"
            ) from error
        return manifest

    def _write_manifest(self, manifest: Manifest) -> None:
        write_json(self.path / MANIFEST, manifest, self.temporary(MANIFEST))

    def _delete_leftovers(self) -> None:
        """Delete what killed runs left, but for what may be of another shard that is at work."""
        alone = self.shard.count == 1
        patterns = (".*.partial", ".shard-*.lock") if alone else (self.temporary("*").name,)
        for pattern in patterns:
            for file in self.path.glob(pattern):
                file.unlink()

    def _fits(self, fingerprint: Fingerprint, overwrite: bool) -> bool:
        """Whether the directory holds a run that this one can go on with, or has finished."""
        replaces = overwrite and self.finished and self.shard.count == 1
        return self.is_of(fingerprint) and not replaces

    def _set_up(self, fingerprint: Fingerprint, overwrite: bool) -> None:
        """Empty the directory of an older run and write the manifest of this one."""
        self._refuse(fingerprint, overwrite)
        self.unfinish()
        for file in (*self.path.glob("part-*.parquet"), *self.path.glob(".*.partial")):
            file.unlink()
        self._write_manifest(Manifest(dict(fingerprint)))

    def _refuse(self, fingerprint: Fingerprint, overwrite: bool) -> None:
        """Raises:
        OtherRunError, OutputError: what is there must not be replaced.
        """
        if (self.path / MANIFEST).exists():
            # A run that has not done any part, such as one whose catalog was refused, is none.
            has_begun = self.finished or any(self.path.glob("part-*.parquet"))
            if has_begun and not overwrite:
                state = "a finished run" if self.finished else "an unfinished run"
                raise other_run(f"{self.path} holds {state}", self._read().fingerprint, fingerprint)
        elif stranger := next((f for f in self.path.iterdir() if f.name[0] not in "._"), None):
            raise OutputError(
                f"{self.path} is no output of tagger and not empty: {stranger.name!r}",
                "name another --out",
            )


def other_run(what: str, theirs: Fingerprint, ours: Fingerprint) -> OtherRunError:
    """The error that names what differs between two fingerprints."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    shown = [f"{name} was {_value(theirs, name)}, is {_value(ours, name)}" for name in names]
    if not theirs:
        difference = "nothing in it says what run it is of"
    else:
        difference = "; ".join(shown) or "with the same input, model and options"
    return OtherRunError(
        f"{what}: {difference}", "name another --out, or add --overwrite to replace that run"
    )


def _value(fingerprint: Fingerprint, name: str) -> str:
    """An option that was left out is None in a fingerprint."""
    value = fingerprint.get(name, "not there")
    return "not given" if value == "None" else value
