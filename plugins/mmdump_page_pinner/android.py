"""Android's page pinner: which generation a kernel has, and what it keeps of each page (mm/page_pinner.c).

Android's common kernels have had one since 2021, before the RFC and after it. It marks pages by flags in
page_ext as the RFC does, keeps a ``struct page_pinner`` there for each page, and rings of what happened to
pages that were in the way. Its generations differ, and none says so: they are told apart by what is there.

==========  ==================================  ==========================================================
seen in     told by                             what it keeps
==========  ==================================  ==========================================================
early 2021  ``lt_pinner`` alone                 each page's last get; ring of pages that were held for long
            and ``acf_pinner``, ``page_mt``     and ring of what happened to pages that failed to migrate
12-5.10     ``acf_pinner``, ``mapcount``        the same, with what struct page said then
            ``lt_buffer``, ``acf_buffer``       and whether it was a failure, a put or the free
13          ``pp_buffer``                       no gets: the time of a page's first failure, and one ring
==========  ==================================  ==========================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.layout import enumerators, find_type
from mmdump.result import Column, Kind
from mmdump_page_pinner.marks import FAILED, GET, PAGE_PINNER, why_no_marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, Struct
    from mmdump.kernel.page import PageRange

__all__ = [
    "FILE",
    "PINNER_COLUMNS",
    "caveats",
    "decode_records",
    "is_on",
    "record_columns",
    "why_no_android_pinner",
]

#: Where its static variables are: some names are those of other files, too.
FILE = "mm/page_pinner.c"

#: Of a page's own record, for rows of pages.
PINNER_COLUMNS = (
    Column(
        "pinner_ts_nsec",
        Kind.NSEC,
        "Android: boottime of the last get_user_pages() (12), of the first failure to migrate (13 and newer)",
        in_text=False,
    ),
    Column(
        "pinner_gets", Kind.COUNT, "Android 12: gets by get_user_pages() since it was free", in_text=False
    ),
    Column("get_stack_id", Kind.ID, "Android 12: call chain of the last of them", in_text=False),
)

#: Times beyond this are garbage: 146 years.
_MAX_USEC = (1 << 62) // 1000


def why_no_android_pinner(kernel: Kernel) -> str | None:
    """Why this kernel has no page pinner of Android's that is on, in one sentence; None if it has."""
    if find_type(kernel.target.prog, "struct captured_pinner") is None:
        return "this kernel has no page pinner that keeps records (Android's common kernels have)"
    state = kernel.page_ext.client(PAGE_PINNER.name)
    if state is not None and state.built and not state.enabled and not state.unreadable:
        return "the page pinner was built in but is off: boot with page_pinner"
    return None


def is_on(kernel: Kernel) -> bool:
    """Whether pages have records of this page pinner."""
    return why_no_android_pinner(kernel) is None and kernel.page_ext.enabled(PAGE_PINNER.name)


def record_columns(pages: PageRange, rows: I64, handle_mask: int) -> dict[str, Struct]:
    """The records of some rows, for :func:`decode_records`; none where this kernel keeps none."""
    dtype = pages.ext.layout.dtype if pages.ext is not None else None
    if pages.ext is None or dtype is None or PAGE_PINNER.name not in (dtype.names or ()):
        return {}
    record = pages.ext[PAGE_PINNER.name].rows(rows)
    usec = record["ts_usec"].astype(np.uint64)
    usec[usec > _MAX_USEC] = 0
    columns: dict[str, Struct] = {"pinner_ts_nsec": usec * np.uint64(1000)}
    # Since Android 13 nobody writes the handle, and nobody counts. Where entries have no word for flags, they
    # are in the place of the handle.
    if GET in pages.ext.layout.flags and not pages.ext.layout.flags_overlaid:
        columns["pinner_gets"] = record["count"].astype(np.int64)
        columns["get_stack_id"] = (record["handle"] & np.uint32(handle_mask)).astype(np.int64)
    return columns


def decode_records(rows: pl.DataFrame) -> Sequence[pl.Series]:
    """:data:`PINNER_COLUMNS` of rows that have :func:`record_columns`; null where nothing was recorded."""
    found = []
    for column in PINNER_COLUMNS:
        if column.name in rows.columns:
            # 0 is what was never written, and a page without a get has no count either.
            found.append(rows[column.name].replace(0, None))
        else:
            dtype = pl.UInt64 if column.kind is Kind.NSEC else pl.Int64
            found.append(pl.Series(column.name, [None], dtype=dtype).new_from_index(0, len(rows)))
    return found


def caveats(kernel: Kernel, *, failed: bool, got: bool) -> list[str]:
    """What one must know of these marks to read them right.

    :param failed: Whether there are pages that failed to migrate.
    :param got: Whether there are pages that are marked as got.
    """
    if why_no_marks(kernel) is not None or not is_on(kernel):
        return []
    notes = []
    gets = GET in enumerators(kernel.target.prog, "enum page_ext_flags")
    if failed:
        notes.append(
            f"migration_failed ({FAILED}) is taken away when the page is freed, but of a larger block only "
            "from its first pages: a mark further in may be of the page's past."
        )
    if failed and not gets:
        notes.append("This kernel does not record who got a page: its records have times alone.")
    if got:
        notes.append(
            f"get ({GET}) stays until the page is freed, unless it was given back by put_user_page(): with "
            "excess beside it, get_stack_id is who got it last."
        )
    if kernel.page_ext.flags_overlaid and failed:
        notes.append(
            "page_ext of this kernel has no word for flags: the page pinner's lie over the data that its "
            "entries begin with."
        )
    return notes
