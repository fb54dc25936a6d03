import random
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdump.errors import OpenError
from mmdump.target import PhysStatus, inspect_dump
from mmdump.target.coverage import SegmentCoverage
from mmdump.target.flattened import FlattenedSource
from mmdump.target.overlay import overlay

from . import builders
from .builders import PAGE, elf_core, flatten, kdump, note

A = b"A" * PAGE
PRESENT, ZERO, EXCLUDED, TRUNCATED, ABSENT = PhysStatus


def statuses(path, count):
    return inspect_dump(path).coverage.status(0, count).tolist()


def noise(seed):
    return random.Random(seed).randbytes(PAGE)


def test_the_tail_of_a_segment_that_is_not_in_an_elf_file_is_zero_filled(write):
    assert statuses(write(elf_core([(PAGE, A, 2 * PAGE)])), 4) == [ABSENT, PRESENT, ZERO, ABSENT]


def test_a_page_past_the_end_of_a_truncated_elf_dump_is_truncated(write):
    dump = inspect_dump(write(elf_core([(PAGE, A * 2, 2 * PAGE)])[:-1]))
    assert dump.coverage.status(1, 2).tolist() == [PRESENT, TRUNCATED]
    assert "1 bytes of memory are past its end" in dump.truncated


def test_a_later_segment_hides_an_earlier_one(write):
    path = write(elf_core([(PAGE, b"", 3 * PAGE), (2 * PAGE, A, PAGE)]))
    assert statuses(path, 5) == [ABSENT, ZERO, PRESENT, ZERO, ABSENT]


def test_two_segments_that_meet_within_a_page_make_it_present(write):
    path = write(elf_core([(PAGE, A[:100], 100), (PAGE + 100, A[100:], PAGE - 100)]))
    assert statuses(path, 3) == [ABSENT, PRESENT, ABSENT]


def test_segments_may_be_more_than_the_header_can_count(write):
    assert statuses(write(elf_core([(PAGE, A, PAGE)], xnum=True)), 2) == [ABSENT, PRESENT]


def test_a_segment_at_the_end_of_the_address_space_does_not_wrap(write):
    dump = inspect_dump(write(elf_core([(2**64 - PAGE - 16, A, 2**64 - 1), (PAGE, A, PAGE)])))
    assert dump.coverage.status(0, 2).tolist() == [ABSENT, PRESENT]


def test_a_ram_page_that_a_kdump_leaves_out_is_excluded(write):
    dump = inspect_dump(write(kdump({1: A, 3: noise(1)}, ram=[1, 2, 3], level=16, max_mapnr=5)))
    assert dump.coverage.status(0, 6).tolist() == [ABSENT, PRESENT, EXCLUDED, PRESENT, ABSENT, ABSENT]
    assert dump.coverage.counts() == {PRESENT: 2, ZERO: 0, EXCLUDED: 1, TRUNCATED: 0, ABSENT: 2}
    assert (dump.describe(), dump.writer) == ("kdump-compressed (zlib), filter level 16", "makedumpfile")


def test_zero_pages_that_share_one_descriptor_leave_no_doubt_about_excluded_pages(write):
    pages = {1: bytes(PAGE), 2: bytes(PAGE)}
    assert statuses(write(kdump(pages, ram=[3], level=31)), 4) == [ABSENT, PRESENT, PRESENT, EXCLUDED]


def test_a_missing_page_may_be_zero_where_zero_pages_were_filtered_out(write):
    assert statuses(write(kdump({1: A}, ram=[2], level=1)), 3) == [ABSENT, PRESENT, ZERO]


def test_a_page_past_the_end_of_a_truncated_kdump_is_truncated(write):
    dump = inspect_dump(write(kdump({1: noise(1), 2: noise(2)}, ram=[3])[:-1]))
    assert dump.coverage.status(0, 4).tolist() == [ABSENT, PRESENT, TRUNCATED, EXCLUDED]
    assert dump.coverage.counts()[TRUNCATED] == 1
    assert "truncated" in dump.describe()


def test_a_kdump_cut_off_within_its_descriptors_has_no_pages(write):
    raw = kdump({1: noise(1), 2: noise(2)})
    assert statuses(write(raw[: len(raw) - 2 * PAGE - 24]), 3)[2] == TRUNCATED


def test_makedumpfile_says_itself_that_a_dump_is_incomplete(write):
    assert "incomplete" in inspect_dump(write(kdump({1: A}, status=8))).truncated


