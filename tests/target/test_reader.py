import drgn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.target import PhysStatus, Reader, ReadStatus
from mmdump.target.coverage import SegmentCoverage
from mmdump.target.reader import MAX_READ

PAGE = 64
BASE = 1 << 20
READ, ZERO, UNREADABLE, ERASED = ReadStatus
PLATFORM = drgn.Platform(drgn.Architecture.X86_64)


def contents(pages):
    return bytes(index * 7 % 251 + 1 for index in range(pages * PAGE))


def program(pages, holes, *, base=BASE, physical=False, memory=None):
    """A Program with memory at ``base``, of which some pages fault."""
    prog = drgn.Program(PLATFORM)
    memory = contents(pages) if memory is None else memory
    reads = []

    def read(address, count, offset, _physical):
        reads.append(count)
        if any(page in holes for page in range(offset // PAGE, -(-(offset + count) // PAGE))):
            raise drgn.FaultError("not in the dump", address)
        return memory[offset : offset + count]

    prog.add_memory_segment(base, len(memory), read, physical)
    return prog, memory, reads


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.data())
def test_reading_around_holes_equals_reading_page_by_page(pages, holes, data):
    prog, memory, reads = program(pages, holes)
    offset = data.draw(st.integers(-PAGE, pages * PAGE))
    size = data.draw(st.integers(0, (pages + 2) * PAGE))
    chunk = Reader(prog, PAGE).read(BASE + offset, size)
    bad = holes | {page for page in range(-3, 2 * pages + 6) if not 0 <= page < pages}
    expected = bytes(memory[byte] if byte // PAGE not in bad else 0 for byte in range(offset, offset + size))
    touched = range(offset // PAGE, -(-(offset + size) // PAGE)) if size else range(0)
    assert chunk.data.tobytes() == expected
    assert chunk.status.tolist() == [UNREADABLE if page in bad else READ for page in touched]
    assert chunk.complete == (UNREADABLE not in chunk.status)
    assert len(reads) <= 2 * len(touched) + 1


@given(st.integers(1, 200), st.integers(0, 30), st.sets(st.integers(0, 20)), st.integers(0, 63))
def test_a_row_has_the_worst_status_of_the_pages_it_touches(itemsize, count, holes, skew):
    prog, _, _ = program(20, holes)
    chunk = Reader(prog, PAGE).read(BASE + skew, 15 * PAGE)
    expected = []
    for row in range(count):
        first, last = row * itemsize, (row + 1) * itemsize - 1
        touched = range((first + skew) // PAGE, (last + skew) // PAGE + 1)
        expected.append(UNREADABLE if last >= 15 * PAGE or holes & set(touched) else READ)
    assert chunk.row_status(itemsize, count).tolist() == expected


def test_a_row_of_nothing_but_x_was_erased_by_makedumpfile():
    prog, _, _ = program(1, set(), memory=b"X" * 16 + b"X" * 15 + b"Y" + b"a" * 32)
    assert Reader(prog, PAGE).read(BASE, 64).row_status(16, 4).tolist() == [ERASED, READ, READ, READ]


@pytest.mark.parametrize("address", [-1, 0, 1 << 47, (1 << 64) - 10, 1 << 64, 1 << 200])
@pytest.mark.parametrize("size", [1, 20, PAGE * 3, MAX_READ + 1, 1 << 70])
def test_an_address_that_does_not_exist_is_unreadable_whatever_the_size(address, size):
    prog, _, _ = program(1, set())
    chunk = Reader(prog, PAGE).read(address, size)
    assert not chunk.complete
    assert (chunk.status == UNREADABLE).all()
    assert (chunk.row_status(8, 3) == UNREADABLE).all() or size > 8
    assert len(chunk.data) == (size if size <= MAX_READ else 0)


def test_reading_nothing_is_complete():
    prog, _, _ = program(1, set())
    chunk = Reader(prog, PAGE).read(BASE, 0)
    assert (chunk.complete, len(chunk.data), len(chunk.status)) == (True, 0, 0)


def coverage(*statuses):
    return SegmentCoverage([(n * PAGE, (n + 1) * PAGE, status) for n, status in enumerate(statuses)], PAGE)


def test_zeros_that_an_elf_core_does_not_have_are_zero_filled_and_its_own_are_not():
    memory = bytes(2 * PAGE) + b"a" * PAGE
    prog, _, _ = program(3, set(), memory=memory)
    present = coverage(PhysStatus.PRESENT, PhysStatus.ZERO_FILLED, PhysStatus.PRESENT)
    reader = Reader(prog, PAGE, present, (BASE, BASE + 3 * PAGE))
    assert reader.read(BASE, 3 * PAGE).status.tolist() == [READ, ZERO, READ]
    assert reader.read(BASE + 70, 10).status.tolist() == [ZERO]
    assert reader.read(BASE + PAGE - 1, PAGE + 2).status.tolist() == [READ, ZERO, READ]


def test_in_the_direct_map_only_pages_that_are_there_are_read():
    prog, memory, reads = program(5, {2, 3}, base=0, physical=True)
    known = coverage(
        PhysStatus.PRESENT, PhysStatus.PRESENT, PhysStatus.EXCLUDED, PhysStatus.TRUNCATED, PhysStatus.PRESENT
    )
    chunk = Reader(prog, PAGE, known, lambda: (BASE, BASE + 5 * PAGE)).read(BASE + 8, 5 * PAGE - 8)
    assert chunk.status.tolist() == [READ, READ, UNREADABLE, UNREADABLE, READ]
    assert chunk.data.tobytes() == memory[8 : 2 * PAGE] + bytes(2 * PAGE) + memory[4 * PAGE :]
    assert len(reads) == 2


def test_the_direct_map_is_looked_for_once_and_only_when_something_is_missing():
    calls = []
    prog, _, _ = program(3, {1})
    reader = Reader(prog, PAGE, coverage(PhysStatus.PRESENT), lambda: calls.append(1))
    reader.read(BASE, PAGE)
    assert not calls
    reader.read(BASE, 3 * PAGE)
    reader.read(BASE, 3 * PAGE)
    assert len(calls) == 1


def test_physical_memory_is_read_by_coverage():
    prog, _, _ = program(2, {1}, base=0, physical=True)
    known = coverage(PhysStatus.PRESENT, PhysStatus.EXCLUDED)
    assert Reader(prog, PAGE, known).read_physical(0, 2 * PAGE).status.tolist() == [READ, UNREADABLE]


def test_both_samples_agree_on_every_page_the_filter_left(sample):
    from mmdump.target import open_target

    elf, kdump = (open_target(path, symbols=[sample.vmlinux]) for path in (sample.elf, sample.kdump))
    size = 0x1FF00000 - 0x100000
    base = elf.prog["page_offset_base"].value_() + 0x100000
    first, second = elf.reader.read(base, MAX_READ), kdump.reader.read(base, MAX_READ)
    assert size > MAX_READ
    assert first.complete
    here = second.status == READ
    assert np.count_nonzero(here) == kdump.dump.coverage.status(256, MAX_READ // 4096).tolist().count(0)
    assert (first.data.reshape(-1, 4096)[here] == second.data.reshape(-1, 4096)[here]).all()
    assert not second.data.reshape(-1, 4096)[~here].any()
    # struct pages are never filtered, and lie outside the direct map.
    assert kdump.reader.read(kdump.prog["vmemmap_base"].value_(), 131040 * 64).complete
    assert not elf.reader.read(0, 8).complete
