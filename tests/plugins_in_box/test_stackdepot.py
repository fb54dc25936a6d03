"""page_owner's list of stacks, its files, and `mmdump stackdepot`, on a depot made by hand."""

from __future__ import annotations

import struct
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import drgn
import pytest

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.depot_gaps import SATURATED
from mmdump.kernel.depot_records import read_records
from mmdump_page_owner.depot import StackDepotAnalysis
from mmdump_page_owner.depot_tables import Depot as Found
from mmdump_page_owner.stack_files import STACK_FILES
from mmdump_page_owner.stack_list import read_stack_list
from tests.kernel.builders import Kernelish, client_state
from tests.kernel.depot_builders import Depot, chain

NODES = 0xFFFF888000900000
RODATA = 0xFFFFFFFF82000000
STRINGS = b"\0 %pS\n\0nr_base_pages: %d\n\0" + bytes(64)
FILES = {each.path.rsplit("/", 1)[-1]: each for each in STACK_FILES}
LOW, HIGH, NEVER = 3, 1000, 1


def listed(depot: Depot, rows: list[int], *, last: int = 0, holes: tuple[int, ...] = ()) -> Kernelish:
    """A kernel whose stack_list names these records, newest first; ``last`` is the next of the last node."""
    nodes = b""
    for index, row in enumerate(rows):
        after = NODES + 16 * (index + 1) if index + 1 < len(rows) else last
        nodes += struct.pack("<QQ", depot.address(row) if row >= 0 else 0, after)
    kernel = depot.kernel(*holes)
    kernel.add(NODES, nodes + bytes(16))
    kernel.add(RODATA, STRINGS)
    kernel.symbols |= {"__start_rodata": RODATA, "__end_rodata": RODATA + len(STRINGS)}
    void = kernel.prog.pointer_type(kernel.prog.void_type())
    node = kernel.struct("stack", 16, {"stack_record": (void, 0), "next": (void, 8)})
    kernel.objects["stack_list"] = drgn.Object(kernel.prog, kernel.prog.pointer_type(node), value=NODES)
    kernel.constant("page_owner_pages_threshold", 2)
    return kernel


def as_kernel(kernel: Kernelish, depot: Depot) -> Any:
    return SimpleNamespace(
        target=kernel.target,
        depot_records=read_records(kernel.reader, depot.layout, depot.state),
        depot_state=depot.state,
        stack_depot=SimpleNamespace(layout=depot.layout),
        symbols=SimpleNamespace(text=lambda address: f"f+{address & 0xFFFF:#x}/0x10"),
        memmap=SimpleNamespace(pages=131072),
        page_ext=SimpleNamespace(
            built=True,
            garbage=False,
            client=client_state,
            enabled=lambda _name: True,
        ),
    )


def three() -> Depot:
    depot = Depot()
    depot.add(chain(1, 2), count=1 + LOW)
    depot.add(chain(2, 3), count=1 + HIGH)
    depot.add(chain(3, 2), count=1 + NEVER)
    depot.add(chain(4, 2), count=SATURATED)
    return depot


def text(name: str, kernel: Any) -> str:
    return b"".join(FILES[name].read(kernel, cast("Any", None))).decode()


def test_stacks_are_shown_newest_first_down_to_the_threshold() -> None:
    depot = three()
    kernel = as_kernel(listed(depot, [2, 1, 0, -1]), depot)
    assert text("show_stacks", kernel) == (
        " f+0x2000/0x10\n f+0x2004/0x10\n f+0x2008/0x10\nnr_base_pages: 1000\n\n"
        " f+0x1000/0x10\n f+0x1004/0x10\nnr_base_pages: 3\n\n"
    )
    handles = kernel.depot_records.handle
    assert text("show_handles", kernel) == (
        f"handle: {handles[1]}\nnr_base_pages: 1000\n\nhandle: {handles[0]}\nnr_base_pages: 3\n\n"
    )
    assert text("count_threshold", kernel) == "2"


def test_stacks_with_handles_are_shown_whatever_their_pages() -> None:
    depot = three()
    kernel = as_kernel(listed(depot, [2]), depot)
    handle = kernel.depot_records.handle[2]
    assert text("show_stacks_handles", kernel) == f" f+0x3000/0x10\n f+0x3004/0x10\nhandle: {handle}\n\n"


def test_files_with_handles_are_those_of_kernels_that_know_the_type() -> None:
    depot = three()
    made = listed(depot, [0])
    kernel = as_kernel(made, depot)
    assert FILES["show_stacks"].why_not(kernel) is None
    assert "6.19" in str(FILES["show_handles"].why_not(kernel))
    made.struct("stack_print_ctx", 16, {})
    assert FILES["show_handles"].why_not(kernel) is None
    del made.objects["stack_list"]
    assert "6.9" in str(FILES["show_stacks"].why_not(kernel))


def test_a_list_that_leads_back_into_itself_is_printed_once_and_said() -> None:
    depot = three()
    made = listed(depot, [1, 0], last=NODES)
    found = read_stack_list(as_kernel(made, depot))
    assert found is not None
    assert (found.records.tolist(), found.loop, found.lost) == (
        [depot.address(1), depot.address(0)],
        True,
        False,
    )
    pieces = FILES["show_stacks"].read(as_kernel(made, depot), cast("Any", None))
    assert next(iter(pieces)).count(b"nr_base_pages") == 2
    with pytest.raises(IncompleteError, match="back into itself"):
        text("show_stacks", as_kernel(made, depot))


