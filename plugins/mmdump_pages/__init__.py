"""The page array itself: its invariants, its rows as they are, and a map of memory."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.checks import Check
from mmdump.pagenotes import PageNotes
from mmdump_pages import checks_folio, checks_free, checks_zone
from mmdump_pages.analysis import Pages
from mmdump_pages.memory_map import MemoryMap
from mmdump_pages.notes import use_notes

__all__ = ["MemoryMap", "Pages"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump pages`` and ``mmdump map``."""
    return [MemoryMap, Pages]


@hookimpl
def mmdump_checks() -> list[type[Check]]:
    """What struct pages, zones and CMA areas say of each other."""
    return [*checks_free.CHECKS, *checks_folio.CHECKS, *checks_zone.CHECKS]


@hookimpl
def mmdump_page_notes() -> list[PageNotes]:
    """What single pages are used for."""
    return [PageNotes("use", use_notes)]
