"""Pages that /sys/kernel/debug/gup_test pins for as long as it is asked to (mm/gup_test.c, 6.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from drgn import FaultError, Object

from mmdump.holders import Case, Counted, Holder, Owner, State
from mmdump.kernel.layout import c_string, find_object

if TYPE_CHECKING:
    from mmdump.kernel.files import OpenFile

__all__ = ["find_gup_test"]

_MAX_PAGES = 1 << 24


def find_gup_test(case: Case) -> Iterator[Holder]:
    """The array of ``PIN_LONGTERM_TEST_START``; there is one, whoever has the file open."""
    pages = find_object(case.prog, "pin_longterm_test_pages")
    count = find_object(case.prog, "pin_longterm_test_nr_pages")
    if pages is None or count is None or not pages:
        return
    start, total = int(pages.value_()), min(int(count.value_()), _MAX_PAGES)
    owners: list[Owner] | None = None
    for hit in case.within(start, 8 * total):
        index, inside = divmod(hit.address - start, 8)
        if inside:
            continue
        if owners is None:
            owners = [
                owner for file in case.files.rows if _is_gup_test(case, file) for owner in case.owners(file)
            ]
        what = f"page {index} of {total}"
        name = "/sys/kernel/debug/gup_test"
        yield Holder(hit, "gup_test", State.LIVE, what, name, start, owners, 1, Counted.PIN)


def _is_gup_test(case: Case, file: OpenFile) -> bool:
    """By its name: debugfs puts operations of its own before those of the file, in ways that change."""
    try:
        dentry = Object(case.prog, "struct dentry *", file.dentry)
        if case.prog.read_c_string(dentry.d_name.name.value_(), max_size=32) != b"gup_test":
            return False
        return c_string(dentry.d_sb.s_type.name) == "debugfs"
    except FaultError:
        return False
