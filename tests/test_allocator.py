"""Memory that one step frees is there for the next, without asking the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource
import numpy as np
from tagger.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(1 << 23)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = faults()
assert keep_freed_memory()
np.ones(1 << 23)
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    without, kept = map(int, ran.stdout.split())
    assert kept < without / 10, ran.stderr
