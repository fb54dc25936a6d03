"""Large folios: how each is mapped, what its counters say, who maps it, and what splitting would free."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump_thp.analysis import Thp

__all__ = ["Thp"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump thp``."""
    return [Thp]