def test_a_list_that_leaves_the_dump_is_printed_up_to_there_and_said() -> None:
    depot = three()
    made = listed(depot, [1, 0], last=0xFFFF8880DEAD0000)
    with pytest.raises(IncompleteError, match="first 2 stacks"):
        text("show_stacks", as_kernel(made, depot))


def test_a_stack_that_is_not_in_the_depot_is_not_made_up() -> None:
    depot = three()
    depot.write(0, 24, "<I", 0xBAD)
    kernel = as_kernel(listed(depot, [1, 0]), depot)
    with pytest.raises(IncompleteError, match="1 of 2 stacks"):
        text("show_stacks", kernel)


def test_the_text_of_an_unknown_kernel_is_not_guessed() -> None:
    depot = three()
    made = listed(depot, [1])
    made.symbols["__end_rodata"] = RODATA + 8
    with pytest.raises(UnsupportedError):
        text("show_stacks", as_kernel(made, depot))


def analysed(depot: Depot, rows: list[int], *holes: int) -> Any:
    kernel = as_kernel(listed(depot, rows, holes=holes), depot)
    analysis = StackDepotAnalysis()
    assert not analysis.wants_pages(kernel)
    return analysis.finish(kernel, analysis.start(kernel), {})


def test_stacks_have_the_pages_that_the_kernel_counts() -> None:
    result = analysed(three(), [2, 1, 0])
    stacks = result.tables["stacks"].frame
    assert stacks["pages"].to_list() == [HIGH, LOW, NEVER, None]
    assert stacks["used_by"].to_list() == ["page_owner"] * 3 + ["uncounted"]
    assert stacks["bytes"][0] == HIGH * 4096
    row = result.tables["depot"].frame.row(0, named=True)
    assert (row["pages"], row["stacks_of_pages"], row["duplicates"]) == (1004, 3, 1001)
    assert (row["deepest"], row["pools"], row["bytes"]) == (3, 1, 16384)
    assert row["used_bytes"] == sum(room for *_, room in three().placed)
    assert row["saved_bytes"] == 131072 * 60 - 16384 - 8 * 16
    assert result.findings == []


def test_a_stack_that_is_counted_but_not_listed_is_page_owners_and_said() -> None:
    """6.18 and newer leave out stacks first seen where page_owner may not wait for a lock."""
    result = analysed(three(), [1, 0])
    stacks = result.tables["stacks"].frame
    assert stacks["pages"].to_list() == [HIGH, LOW, NEVER, None]
    assert stacks["listed"].to_list() == [True, True, False, False]
    [finding] = result.findings
    assert finding.key == "page-owner-unlisted"


def test_a_reference_count_of_somebody_elses_is_no_number_of_pages() -> None:
    depot = Depot()
    depot.add(chain(1, 2), count=7, room=544)
    depot.add(chain(2, 2), count=0, room=544)
    depot.add(chain(3, 2), count=5)
    stacks = analysed(depot, [2]).tables["stacks"].frame
    assert stacks["used_by"].to_list()[:1] == ["page_owner"]
    assert set(stacks["used_by"].to_list()[1:]) == {"refcounted", "free"}
    assert stacks["pages"].to_list() == [4, None, None]


def test_broken_records_are_shown_and_not_among_the_stacks() -> None:
    depot = three()
    depot.write(1, 20, "<I", 99)
    depot.write(2, 32, "<Q", 0x4141414141414141)
    result = analysed(depot, [2, 0])
    assert result.tables["stacks"].frame.height == 3
    broken = result.tables["broken"].frame
    assert set(broken["what"].to_list()) == {
        "a record of an impossible size",
        "frames that are not those of its hash",
        "the hash table leads here, and this is no record",
    }
    assert "stackdepot-broken" in [each.key for each in result.findings]


@pytest.mark.parametrize(
    ("limit", "offset", "key"), [(1, 16200, "stackdepot-full"), (1, 0, "stackdepot-nearly-full")]
)
def test_a_depot_without_room_is_a_finding(limit: int, offset: int, key: str) -> None:
    depot = three()
    kernel = as_kernel(listed(depot, [0, 1, 2]), depot)
    kernel.depot_state = replace(depot.state, limit=limit, pool_offset=offset or depot.offset)
    analysis = StackDepotAnalysis()
    result = analysis.finish(kernel, analysis.start(kernel), {})
    assert [each.key for each in result.findings] == [key]


def test_nothing_is_counted_twice_when_the_list_names_a_stack_twice() -> None:
    depot = three()
    kernel = as_kernel(listed(depot, [0, 1, 0]), depot)
    analysis = StackDepotAnalysis()
    state = analysis.start(kernel)
    assert isinstance(state.depot, Found)
    assert analysis.finish(kernel, state, {}).tables["depot"].frame["pages"].item() == 1004


def test_pages_that_have_the_failure_handle_lost_their_stacks() -> None:
    depot = three()
    made = listed(depot, [2, 1, 0])
    kernel = as_kernel(made, depot)
    kernel.stack_depot.layout = depot.layout
    made.constant("failure_handle", int(kernel.depot_records.handle[1]), 4)
    analysis = StackDepotAnalysis()
    result = analysis.finish(kernel, analysis.start(kernel), {})
    assert result.tables["stacks"].frame["used_by"][0] == "failure_handle"
    [finding] = result.findings
    assert (finding.key, "1,000" in finding.message) == ("stackdepot-lost-stacks", True)
