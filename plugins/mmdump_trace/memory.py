"""Strings of the kernel, bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import printable
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.target import Reader

__all__ = ["bytes_at", "text_at"]


def bytes_at(reader: Reader, address: int, limit: int = 128) -> bytes | None:
    """The C string at an address, at most ``limit`` bytes of it; None where its beginning is missing."""
    if not address:
        return None
    chunk = reader.read(address, limit)
    data = chunk.data
    if not chunk.complete:
        lost = np.flatnonzero(chunk.status != ReadStatus.READ)
        data = data[: max(0, int(lost[0]) * chunk.page_size - address % chunk.page_size)]
        if not len(data):
            return None
    return data.tobytes().split(b"\0", 1)[0]


def text_at(reader: Reader, address: int, limit: int = 128) -> str | None:
    """The same, printable."""
    found = bytes_at(reader, address, limit)
    return None if found is None else printable(found)
