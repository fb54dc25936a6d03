"""Pages of a small machine, grouped by who allocated them."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.errors import UnsupportedError, UsageError
from mmdump.kernel.cma import CmaArea
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_ext import PageExtRange
from mmdump.kernel.stackdepot import StackStatus
from mmdump_page_owner import groups
from mmdump_page_owner.analysis import PageOwner
from tests.kernel.builders import ANON, DRIVER_MOVABLE, FILE, Ext, Memory, address
from tests.plugins_in_box.owned import analysed, kernel, record_members, rows

PIPE, FAULT, NET = 0x11, 0x12, 0x13
CHAINS = {
    PIPE: ("alloc_pages", "pipe_write", "vfs_write"),
    FAULT: ("alloc_pages", "do_anonymous_page", "exc_page_fault"),
    NET: ("alloc_pages", "rx_refill [mynic]", "net_rx_action"),
}
MACHINE = kernel(CHAINS)


def memory(ext: Ext, start: int = 0) -> PageRange:
    return Memory(len(ext.rows), start).pages(ext.range())


def machine_pages() -> PageRange:
    """16 pages: a pipe's (4, one block of order 1), page faults' (5, two tasks), a driver's, 6 without."""
    ext = Ext(16).own(0, handle=PIPE, comm=b"dd", pid=5).own(1, handle=PIPE, comm=b"dd", pid=5)
    ext.own(2, order=1, handle=PIPE, comm=b"cat", pid=6)
    for row in (4, 5, 6):
        ext.own(row, handle=FAULT, comm=b"fio", pid=7)
    for row in (7, 8):
        ext.own(row, handle=FAULT, comm=b"dd", pid=5)
    ext.own(9, handle=NET, comm=b"swapper/0", pid=0)
    ext.rows["page_owner"]["gfp_mask"][4:9] = 0x140CCA
    of = Memory(16)
    for row in range(4, 9):
        of.small(row, "PG_lru", "PG_swapbacked", mapping=ANON)
    return of.pages(ext.range())


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        (
            PageOwner(stack=("nosuchfunc",)),
            "No allocated page with a record passes this filter: --stack nosuchfunc.",
        ),
        (PageOwner(comm=("wrk",)), "No allocated page with a record passes this filter: --comm wrk."),
        (
            PageOwner(order=("99",), pid=("5", "6")),
            "No allocated page with a record passes all filters: --pid 5, --pid 6, --order 99.",
        ),
        (
            PageOwner(free=True, comm=("wrk",), by=("comm",)),
            "No freed page with a record passes this filter: --comm wrk.",
        ),
    ],
)
def test_filters_that_no_page_passes_are_named(asked: PageOwner, note: str) -> None:
    assert note in analysed(asked, MACHINE, machine_pages()).notes


@pytest.mark.parametrize("asked", [PageOwner(), PageOwner(free=True), PageOwner(comm=("dd",))])
def test_without_filters_or_with_pages_nothing_is_said_of_filters(asked: PageOwner) -> None:
    assert not [note for note in analysed(asked, MACHINE, machine_pages()).notes if "filter" in note]


def test_every_option_that_leaves_pages_out_is_a_filter() -> None:
    assert PageOwner().of_all_pages
    assert PageOwner(lines=True, by=("comm",)).of_all_pages
    assert not PageOwner(free=True).of_all_pages
    assert not PageOwner(until="1h").of_all_pages
    assert PageOwner(cma="*").filters == ["--cma"]


def test_pages_are_summed_by_call_chain_the_largest_first() -> None:
    result = analysed(PageOwner(), MACHINE, machine_pages())
    assert rows(result, "stack_id", "pages", "bytes", "allocations") == [
        (FAULT, 5, 5 * 4096, 5),
        (PIPE, 4, 4 * 4096, 3),
        (NET, 1, 4096, 1),
    ]
    assert rows(result, "orders", "migratetypes", "comms", "oldest_ts_nsec", "newest_ts_nsec") == [
        ([0], ["Movable"], ["fio", "dd"], 1004, 1008),
        ([0, 1], ["Unmovable"], ["cat", "dd"], 1000, 1002),
        ([0], ["Unmovable"], ["swapper/0"], 1009, 1009),
    ]
    assert result.tables["groups"].frame["frames"][1].to_list() == [
        "alloc_pages+0x10/0x20",
        "pipe_write+0x10/0x20",
        "vfs_write+0x10/0x20",
    ]
    assert result.summary == ["10 allocated pages (40 KiB) by 3 call chains, in 9 allocations"]
    assert list(result.findings) == []


