"""Tower outputs on disk, by the content that they were computed from, for runs to come."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeGuard

from safetensors import SafetensorError
from safetensors.torch import load, save

from tagger.errors import OutputError
from tagger.network import Features

FILE_NAME = "features.sqlite"
FORMAT = 2
"""Of its tables; a cache of another format is refused."""
APPLICATION_ID = 0x74616767
MAX_BYTES = 10 << 30
"""Of the file; what earlier runs left and no later one used makes room first."""
WAIT_SECONDS = 60.0
"""For another run that is writing at this moment."""
MARKS = 4096
"""Values found whose use is noted in one go."""
_DIGEST_BYTES = 16


class FeatureCache:
    """Features by key, in one SQLite file that several runs may use at a time.

    A value carries a digest of itself and its key and is checked when it is read; one that does not
    fit counts as absent. What cannot be read or written is left aside and never ends a run:
    `trouble` says why, and `tell` is told it once. For several threads.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int = MAX_BYTES,
        tell: Callable[[str], None] = lambda trouble: None,
    ) -> None:
        """Raises:
        OutputError: `folder` cannot be written, or its file is a database of something else, or of
            another version.
        """
        self.path = folder / FILE_NAME
        self.num_found = self.num_damaged = 0
        self.trouble: str | None = None
        self._max_bytes, self._tell = max_bytes, tell
        self._run = time.time_ns()
        self._used: list[bytes] = []
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException as error:
                if not _is_damage(error):
                    self._connection.close()
                    raise
                self._leave_aside(error)
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"--cache {folder}: {error}", "name another folder, or delete what is in it"
            ) from error

    def _prepare(self) -> None:
        """The table, if it is not there; a stranger's file is left as it is."""
        execute = self._connection.execute
        if execute("PRAGMA user_version").fetchone()[0] not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"{FILE_NAME} was written by another version of tagger")
        if execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            is_used = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            # Asked again: another run may have made the tables since, after this mark.
            if is_used and execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise sqlite3.DatabaseError(f"{FILE_NAME} is not a cache of tagger")
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
        execute("PRAGMA page_size = 16384")  # of a new file; values have 10 to 80 kB
        # Readers go on while a run writes, and only whole batches of pages wait for the disk.
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        # A table of its own: to change one column of a row, SQLite writes all of its value again.
        execute(
            "CREATE TABLE IF NOT EXISTS uses (key BLOB PRIMARY KEY, run INTEGER NOT NULL) "
            "WITHOUT ROWID"
        )
        execute("CREATE INDEX IF NOT EXISTS by_run ON uses (run)")
        execute(f"PRAGMA user_version = {FORMAT}")

    def get(self, key: bytes) -> Features | None:
        """What is remembered for `key`, checked."""
        with self._lock:
            if self.trouble is not None:
                return None
            try:
                row = self._connection.execute(
                    "SELECT value FROM features WHERE key = ?", (key,)
                ).fetchone()
            except sqlite3.Error as error:
                self._leave_aside(error)
                return None
        if row is None:
            return None
        features = _unpacked(key, row[0])
        with self._lock:
            if features is None:
                self.num_damaged += 1
            else:
                self.num_found += 1
                self._used.append(key)
                if len(self._used) >= MARKS:
                    self._note_uses()
        return features

    def put(self, features: Mapping[bytes, Features]) -> None:
        """Remember `features`; in a full cache only as far as unused ones can make room."""
        with self._lock:
            if self.trouble is not None:
                return
            rows = [(key, _packed(key, value)) for key, value in features.items()]
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._mark_used()
                if self._make_room(sum(len(value) for _, value in rows)):
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO features VALUES (?, ?)", rows
                    )
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO uses VALUES (?, ?)",
                        [(key, self._run) for key, _ in rows],
                    )
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._leave_aside(error)

    def close(self) -> None:
        """Note what was used."""
        with self._lock:
            if self.trouble is None:
                self._note_uses()
            try:
                self._connection.close()
            except sqlite3.Error as error:
                self._leave_aside(error)

    def _note_uses(self) -> None:
        """In one transaction: each of its own would write a page for every value."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._mark_used()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._leave_aside(error)

    def _mark_used(self) -> None:
        marks = [(self._run, key) for key in self._used]
        self._connection.executemany("UPDATE uses SET run = max(run, ?) WHERE key = ?", marks)
        self._used = []

    def _make_room(self, size: int) -> bool:
        """Delete what only earlier runs used, the oldest first, until `size` bytes fit in.

        Never what this run used: a catalog larger than the cache would push itself out of it.
        """
        while self._num_bytes + size > self._max_bytes:
            oldest = self._connection.execute(
                "SELECT key FROM uses WHERE run < ? ORDER BY run LIMIT 64", (self._run,)
            ).fetchall()
            if not oldest:
                return False
            for table in ("features", "uses"):
                self._connection.executemany(f"DELETE FROM {table} WHERE key = ?", oldest)
        return True

    @property
    def _num_bytes(self) -> int:
        """Of the pages in use; those that deleted rows left are taken again before new ones."""
        count, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((count - free) * size)

    def _leave_aside(self, error: sqlite3.Error) -> None:
        told, self.trouble = self.trouble, f"the cache {self.path} was left aside: {error}"
        if _is_damage(error):
            self.trouble += "; delete it, and the next run begins a new one"
        if self._connection.in_transaction:
            self._connection.rollback()
        if told is None:
            self._tell(self.trouble)


@contextmanager
def opened(folder: Path | None) -> Iterator[FeatureCache | None]:
    """The cache in `folder` until the block ends; None where there is to be none.

    Raises:
        OutputError: see `FeatureCache`.
    """
    if folder is None:
        yield None
        return
    with closing(FeatureCache(folder)) as cache:
        yield cache


def _is_damage(error: BaseException) -> TypeGuard[sqlite3.DatabaseError]:
    """Whether SQLite found something in the file that is none of its own."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _packed(key: bytes, features: Features) -> bytes:
    """A digest of all that follows and of the key, then both tensors as safetensors."""
    content = save({"pooled": features.pooled.cpu(), "tokens": features.tokens.cpu()})
    return _digest(key, content) + content


def _unpacked(key: bytes, value: bytes) -> Features | None:
    """The features; None of a value that is damaged."""
    digest, content = value[:_DIGEST_BYTES], value[_DIGEST_BYTES:]
    if digest != _digest(key, content):
        return None
    try:
        tensors = load(content)
        return Features(tensors["pooled"], tensors["tokens"])
    except (SafetensorError, KeyError):
        return None


def _digest(key: bytes, content: bytes) -> bytes:
    return hashlib.sha256(key + content).digest()[:_DIGEST_BYTES]
