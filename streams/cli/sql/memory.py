"""Bounds the memory of the process while a query runs.

DuckDB's own limit is about the data that it can write to a disk. Lists and long texts of a query are outside of it:
`SELECT len(range(25000000))` takes 1.8 GB with a limit of 30 MB. So the kernel refuses more address space.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

BESIDE: Final = 3 << 29
"""What is reserved beside the query's own memory, and mostly not used: stacks and heaps of the threads of librdkafka,
pyarrow and DuckDB."""
_STATM: Final = Path("/proc/self/statm")


@contextmanager
def bounded_memory(limit: int) -> Iterator[None]:
    """Let this process take up to ``limit`` bytes, and :data:`BESIDE`, more than it has now."""
    try:
        mapped = int(_STATM.read_text().split()[0]) * resource.getpagesize()
    except OSError:
        # Not Linux.
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [mapped + limit + BESIDE, *(one for one in (before, hard) if one != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
