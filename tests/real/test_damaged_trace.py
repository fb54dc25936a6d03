"""The trace of the real vmcore after something wrote over a part of it: a clear, partial result."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

import pytest
from drgn import FaultError
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import virt_to_phys

from mmdump.errors import IncompleteError, MmdumpError
from mmdump.info import info
from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.plugins import Plugins
from mmdump.scan import Ranges, run_one
from mmdump.target import open_target
from mmdump_trace import read_events
from mmdump_trace.layout import TraceLayout
from mmdump_trace.reading import open_trace
from tests.conftest import Sample


class Damaged:
    """A kernel whose memory can be written over, at virtual addresses, and where its trace lies in it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        trace = open_trace(kernel)
        self.layout: TraceLayout = trace.layout
        [*_, ring] = trace.source.ring.cpus
        self.pages: list[int] = ring.pages.tolist()
        self.cpu = ring.cpu
        prog = kernel.target.prog
        buffer = prog["global_trace"].array_buffer.buffer
        self.buffer: int = buffer.value_()
        self.cpu_buffer: int = buffer.buffers[self.cpu].value_()
        self.reader_page: int = buffer.buffers[self.cpu].reader_page.value_()
        self.first_page: int = buffer.buffers[self.cpu].pages.value_()

    def write(self, address: int, data: bytes) -> None:
        """Write over a part of memory."""

        def read(start: int, count: int, _offset: int, _physical: bool) -> bytes:
            return data[start - address : start - address + count]

        prog, physical = self.kernel.target.prog, virt_to_phys(self.kernel.target.prog, address).value_()
        prog.add_memory_segment(address, len(data), read)
        prog.add_memory_segment(
            physical,
            len(data),
            lambda start, count, *_: data[start - physical : start - physical + count],
            physical=True,
        )

    def remove(self, address: int, size: int) -> None:
        """Take a part of memory away."""

        def absent(start: int, _count: int, _offset: int, _physical: bool) -> bytes:
            raise FaultError("not there", start)

        prog, physical = self.kernel.target.prog, virt_to_phys(self.kernel.target.prog, address).value_()
        prog.add_memory_segment(address, size, absent)
        prog.add_memory_segment(physical, size, absent, physical=True)

    def at(self, structure: str, member: str, base: int) -> int:
        """Address of a member of one of the tracer's structures."""
        return base + getattr(self.layout, structure).fields[member][1]


@pytest.fixture
def damaged(sample: Sample, plugins: Plugins) -> Iterator[Damaged]:
    with open_target(sample.elf) as target:
        yield Damaged(Kernel(target, plugins.page_ext_clients()))


def _word(value: int) -> bytes:
    return struct.pack("<Q", value & (1 << 64) - 1)


def _counted(damaged: Damaged) -> tuple[int, list[str]]:
    found = read_events(damaged.kernel, ["page_pinner:*"])
    return len(found.frame), list(found.incomplete)


def _torn_page(damaged: Damaged) -> None:
    # Events that are longer than any page, one of which begins where the tenth page's fourth or fifth did.
    damaged.write(damaged.pages[10] + 16 + 400, struct.pack("<II", 0, 0x7FFFFFFC) * 32)


def _commit(damaged: Damaged) -> None:
    damaged.write(damaged.at("data_page", "commit", damaged.pages[10]), _word(5000))


def _list(damaged: Damaged) -> None:
    damaged.write(damaged.at("buffer_page", "next", damaged.first_page), _word(0xDEAD000000000100))


def _circle(damaged: Damaged) -> None:
    damaged.write(damaged.at("buffer_page", "next", damaged.first_page), _word(damaged.first_page))
    damaged.write(damaged.at("buffer_page", "prev", damaged.first_page), _word(damaged.first_page))


def _cpu_number(damaged: Damaged) -> None:
    damaged.write(damaged.at("cpu_buffer", "cpu", damaged.cpu_buffer), b"\x07\0\0\0")


def _counts(damaged: Damaged) -> None:
    damaged.write(damaged.at("cpu_buffer", "entries", damaged.cpu_buffer), _word(-5))


def _reader_page(damaged: Damaged) -> None:
    damaged.write(damaged.at("cpu_buffer", "reader_page", damaged.cpu_buffer), _word(0x1000))


def _commit_page(damaged: Damaged) -> None:
    damaged.write(damaged.at("cpu_buffer", "commit_page", damaged.cpu_buffer), _word(damaged.buffer))


def _order(damaged: Damaged) -> None:
    damaged.write(damaged.at("buffer", "subbuf_order", damaged.buffer), b"\xff\xff\xff\x7f")


def _table(damaged: Damaged) -> None:
    damaged.write(damaged.at("buffer", "buffers", damaged.buffer), _word(0x10))


