"""Whether something is at a path, also where the system does not tell."""

from __future__ import annotations

import shlex
from pathlib import Path

from tagger.errors import TaggerError


def is_there(path: Path, kind: type[TaggerError]) -> bool:
    """`path.exists()`, to be asked once of each path that a user names, before anything else is
    asked of it.

    Raises:
        kind: a folder that may not be searched, a name that is too long, links in a circle.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise kind(
            f"{path} cannot be looked up: {error.strerror}",
            f"see what is in the way: namei -l {shlex.quote(str(path))}",
        ) from error
    return True
