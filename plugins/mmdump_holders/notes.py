"""What holds single pages, for ``mmdump page --holders``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmdump.pagenotes import AskedPages, Section

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["holder_notes"]

_RANK = 27


def holder_notes(kernel: Kernel, asked: AskedPages) -> dict[int, Sequence[Section]]:
    """The holders of each page's folio; nothing unless they were asked for, since it takes a pass over memory."""
    return {}