@pytest.mark.parametrize(
    ("damage", "least", "words"),
    [
        (_torn_page, 900, "torn: events after the tear"),
        (_commit, 900, "garbage: they say that they hold more than fits"),
        (_list, 990, "list of"),
        (_circle, 1, "list of"),
        (_cpu_number, 0, "it says that it is CPU 7's"),
        (_counts, 994, "counts of its events are garbage"),
        (_reader_page, 994, "its reader's page is not in the dump"),
        (_commit_page, 994, "the page it last wrote to is not in its list"),
        (_order, 0, "sub-buffers of no size"),
        (_table, 0, "is not in the dump"),
    ],
    ids=lambda each: each.__name__.strip("_") if callable(each) else None,
)
def test_what_is_left_is_shown_and_what_is_wrong_is_said(
    damaged: Damaged, damage: Callable[[Damaged], None], least: int, words: str
) -> None:
    damage(damaged)
    count, incomplete = _counted(damaged)
    assert least <= count <= 994
    assert any(words in each for each in incomplete), incomplete


def test_the_file_shows_what_is_left_too(damaged: Damaged, plugins: Plugins) -> None:
    _torn_page(damaged)
    file = find_kernel_file(plugins.kernel_files(), "tracing/trace")
    pieces = []
    with pytest.raises(MmdumpError, match="torn"):
        pieces.extend(file.read(damaged.kernel, Ranges(damaged.kernel)))
    assert pieces
    assert 1800 < b"".join(pieces).count(b"[001]") < 1988


def test_a_page_that_the_dump_lacks_costs_its_events(damaged: Damaged) -> None:
    damaged.remove(damaged.pages[10], 4096)
    count, incomplete = _counted(damaged)
    assert 900 < count < 994
    assert incomplete == ["1 of 50 pages of the ring buffer are not in the dump: their events are missing"]


def test_events_of_unknown_types_are_shown_as_such(damaged: Damaged) -> None:
    page = damaged.pages[10]
    # The type of the first event, whose length may have a word of its own.
    header = damaged.kernel.target.prog.read(page + 16, 1)[0]
    damaged.write(page + (24 if header & 31 == 0 else 20), b"\xff\xff")
    found = read_events(damaged.kernel)
    odd = found.frame.with_row_index().filter(found.frame["event"] == "#65535")
    assert len(odd) == 1
    assert found.texts(odd["index"].to_list()).to_list() == ["Unknown type 65535"]


def test_a_print_format_of_garbage_leaves_the_fields(damaged: Damaged) -> None:
    event = next(iter(open_trace(damaged.kernel).formats.matching(["page_pinner_put"])))
    prog = damaged.kernel.target.prog
    calls = list_for_each_entry("struct trace_event_call", prog["ftrace_events"].address_of_(), "list")
    call = next(each for each in calls if each.event.type.value_() == event.type)
    damaged.write(call.print_fmt.value_(), b'"pfn=%d", (((REC->pfn\0')
    found = read_events(damaged.kernel, ["page_pinner_put"])
    [text] = found.texts([0]).to_list()
    assert text.startswith("pfn=0x1be11 (114193) flags=0x")
    assert text.endswith(" mt=0x5 (5)")


def test_pinned_goes_on_without_its_history(damaged: Damaged, plugins: Plugins) -> None:
    _cpu_number(damaged)
    result = run_one(damaged.kernel, plugins.analyses()["pinned"]())
    assert result.tables["groups"].frame["folios"].sum() >= 73
    assert any("trace: CPU" in each for each in result.incomplete)
    assert "timelines" not in result.tables


@pytest.mark.parametrize("seed", range(12))
def test_random_words_in_the_tracers_structures_are_survived(damaged: Damaged, seed: int) -> None:
    rng = random.Random(seed)
    places = [
        (damaged.buffer, 256),
        (damaged.cpu_buffer, 512),
        (damaged.first_page, 64),
        (damaged.reader_page, 64),
        *((page, 64) for page in damaged.pages[:4]),
    ]
    for _ in range(4):
        base, size = rng.choice(places)
        value = rng.choice((0, 1, -1, damaged.buffer, damaged.first_page, rng.getrandbits(64), 0x10000))
        damaged.write(base + rng.randrange(0, size, 8), _word(value))
    try:
        count, _ = _counted(damaged)
    except MmdumpError:
        return
    assert 0 <= count <= 994 * 2


def test_undamaged_it_is_whole(damaged: Damaged) -> None:
    assert _counted(damaged) == (994, [])


def test_a_torn_list_of_instances_does_not_hide_the_top_one(damaged: Damaged) -> None:
    head = damaged.kernel.target.prog["ftrace_trace_arrays"].address_
    assert head is not None
    damaged.write(head, _word(0x1000))
    assert _counted(damaged) == (994, [])
    with pytest.raises(IncompleteError, match="among those that could be read"):
        read_events(damaged.kernel, instance="other")


def test_a_trace_that_is_gone_is_said_to_be_so_beforehand(damaged: Damaged, plugins: Plugins) -> None:
    """By `mmdump info` too, which asks each analysis whether it can run."""
    prog = damaged.kernel.target.prog
    for name in ("ftrace_trace_arrays", "global_trace"):
        address = prog[name].address_ or 0
        damaged.remove(address & ~4095, 4096)
    words = "no trace instance could be found"
    with pytest.raises(IncompleteError, match=words):
        run_one(damaged.kernel, plugins.analyses()["trace"]())
    rows = info(damaged.kernel, plugins).tables["analyses"].frame
    assert rows.filter(analysis="trace").rows() == [("trace", False, words)]
