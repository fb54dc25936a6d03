"""Free page reporting: free blocks that the hypervisor already has back (mm/page_reporting.c, 5.7)."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump_page_reporting.analysis import Reported

__all__ = ["Reported"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump reported``."""
    return [Reported]