@pytest.mark.parametrize(
    ("keys", "columns", "groups"),
    [
        ({"cull": ("pid",)}, ("pid", "pages"), [(7, 3), (5, 4), (6, 2), (0, 1)]),
        (
            {"cull": ("p,n",)},
            ("pid", "comm", "pages"),
            [(7, "fio", 3), (5, "dd", 4), (6, "cat", 2), (0, "swapper/0", 1)],
        ),
        (
            {"by": ("comm",)},
            ("comm", "pages", "stacks"),
            [("dd", 4, 2), ("fio", 3, 1), ("cat", 2, 1), ("swapper/0", 1, 1)],
        ),
        ({"by": ("order",)}, ("order", "pages"), [(0, 8), (1, 2)]),
        ({"by": ("migratetype",)}, ("migratetype", "pages"), [("Movable", 5), ("Unmovable", 5)]),
        ({"by": ("module",)}, ("module", "pages"), [(None, 9), ("mynic", 1)]),
        ({"by": ("kind",)}, ("kind", "pages"), [("anon", 5), ("kernel", 5)]),
        ({"by": ("gfp",)}, ("gfp_flags", "pages"), [("GFP_HIGHUSER_MOVABLE", 5), ("GFP_KERNEL", 5)]),
        ({"by": ("node",)}, ("node", "pages"), [(0, 10)]),
        (
            {"cull": ("ator",), "by": ("st",)},
            ("stack_id", "allocator"),
            [(FAULT, "others"), (PIPE, "others"), (NET, "others")],
        ),
    ],
)
def test_pages_are_summed_by_other_keys(keys, columns, groups) -> None:
    found = rows(analysed(PageOwner(**keys), MACHINE, machine_pages()), *columns)
    assert sorted(found, key=repr) == sorted(groups, key=repr)


@pytest.mark.parametrize(
    ("options", "pages"),
    [
        ({"pid": ("5",)}, 4),
        ({"pid": ("5,6", "7")}, 9),
        ({"tgid": ("6",)}, 2),
        ({"comm": ("d*",)}, 4),
        ({"comm": ("d*,fio",)}, 7),
        ({"order": ("1",)}, 2),
        ({"gfp": ("GFP_KERNEL",)}, 10),
        ({"gfp": ("movable",)}, 5),
        ({"gfp": ("movable,zero",)}, 0),
        ({"migratetype": ("movable",)}, 5),
        ({"kind": ("anon",)}, 5),
        ({"kind": ("user",)}, 5),
        ({"kind": ("kernel",)}, 5),
        ({"node": ("1",)}, 0),
        ({"zone": ("dma32",)}, 0),
        ({"pfn": ("0x4-8", "9")}, 6),
        ({"stack": ("pipe_write",)}, 4),
        ({"stack": ("*_write", "/^alloc/")}, 4),
        ({"stack": ("write",)}, 0),
        ({"stack": ("/_(write|fault)/", "exc_*")}, 5),
        ({"module": ("mynic",)}, 1),
        ({"module": ("my*,other",)}, 1),
        ({"pid": ("5",), "stack": ("pipe_write",)}, 2),
        ({"since": "@0.000001002", "until": "@0.000001005"}, 4),
    ],
)
def test_only_what_is_asked_for_is_counted(options, pages: int) -> None:
    for by in ((), ("comm",)):
        result = analysed(PageOwner(**options, by=by), MACHINE, machine_pages())
        assert result.tables["groups"].frame["pages"].sum() == pages
        assert result.summary[0].startswith(f"{pages} ")


def test_pages_of_a_cma_area_are_those_in_it() -> None:
    of = kernel(CHAINS, areas=[CmaArea("a", 4, 4, 0, 1), CmaArea("b", 9, 1, 0, 1)])
    assert rows(analysed(PageOwner(cma="a"), of, machine_pages()), "pages") == [(4,)]
    assert rows(analysed(PageOwner(cma="*", by=("cma",)), of, machine_pages()), "cma_area", "pages") == [
        ("a", 4),
        ("b", 1),
    ]
    with pytest.raises(UsageError, match="no CMA area c"):
        PageOwner(cma="c").start(of)
    with pytest.raises(UnsupportedError, match="no CMA area"):
        PageOwner(cma="*").start(MACHINE)


