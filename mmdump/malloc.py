"""What is asked of the C library's allocator."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["keep_freed_memory"]

#: malloc.h of glibc; musl has no mallopt().
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 64 << 20


def keep_freed_memory() -> None:
    """Ask malloc to keep what is freed, up to some dozen MiB, instead of returning it to the kernel.

    Who goes through memory range by range reads or makes a few MiB in new memory, and frees them again. glibc
    would get and return that from the kernel each time: the page faults cost three times as much as the
    reading itself (measured).
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
