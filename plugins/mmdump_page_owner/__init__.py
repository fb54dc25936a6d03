"""page_owner: who allocated each page (kernel: mm/page_owner.c)."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernel.page_ext import PageExtClient
from mmdump_page_owner.analysis import PageOwner
from mmdump_page_owner.record import PAGE_OWNER, Owners, why_no_owner

__all__ = ["PAGE_OWNER", "Owners", "PageOwner", "why_no_owner"]


@hookimpl
def mmdump_page_ext_clients() -> list[PageExtClient]:
    """The client that keeps an allocation record for each page."""
    return [PAGE_OWNER]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump page-owner``."""
    return [PageOwner]