@pytest.mark.parametrize(
    "options",
    [
        {"cull": ("comm",)},
        {"by": ("colour",)},
        {"pid": ("x",)},
        {"pid": ("-1",)},
        {"order": ("",)},
        {"gfp": ("movable,colour",)},
        {"migratetype": ("Moveable",)},
        {"zone": ("DMA",)},
        {"kind": ("pages",)},
        {"pfn": ("9-4",)},
        {"since": "@soon"},
        {"stack": ("/(/",)},
        {"stack": ("",)},
        {"free": True, "kind": ("slab",)},
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options) -> None:
    with pytest.raises(UsageError):
        PageOwner(**options).start(MACHINE)


@pytest.mark.parametrize(
    ("options", "lacks", "words"),
    [
        ({"pid": ("1",)}, "pid", "5.11"),
        ({"by": ("tgid",)}, "tgid", "5.18"),
        ({"comm": ("dd",)}, "comm", "5.18"),
        ({"cull": ("name",)}, "comm", "5.18"),
        ({"since": "@1"}, "ts_nsec", "5.11"),
        ({"free": True}, "free_handle", "5.4"),
        ({"free": True, "pid": ("1",)}, "free_pid", "6.8"),
        ({"free": True, "until": "@1"}, "free_ts_nsec", "5.13"),
    ],
)
def test_what_this_kernel_does_not_record_is_an_error_that_says_since_when(options, lacks, words) -> None:
    with pytest.raises(UnsupportedError) as error:
        PageOwner(**options).start(kernel(CHAINS, page_ext=record_members(lacks)))
    assert words in str(error.value.hint)
    PageOwner(**options).start(MACHINE)


def test_how_old_pages_are_cannot_be_told_where_the_time_of_the_dump_is_unknown() -> None:
    with pytest.raises(UnsupportedError, match="when the dump was taken"):
        PageOwner(age="1h").start(MACHINE)


def test_which_memory_cgroup_is_charged_cannot_be_told_without_memcg_data() -> None:
    with pytest.raises(UnsupportedError, match="memory cgroup"):
        PageOwner(by=("memcg",)).start(MACHINE)


def test_a_kernel_that_records_neither_times_nor_tasks_has_none() -> None:
    layout = record_members("ts_nsec", "free_ts_nsec", "comm", "pid", "tgid", "free_pid", "free_tgid")
    ext = Ext(2).own(0, handle=PIPE).own(1, handle=PIPE)
    pages = Memory(2).pages(PageExtRange([ext.rows.view(np.uint8)], ext.status, layout))
    result = analysed(PageOwner(), kernel(CHAINS, page_ext=layout), pages)
    columns = ("pages", "oldest_ts_nsec", "newest_ts_nsec", "comms")
    assert rows(result, *columns) == [(2, None, None, None)]


def test_freed_pages_are_those_of_the_chain_that_freed_them() -> None:
    ext = Ext(8)
    for row in range(6):
        ext.own(row, handle=PIPE, comm=b"dd", pid=5)
    ext.free(0, handle=FAULT, pid=9, ts=70).free(1, handle=FAULT, pid=9, ts=90).free(
        2, handle=NET, pid=0, ts=80
    )
    of = memory(ext)
    result = analysed(PageOwner(free=True), MACHINE, of)
    assert rows(result, "stack_id", "pages", "oldest_ts_nsec", "newest_ts_nsec", "comms") == [
        (FAULT, 2, 70, 90, ["dd"]),
        (NET, 1, 80, 80, ["dd"]),
    ]
    assert rows(analysed(PageOwner(free=True, by=("pid",)), MACHINE, of), "pid", "pages") == [(9, 2), (0, 1)]
    assert rows(analysed(PageOwner(free=True, pid=("0",)), MACHINE, of), "pages") == [(1,)]
    assert rows(analysed(PageOwner(free=True, since="@0.000000085"), MACHINE, of), "pages") == [(1,)]
    assert rows(analysed(PageOwner(), MACHINE, of), "stack_id", "pages") == [(PIPE, 3)]


def test_a_page_that_is_allocated_again_is_not_free_whoever_freed_it_before() -> None:
    ext = Ext(2).own(0, handle=PIPE).own(1, handle=PIPE).free(0, handle=NET).free(1, handle=NET)
    ext.own(1, handle=FAULT)
    assert rows(analysed(PageOwner(free=True), MACHINE, memory(ext)), "stack_id", "pages") == [(NET, 1)]
    assert rows(analysed(PageOwner(), MACHINE, memory(ext)), "stack_id", "pages") == [(FAULT, 1)]


def test_neighbours_of_one_chain_may_be_of_any_age() -> None:
    ext = Ext(4)
    for row, ts in enumerate((70, 90, 50, 60)):
        ext.own(row, handle=PIPE)
        ext.rows["page_owner"]["ts_nsec"][row] = ts
    result = analysed(PageOwner(), MACHINE, memory(ext))
    assert rows(result, "pages", "oldest_ts_nsec", "newest_ts_nsec") == [(4, 50, 90)]


def test_a_group_without_a_name_has_tasks_too() -> None:
    result = analysed(PageOwner(by=("module",)), MACHINE, machine_pages())
    assert rows(result, "module", "comms")[0] == (None, ["dd", "fio", "cat"])


def test_a_tail_whose_head_lies_before_the_range_is_of_a_gigantic_page() -> None:
    start = 1 << 16
    of = Memory(4, start)
    for row in range(4):
        of.set(row, compound_head=address(0) + 1, _refcount=0)
    # What a wrong turn would find.
    of.small(3, "PG_lru", mapping=ANON).set(3, compound_head=0)
    ext = Ext(4).own(0, order=18, handle=PIPE)
    result = analysed(PageOwner(by=("kind",)), MACHINE, of.pages(ext.range()))
    assert sorted(rows(result, "kind", "pages")) == [("anon", 1), ("hugetlb", 3)]


def test_page_owners_own_handles_have_a_name_and_their_pages_are_a_finding() -> None:
    of = kernel(
        CHAINS, special={"early_handle": PIPE, "dummy_handle": FAULT, "failure_handle": 3 << 27 | NET}
    )
    result = analysed(PageOwner(), of, machine_pages())
    assert rows(result, "special", "pages") == [
        ("dummy_handle", 5),
        ("early_handle", 4),
        ("failure_handle", 1),
    ]
    found = {each.key: each for each in result.findings}
    assert sorted(found) == ["page-owner-dummy", "page-owner-early", "page-owner-failure"]
    assert found["page-owner-failure"].severity.value == "warning"
    assert found["page-owner-failure"].message.startswith(
        "1 page (4 KiB) has failure_handle in place of a call chain"
    )
    by_comm = analysed(PageOwner(by=("comm",), comm=("fio",)), of, machine_pages())
    assert [(each.key, each.table) for each in by_comm.findings] == [("page-owner-dummy", None)]


def test_pages_whose_handle_leads_to_no_record_are_in_no_sum() -> None:
    of = kernel(CHAINS, broken={PIPE: StackStatus.NOT_A_RECORD, NET: StackStatus.BAD_HANDLE})
    for analysis in (PageOwner(), PageOwner(by=("comm",))):
        result = analysed(analysis, of, machine_pages())
        assert result.tables["groups"].frame["pages"].sum() == 5
        assert result.summary[0].startswith("5 allocated pages")
        messages = [each.message for each in result.findings if each.key == "page-owner-broken-stack"]
        assert [message.split(" ha")[0] for message in messages] == [
            "1 page (4 KiB)",
            "4 pages (16 KiB)",
        ]


def test_a_chain_that_is_not_in_the_dump_still_owns_its_pages() -> None:
    result = analysed(PageOwner(), kernel(CHAINS, broken={FAULT: StackStatus.UNREADABLE}), machine_pages())
    assert rows(result, "pages", "frames")[0] == (5, [])
    assert list(result.incomplete) == ["1 call chain, of 5 pages (20 KiB), is not in the dump"]


def test_records_of_an_impossible_order_are_a_finding_and_in_no_sum() -> None:
    ext = Ext(3).own(0, handle=PIPE).own(1, handle=PIPE)
    ext.rows["page_owner"]["order"][1] = 60
    result = analysed(PageOwner(), MACHINE, memory(ext))
    assert rows(result, "pages") == [(1,)]
    assert [each.key for each in result.findings] == ["page-owner-garbage"]


def test_without_a_stack_depot_pages_are_summed_all_the_same() -> None:
    of = kernel(CHAINS)
    of.stack_depot = None
    result = analysed(PageOwner(), of, machine_pages())
    assert rows(result, "pages", "frames") == [(5, []), (4, []), (1, [])]
    assert any("stack depot was not found" in note for note in result.notes)


def test_text_of_the_dump_is_never_a_key_of_its_own() -> None:
    ext = Ext(2).own(0, handle=PIPE, comm=b"\x1b[31m").own(1, handle=PIPE, comm=b"null")
    result = analysed(PageOwner(by=("comm",)), MACHINE, memory(ext))
    assert sorted(rows(result, "comm", "pages")) == [("\\x1b[31m", 1), ("null", 1)]


def test_what_a_scan_needs_is_plain_data() -> None:
    state = PageOwner(pid=("1",), comm=("d*",), by=("zone", "module")).start(MACHINE)
    assert pickle.loads(pickle.dumps(state)) == state


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2), st.sampled_from([b"a", b"b"])), max_size=40))
def test_sums_do_not_depend_on_how_memory_is_cut(pages: list[tuple[int, int, bytes]]) -> None:
    ext = Ext(max(len(pages), 1))
    for row, (handle, pid, comm) in enumerate(pages):
        ext.own(row, handle=handle, pid=pid, comm=comm)
    of = kernel({handle: (f"f{handle}",) for handle in range(1, 7)})
    pieces = []
    for at in range(0, len(ext.rows), 7):
        part = Ext(len(ext.rows[at : at + 7]))
        part.rows[:] = ext.rows[at : at + 7]
        pieces.append(memory(part, at))
    for analysis in (PageOwner(), PageOwner(by=("pid", "comm"))):
        whole, cut = analysed(analysis, of, memory(ext)), analysed(analysis, of, *pieces)
        assert whole.tables["groups"].frame.equals(cut.tables["groups"].frame)
        assert whole.tables["groups"].frame["pages"].sum() == len(pages)


