"""The C library's allocator, told to keep the memory that one step frees for the next."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of the parameters in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Blocks of up to 1 GiB come from the heap, and the heap stays as large as it once was.

    By default glibc takes each tensor of megabytes from the system and gives it back, and the
    system fills it with zeros page by page: with a mobile tower that was a third of the time of a
    training step, with ViT-B/32 up to a tenth of a prediction's. Whether it could be told so:
    not where the C library is another one.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30) and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))
