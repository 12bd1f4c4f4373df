"""A lock that one run holds on what it writes."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from tagger.errors import LockedError


class Lock:
    """An advisory lock on a file, which the system gives back when the process dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._kind: int | None = None

    def take(self, shared: bool, patience: float) -> None:
        """Lock, or change from shared to exclusive and back; waits up to `patience` seconds.

        Raises:
            LockedError: another process holds it.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if kind == self._kind:
            return
        deadline = time.monotonic() + patience
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self._descriptor is None:
                    self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                # Let go first: two that share and both want it alone would wait for each other.
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
                if self._is_at_path():
                    self._kind = kind
                    return
                self.release()
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self.taken() from None
                time.sleep(0.05)

    def release(self, remove: bool = False) -> None:
        """Give the lock back, if it was taken; `remove` its file before that."""
        if self._descriptor is not None:
            if remove and self._is_at_path():
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = self._kind = None

    def taken(self) -> LockedError:
        """The error that says so."""
        return LockedError(
            f"another run is writing {self.path.parent}",
            "wait for it to end, or name another --out",
        )

    def _is_at_path(self) -> bool:
        """False where a run that just ended removed the file that was locked here."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor or 0))
