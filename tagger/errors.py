"""The exception tree; each class is one exit code of the command line.

    TaggerError
    |-- UsageError        2   an option or a combination of options
    |-- CatalogError      3   the catalog: no such file, wrong column, no rows, unreadable
    |-- ModelError        4   a model directory: missing, damaged, not trained, unknown task
    |-- TrainingError     5   nothing to learn from, or a checkpoint that does not fit
    |-- OutputError       6   the output cannot be written
    |-- WeightsError      7   tower weights cannot be had (offline, unknown tag)
    |-- DiskFullError     8   no room left for the output; what is finished is kept
    |-- LockedError       9   another run is writing the same output
    |-- CatalogChangedError  10  the catalog was written to during the run
    |-- TooManyFailuresError 11  more products failed than --max-failures allows
    |-- OtherRunError     12   the output holds another run: other input, model or options
    |-- DriftError        13   a feed is not like the products that the model was fitted on
    |-- ExportError       14   an export does not answer as its source does
    |-- NotExportableError 15  a model that the format, or what runs it, cannot take
    `-- TaxonomyError   16  a taxonomy or mapping file: a cycle, an orphan, a duplicate, an unknown
                            label

A signal ends a command with 128 + its number: SIGINT 130, SIGTERM 143, a closed pipe 141.
Anything else that escapes is a bug and keeps its traceback (exit code 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from signal import Signals
from typing import ClassVar


class TaggerError(Exception):
    """An error the user can repair.

    `message` says what, where and the offending value; `hint` is the next thing to type or do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TaggerError):
    exit_code = 2


class CatalogError(TaggerError):
    exit_code = 3


class ModelError(TaggerError):
    exit_code = 4


class TrainingError(TaggerError):
    exit_code = 5


class OutputError(TaggerError):
    exit_code = 6


class WeightsError(TaggerError):
    exit_code = 7


class DiskFullError(TaggerError):
    exit_code = 8


class LockedError(TaggerError):
    exit_code = 9


class CatalogChangedError(TaggerError):
    exit_code = 10


class TooManyFailuresError(TaggerError):
    exit_code = 11


class OtherRunError(TaggerError):
    exit_code = 12


class DriftError(TaggerError):
    exit_code = 13


class ExportError(TaggerError):
    exit_code = 14


class NotExportableError(TaggerError):
    exit_code = 15


class TaxonomyError(TaggerError):
    exit_code = 16


class StoppedError(BaseException):
    """A signal that ends the command; not an Exception, so that nothing on the way catches it.

    `hint` is what to type to go on.
    """

    hint = "finished work is kept: run the same command again"

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.exit_code = 128 + signal
        self.message = f"stopped by {Signals(signal).name}"


def listing(names: Sequence[str], limit: int = 12) -> str:
    """`names` as one readable line, cut after `limit` of them."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "none"


def closest(name: str, names: Sequence[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of `names`, or the empty string."""
    matches = get_close_matches(name, names, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