def test_groups_beyond_a_limit_are_lumped_and_no_page_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_MAX_SUMS", 40)
    ext = Ext(300)
    for row in range(200):
        ext.own(row, handle=1 + row, pid=row, comm=b"c%d" % row)
    for row in range(200, 300):
        ext.own(row, handle=1000, comm=b"big")
    of = kernel({handle: (f"f{handle}",) for handle in [*range(1, 201), 1000]})
    result = analysed(PageOwner(), of, memory(ext))
    found = result.tables["groups"].frame
    assert len(found) <= 40
    assert found["pages"].sum() == 300
    assert rows(result, "stack_id", "pages")[:2] == [(None, 181), (1000, 100)]
    assert any("181 pages of the smallest" in note for note in result.notes)


def test_a_page_of_the_page_cache_is_no_kernel_memory() -> None:
    ext = Ext(7)
    for row in range(7):
        ext.own(row, handle=PIPE)
    of = (
        Memory(7)
        .small(6, mapping=DRIVER_MOVABLE)
        .small(0, "PG_lru", mapping=FILE)
        .small(1, "PG_reserved")
        .small(2)
        .typed(3, "slab")
    )
    of.typed(4, "table").small(5, "PG_lru")
    result = analysed(PageOwner(by=("kind",)), MACHINE, of.pages(ext.range()))
    assert dict(rows(result, "kind", "pages")) == {
        **dict.fromkeys(("file", "reserved", "kernel", "slab", "table"), 1),
        "other": 2,
    }


