"""Rings of Android's page pinner that came around, that nobody cleared, that are garbage."""

from __future__ import annotations

import drgn
import pytest

from mmdump.errors import IncompleteError
from tests.snapshots.android_machines import (
    DIRECTORY,
    boot,
    check_events,
    in_the_way,
    kernel_of,
    pinner_of,
)
from tests.snapshots.decoded import Decoded


def test_a_ring_that_came_around_has_the_newest_and_says_so():
    kernel = kernel_of("B2")
    machine, pinner = boot(kernel)
    pinner.failures.size = 16
    in_the_way(machine, pinner, 30)
    decoded = Decoded(machine, kernel)
    assert check_events(decoded) == 16
    assert any("room for 16 records" in note for note in decoded.analysis("pinner-events").notes)
    assert decoded.file(DIRECTORY + "buffer_size") == b"16\n"


def slots(decoded: Decoded) -> tuple[int, int]:
    """Where the ring's slots are: physical address, and bytes of one."""
    buffer = pinner_of(decoded).failures.buffer
    return buffer, decoded.profile.types.sizeof("struct captured_pinner")


def fresh(count: int = 6) -> Decoded:
    kernel = kernel_of("B2")
    machine, pinner = boot(kernel)
    in_the_way(machine, pinner, count)
    return Decoded(machine, kernel)


def test_what_was_in_the_memory_before_is_no_record():
    """kvmalloc_array() does not clear: beyond the index only what can be true may be a record."""
    decoded = fresh()
    at, size = slots(decoded)
    memory = decoded.image.memory
    # The writer left the place before the first zero; a record that is nearly one.
    good = bytes(memory.read(at, size))
    types = decoded.profile.types
    for member, value in (("handle", 0x7FFFFFF0), ("pfn", 1 << 40), ("state", 7)):
        torn = bytearray(good)
        types.pack("struct captured_pinner", {member: value}, torn)
        memory.write(at + 4095 * size, bytes(torn))
        assert check_events(decoded) == 12
    # And one that was there before, of a ring that came around.
    memory.write(at + 4095 * size, good)
    events = decoded.analysis("pinner-events").tables["events"].frame
    assert len(events) == 13
    assert events["slot"].to_list() == [*range(11, -1, -1), 4095]


def test_a_record_that_cannot_be_true_is_left_out_and_counted():
    decoded = fresh()
    at, size = slots(decoded)
    decoded.image.memory.write(at + 3 * size, b"\xff" * size)
    result = decoded.analysis("pinner-events")
    assert len(result.tables["events"].frame) == 11
    assert result.incomplete == ("1 records of pp_buffer are garbage, and left out",)


@pytest.mark.parametrize(
    ("member", "value", "says"),
    [
        ("index", 1 << 20, "index 1048576 of 4096"),
        ("buffer", 0, "never allocated"),
        ("buffer", 0xFFFF_9000_0000_0000, "not in the dump"),
    ],
)
def test_a_ring_that_is_garbage_says_so(member, value, says):
    decoded = fresh()
    debug, types = decoded.image.vmlinux, decoded.profile.types
    link, _ = debug.variable("pp_buffer", "mm/page_pinner.c")
    at = decoded.image.addresses.kernel_phys(link) + types.offset("struct page_pinner_buffer", member)
    decoded.image.memory.write(at, value.to_bytes(8, "little"))
    result = decoded.analysis("pinner-events")
    assert says in " ".join(result.incomplete)
    assert not len(result.tables["events"].frame)
    with pytest.raises(IncompleteError, match=says):
        decoded.file(DIRECTORY + "buffer")


def test_a_long_pin_that_nobody_got_has_no_call_chain():
    """check_longterm_pin() of android12-5.10, of a page that only failed to migrate: its record is zero."""
    kernel = kernel_of("A2")
    machine, pinner = boot(kernel)
    [pfn] = in_the_way(machine, pinner, 1)
    with machine.running(machine.current, "get_user_pages_fast", "vb2_dc_get_userptr"):
        machine.gup.get(pfn)
    machine.clock.advance(1.0)
    machine.gup.put_user(pfn)
    pinner.records.handle[pfn] = pinner.records.ts_usec[pfn] = 0
    pinner.unset(pfn, 0)
    decoded = Decoded(machine, kernel)
    assert pinner.longterm is not None
    assert [bool(each.handle) for each in pinner.longterm.newest_first] == [False, True]
    # mmdump has both; the kernel's file ends at the first without a call chain.
    check_events(decoded)
    assert decoded.file(DIRECTORY + "longterm_pinner") == b""


def test_records_that_are_not_in_the_dump_are_counted():
    decoded = fresh(count=60)
    at, size = slots(decoded)
    prog = decoded.kernel.target.prog
    # The second page of the ring: of 120 records, those from the 74th on.
    hole = (at | 4095) + 1
    virtual = decoded.image.addresses.direct(hole)
    for address, physical in ((hole, True), (virtual, False)):
        prog.add_memory_segment(address, 4096, _fault, physical)
    result = decoded.analysis("pinner-events")
    events = result.tables["events"].frame
    lost = [place for place in range(120) if at + (place + 1) * size > hole]
    assert result.incomplete == (f"{len(lost)} records of pp_buffer are not in the dump",)
    assert events["slot"].to_list() == list(range(lost[0] - 1, -1, -1))
    with pytest.raises(IncompleteError, match="beyond the newest 0 records"):
        decoded.file(DIRECTORY + "buffer")


def _fault(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise drgn.FaultError("not there", address)


@pytest.mark.parametrize("size", [0, 1 << 40])
def test_a_size_that_is_garbage_says_so(size):
    decoded = fresh()
    link, _ = decoded.image.vmlinux.variable("pp_buf_size", "mm/page_pinner.c")
    at = decoded.image.addresses.kernel_phys(link)
    decoded.image.memory.write(at, size.to_bytes(8, "little"))
    result = decoded.analysis("pinner-events")
    assert "pp_buffer is garbage" in " ".join(result.incomplete)
