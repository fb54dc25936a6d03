"""A machine on which it went wrong, for tests and for those who want to see it."""

import struct

from drgn.helpers.linux.mm import for_each_page

from mmdump.helpers import page_ext, page_ext_data
from mmdump_snapshots.model.mm import Mm

#: struct page_table_check, two atomic_t.
COUNTS = struct.Struct("<ii")
#: enum pagetype: a page in the buddy allocator, in the upper byte of page_type (6.11).
BUDDY = 0xF0


def map_pages(machine):
    """What happens: a process maps some memory."""
    with machine.running(machine.task("server", pid=300), "do_anonymous_page", "handle_mm_fault"):
        mm = Mm(machine, machine.current)
        area = mm.mmap(100)
        for slot in range(100):
            mm.fault(area, slot)


def count_mappings(image, rng):
    """What the model does not do itself: count mappings in page_ext. One of them is of a free page."""
    prog = image.program()
    ops = prog["page_table_check_ops"]
    planted = False
    for page in for_each_page(prog):
        count = page._mapcount.counter.value_()
        anonymous = page.mapping.value_() & 1
        counts = (count + 1, 0) if anonymous else (0, count + 1)
        if not planted and (count & 0xFFFFFFFF) >> 24 == BUDDY:
            planted, counts = True, (1, 0)
        elif count < 0:
            continue
        address = page_ext_data(page_ext(page), ops).value_()
        image.memory.write(image.addresses.phys(address), COUNTS.pack(*counts))