def test_a_tail_is_what_its_head_is() -> None:
    ext = Ext(8).own(0, order=2, handle=PIPE).own(4, order=2, handle=FAULT)
    of = Memory(8).large(0, 2, mapping=ANON).large(4, 2)
    result = analysed(PageOwner(by=("kind",)), MACHINE, of.pages(ext.range()))
    assert rows(result, "kind", "pages", "allocations") == [("anon", 4, 1), ("kernel", 4, 1)]


def test_vmalloc_is_told_as_page_owner_sort_tells_it() -> None:
    of = kernel(
        {
            1: (
                "post_alloc_hook",
                "alloc_pages_bulk_noprof",
                "__vmalloc_node_range_noprof",
                "dup_task_struct",
            ),
            2: ("post_alloc_hook", "vm_area_alloc", "__vmalloc_node_range_noprof"),
            3: ("__vmalloc_node_range_noprof", "alloc_pages"),
        }
    )
    ext = Ext(3).own(0, handle=1).own(1, handle=2).own(2, handle=3)
    pages = Memory(3).pages(ext.range())
    result = analysed(PageOwner(cull=("st,ator",)), of, pages)
    assert sorted(rows(result, "stack_id", "allocator")) == [(1, "vmalloc"), (2, "others"), (3, "others")]


def test_a_cma_page_of_a_slab_is_both() -> None:
    ext = Ext(2).own(0, handle=PIPE).own(1, handle=PIPE)
    of = Memory(2).typed(0, "slab")
    blocks = dataclasses.make_dataclass("Blocks", [])()
    blocks.of_pages = lambda pfn: np.array([4, 0], np.uint8)[pfn]
    blocks.of_range = lambda start, end: np.array([4, 0], np.uint8)[start:end]
    result = analysed(PageOwner(by=("allocator",)), MACHINE, of.pages(ext.range(), blocks))
    assert sorted(rows(result, "allocator", "pages")) == [("cma|slab", 1), ("others", 1)]