@pytest.mark.parametrize("raw", [kdump({1: A}, level=31), elf_core([(PAGE, A, PAGE)])], ids=["kdump", "elf"])
def test_a_flattened_dump_is_what_it_was_before(write, raw):
    plain, flat = inspect_dump(write(raw)), inspect_dump(write(flatten(raw), "flat"))
    assert flat.format == "flattened"
    assert flat.container == plain.format
    assert flat.vmcoreinfo == plain.vmcoreinfo
    assert flat.coverage.counts() == plain.coverage.counts()


def test_a_flattened_dump_without_its_end_is_truncated(write):
    assert "no end" in inspect_dump(write(flatten(kdump({1: A}), end=False))).truncated


def with_erase_info(raw, size):
    """A kdump whose sub header claims erase information at the start of the file."""
    at = PAGE + struct.calcsize("<QiiQQqQqQq")
    return raw[:at] + struct.pack("<Q", size) + raw[at + 8 :]


def elf_core_with_notes_over_each_other(count):
    """A small core of which many segments claim to be the same large note."""
    size = 1 << 16
    offset = 64 + 56 * count
    header = elf_core([])[:56] + struct.pack("<HHHH", count, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, size, size, 0)
    return header + segment * count + note(b"VMCOREINFO", 0, builders.VMCOREINFO).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"hello", "not an ELF core or kdump file"),
        (b"EMiL" + bytes(100), "LiME"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed with zstd"),
        (elf_core([], kind=2), "not a core dump"),
        (elf_core([], note(b"CORE", 3, bytes(136))), "user process"),
        (elf_core([], note(b"QEMU", 0, bytes(16))), "QEMU guest's core without VMCOREINFO"),
        (elf_core([], note(b"CORE", 1, bytes(16))), "without a VMCOREINFO note"),
        (elf_core([])[:90], "program headers"),
        (elf_core([])[:20], "header is cut off"),
        (kdump({1: A})[:300], "header is cut off"),
        (kdump({1: A})[:4500], "ends within its kdump headers"),
        (
            kdump({1: A}).replace(struct.pack("<Q", len(builders.VMCOREINFO)), b"\0\0\0\x40\0\0\0\0"),
            "past the end",
        ),
        (kdump({1: A})[: 4 * PAGE], "bitmaps"),
        (kdump({1: A}, max_mapnr=1 << 50), "number of pages"),
        (kdump({1: A}).replace(b"=", b"-"), "has no VMCOREINFO"),
        (kdump({1: A}, split=1), "one part of a dump"),
        (with_erase_info(kdump({1: A}), 1 << 24), "past the end"),
        (elf_core_with_notes_over_each_other(5000), "notes are larger"),
        (flatten(b"")[:-16] + struct.pack(">qqB", 0, 1, 0) * (1 << 20 | 8), "too many records"),
        (flatten(b"nothing"), "not an ELF core or kdump file"),
        (flatten(kdump({1: A}))[:100], "cut off"),
    ],
)
def test_what_cannot_be_opened_is_explained(write, raw, message):
    with pytest.raises(OpenError) as caught:
        inspect_dump(write(raw))
    assert message in caught.value.message


def test_a_dump_of_a_32_bit_kernel_is_named_as_such(write):
    raw = bytearray(kdump({1: A}))
    struct.pack_into("<IiiII", raw, 412, 0, PAGE, 1, 2, 2)
    with pytest.raises(OpenError, match="32-bit"):
        inspect_dump(write(bytes(raw)))


def test_a_descriptor_in_the_middle_that_leads_nowhere_loses_its_page(write):
    raw = bytearray(kdump({pfn: noise(pfn) for pfn in range(1, 6)}))
    table = len(raw) - sum(len(noise(pfn)) for pfn in range(1, 6)) - 24 * 5
    struct.pack_into("<Q", raw, table + 24 * 2, 1 << 40)
    dump = inspect_dump(write(bytes(raw)))
    assert "the descriptors of 1 page lead past its end" in dump.truncated
    assert "damaged" in dump.describe()
    assert dump.coverage.status(1, 5).tolist() == [PRESENT, PRESENT, TRUNCATED, PRESENT, PRESENT]


def test_a_bitmap_with_a_page_too_few_is_noticed(write):
    raw = bytearray(kdump({1: noise(1), 2: noise(2)}))
    assert inspect_dump(write(bytes(raw))).truncated is None
    dumped = len(raw) - 2 * PAGE - 2 * 24 - PAGE
    assert raw[dumped] == 0b110
    raw[dumped] = 0b100
    assert "does not fit" in inspect_dump(write(bytes(raw))).truncated


