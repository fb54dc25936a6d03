"""The page pinner's flags in page_ext (mm/page_pinner.c of the RFC, and of Android)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.page_ext import PageExtClient

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import Bools
    from mmdump.kernel.page_ext import PageExtRange

__all__ = [
    "CLIENTS",
    "FAILED",
    "GET",
    "PAGE_PINNER",
    "RFC_FLAGS",
    "flagged",
    "marked",
    "marks_unreadable",
    "why_no_marks",
]

#: The flag of the RFC, and of its second version.
RFC_FLAGS = ("PAGE_EXT_PINNER", "PAGE_EXT_PIN_OWNER")
#: Android's: a page that could not be migrated for a contiguous allocation, and (12) one that
#: get_user_pages() took a reference of.
FAILED, GET = "PAGE_EXT_PINNER_MIGRATION_FAILED", "PAGE_EXT_GET"

#: The RFC's has no data of its own; Android's has a record for each page, see :mod:`.android`.
PAGE_PINNER = PageExtClient(
    "page_pinner",
    ops="page_pinner_ops",
    struct="struct page_pinner",
    enabled="page_pinner_inited",
    members={"handle": ("handle",), "ts_usec": ("ts_usec",), "count": ("count",)},
    optional=("handle", "ts_usec", "count"),
    flags=("PAGE_EXT_PINNER", FAILED, GET),
)

#: The RFC's second version renamed everything, and marks pages for every failed migration.
PAGE_PIN_OWNER = PageExtClient(
    "page_pin_owner",
    ops="page_pin_owner_ops",
    enabled="page_pin_owner_inited",
    flags=("PAGE_EXT_PIN_OWNER",),
)

CLIENTS = (PAGE_PINNER, PAGE_PIN_OWNER)


def marked(ext: PageExtRange) -> Bools:
    """Pages that the page pinner has marked.

    Its clearing loop stops at the first page without the mark, so a page in the middle of a freed block may
    keep one that means nothing any more: only references tell whether a page is held.
    """
    return flagged(ext, *RFC_FLAGS, FAILED)


def flagged(ext: PageExtRange, *names: str) -> Bools:
    """Pages with any of these flags, as far as this kernel has them."""
    found = np.zeros(len(ext.status), bool)
    for name in names:
        if name in ext.layout.flags:
            found |= ext.has_flag(name)
    return found


def marks_unreadable(kernel: Kernel) -> bool:
    """Whether this kernel may have marked pages, but the dump does not tell."""
    states = [kernel.page_ext.client(client.name) for client in CLIENTS]
    if any(state is not None and state.built and state.unreadable for state in states):
        return True
    return kernel.page_ext.garbage and any(state is not None and state.enabled for state in states)


def why_no_marks(kernel: Kernel) -> str | None:
    """Why this kernel marks no pages, in one sentence; None when it does."""
    states = [kernel.page_ext.client(client.name) for client in CLIENTS]
    built = [state for state in states if state is not None and state.built]
    if not built:
        return "this kernel has no page pinner (mainline never got it)"
    if any(state.unreadable for state in built):
        return "whether the page pinner is on could not be read"
    if kernel.page_ext.garbage:
        return "page_ext's layout in this dump is garbage"
    if not any(state.enabled for state in built):
        return "the page pinner was built in but is off: boot with page_pinner=on"
    return None