def test_a_directory_and_a_missing_file_are_no_dumps(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(OpenError):
            inspect_dump(path)


def test_a_file_that_has_no_end_cannot_be_read():
    """A device or a file of /proc, where to seek to the end is an error."""
    with pytest.raises(OpenError, match=r"/proc/self/mem: cannot be read \(Invalid argument\)"):
        inspect_dump("/proc/self/mem")


SEGMENTS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 80), st.sampled_from([PRESENT, ZERO, TRUNCATED])),
    max_size=8,
)


@given(SEGMENTS, st.integers(-3, 20), st.integers(0, 40))
def test_coverage_equals_a_model_with_one_status_per_byte(segments, first, count):
    page = 16
    model = [ABSENT] * 1000
    for start, length, status in segments:
        model[start : start + length] = [status] * length
    expected = [
        max(model[pfn * page : (pfn + 1) * page]) if pfn >= 0 else ABSENT
        for pfn in range(first, first + count)
    ]
    ranges = [(start, start + length) for start, length, _ in segments]
    pieces = [(piece.start, piece.end, segments[piece.number][2]) for piece in overlay(ranges)]
    coverage = SegmentCoverage(pieces, page)
    assert coverage.status(first, count).tolist() == expected
    assert sum(coverage.counts().values()) == coverage.end_pfn


@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)), st.integers(0, 90), st.integers(0, 120))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_bitmaps_of_a_kdump_are_read_bit_by_bit(write, dumped, ram, first, count):
    dump = inspect_dump(write(kdump(dict.fromkeys(dumped, A), ram=ram | {99}, max_mapnr=100)))
    expected = [
        PRESENT if pfn in dumped else EXCLUDED if pfn in ram | {99} else ABSENT
        for pfn in range(first, first + count)
    ]
    assert dump.coverage.status(first, count).tolist() == expected


class Memory:
    def __init__(self, raw):
        self.raw, self.size = raw, len(raw)

    def pread(self, offset, size):
        return self.raw[offset : offset + size]


@given(st.binary(min_size=1), st.integers(1, 50), st.integers(0, 120), st.integers(0, 120))
def test_unflattening_gives_back_what_was_flattened(raw, size, offset, length):
    source = FlattenedSource(Memory(flatten(raw, size)))
    assert source.pread(0, len(raw)) == raw
    assert source.pread(offset, length) == raw[offset : offset + length]
    assert not source.truncated


def test_a_record_written_again_replaces_the_first_one():
    header = flatten(b"", end=False)
    records = struct.pack(">qq", 0, 4) + b"abcd" + struct.pack(">qq", 1, 2) + b"XY"
    assert FlattenedSource(Memory(header + records)).pread(0, 4) == b"aXYd"


DUMPS = {
    "elf": elf_core([(PAGE, A, 2 * PAGE)]),
    "kdump": kdump({1: A, 2: bytes(PAGE), 5: A}, ram=[3], level=31),
    "flattened": flatten(kdump({1: A}, ram=[3], level=31)),
}


@pytest.mark.parametrize("kind", DUMPS)
def test_a_damaged_dump_is_read_or_refused_but_never_breaks(write, kind):
    generator = random.Random(kind)
    for _ in range(400):
        raw = bytearray(DUMPS[kind])
        for _ in range(generator.randint(1, 4)):
            # Most of the meaning is in the first bytes of each header.
            start = generator.choice([0, 12, 64, 400, PAGE, PAGE + 40, generator.randrange(len(raw))])
            raw[min(start + generator.randrange(60), len(raw) - 1)] = generator.choice(
                [0, 1, 0x7F, 0x80, 0xFF]
            )
        if generator.random() < 0.3:
            del raw[generator.randrange(len(raw)) :]
        try:
            dump = inspect_dump(write(bytes(raw)))
            dump.coverage.counts()
            dump.coverage.status(0, 100)
        except OpenError as error:
            assert "vmcore" in error.message  # noqa: PT017


def test_the_samples_are_described_as_they_were_taken(sample):
    elf = inspect_dump(sample.elf)
    assert (elf.describe(), elf.writer, elf.coverage.counts()[PRESENT]) == ("ELF core", "QEMU", 135200)
    lzo = inspect_dump(sample.kdump)
    assert lzo.describe() == "kdump-compressed (lzo), filter level 31"
    assert lzo.vmcoreinfo == elf.vmcoreinfo
    assert lzo.coverage.counts() == {PRESENT: 23524, ZERO: 0, EXCLUDED: 107516, TRUNCATED: 0, ABSENT: 32}
    assert np.count_nonzero(lzo.coverage.status(0, 131072) == PRESENT) == 23524
