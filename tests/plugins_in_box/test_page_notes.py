"""``mmdump page``: what is known of a page, from the core and from plugins that may fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

import mmdump_pages
from mmdump import hookimpl
from mmdump.errors import IncompleteError, MmdumpError, UsageError
from mmdump.kernel import Kernel
from mmdump.kernel.page import PageRange
from mmdump.pageinfo import page_info
from mmdump.pagenotes import AskedPages, Fact, PageNotes, Section
from mmdump.pagewords import PageWord, find_page
from mmdump.plugins import LoadedPlugin, Plugins, load_plugins
from mmdump.render import Query, RenderOptions, open_renderer
from mmdump.result import Kind, Result
from mmdump_snapshots.kernels import profile, profiles
from mmdump_snapshots.scenarios import SCENARIOS

BY_NAME = {each.name: each for each in SCENARIOS}


def plugins_of_box() -> Plugins:
    plugins = load_plugins(disabled=["*"])
    if "pages" not in {each.name for each in plugins.found}:
        plugins.register(mmdump_pages, LoadedPlugin("pages", "here", "mmdump_pages", own=True))
    return plugins


BOX = plugins_of_box()


def machine(scenario: str = "cma-failure", kernel: str = "6.12") -> Kernel:
    return Kernel(BY_NAME[scenario].image(profile(kernel)).target(), BOX.page_ext_clients())


def rows(pages: PageRange, which: np.ndarray) -> list[int]:
    return (np.flatnonzero(which) + pages.start).tolist()


def facts(result: Result, pfn: int) -> dict[tuple[str, str], str]:
    frame = result.tables["facts"].frame.filter(pfn=pfn)
    return {
        (section, fact): value
        for section, fact, value in frame.select("section", "fact", "value").iter_rows()
    }


def asked(kernel: Kernel, *pfns: int, plugins: Plugins = BOX) -> Result:
    return page_info(kernel, plugins, [PageWord(pfn, f"PFN {pfn:#x}") for pfn in pfns])


@pytest.mark.parametrize("name", profiles())
def test_a_page_of_each_sort_says_what_it_is_on_every_kernel(name: str) -> None:
    kernel = machine(kernel=name)
    found: dict[str, int] = {}
    for start, end in kernel.memmap.chunks():
        pages = kernel.pages(start, end)
        for what, which in (
            ("the first page of a free block", pages.is_buddy),
            ("in a free block", pages.in_free_block & ~pages.is_buddy),
            ("the head of a folio", pages.is_head),
            ("a tail of a folio", pages.is_tail),
            ("reserved", pages.has_flag("PG_reserved")),
            ("a single page, in use", pages.has_flag("PG_lru") & ~pages.is_head),
        ):
            for pfn in rows(pages, which)[:1]:
                found.setdefault(what, pfn)
    assert len(found) >= 4
    result = asked(kernel, *found.values())
    assert not result.incomplete
    for what, pfn in found.items():
        assert facts(result, pfn)["page", "is"] == what
        assert facts(result, pfn)["place", "zone"] in {zone.name for zone in kernel.zones}


def test_a_held_page_in_a_cma_area_names_its_owner_area_and_evidence() -> None:
    kernel = machine()
    [area] = kernel.cma_areas
    from mmdump.scan import run_one
    from mmdump_page_pinner import Pinned

    held = run_one(kernel, Pinned(cma="*")).tables["pages"].frame.filter(state="held")
    row = held.row(0, named=True)
    known = facts(asked(kernel, row["pfn"]), row["pfn"])
    assert known["place", "CMA area"] == area.name
    assert known["place", "pageblock type"] == row["migratetype"]
    assert known["owner", "comm"] == row["owner_comm"]
    assert known["owner", "state"] == "allocated"
    assert known["references", "references"] == str(row["refcount"])
    assert known["references", "excess"] == str(row["excess"])
    assert known["pinned", "evidence"] == ", ".join(row["evidence"])
    stack = asked(kernel, row["pfn"]).tables["facts"].frame.filter(section="owner")["frames"].drop_nulls()
    assert stack.to_list()[0]


def test_on_a_terminal_of_80_columns_each_frame_of_a_call_chain_has_a_line() -> None:
    kernel = machine()
    from mmdump.scan import run_one
    from mmdump_page_pinner import Pinned

    held = run_one(kernel, Pinned(cma="*")).tables["pages"].frame.filter(state="held")
    result = asked(kernel, held["pfn"][0])
    out = BytesIO()
    renderer = open_renderer("text", out, RenderOptions(Query(limit=0), width=80))
    renderer.finish(result)
    lines = out.getvalue().decode().splitlines()
    (chain,) = (
        row["frames"]
        for row in result.tables["facts"].frame.iter_rows(named=True)
        if row["fact"].startswith("allocated by")
    )
    assert len(chain) > 3
    assert set(lines) >= {f"      {frame}" for frame in chain}
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue().decode()


def test_a_tail_speaks_of_its_folio() -> None:
    kernel = machine("thp")
    [(start, end)] = list(kernel.memmap.chunks())[:1]
    pages = kernel.pages(start, end)
    tail = next(
        pfn
        for pfn in rows(pages, pages.is_tail)
        if pages.folio_order[pages.head_pfn[pfn - start] - start] > 3
    )
    known = facts(asked(kernel, tail), tail)
    head = int(pages.head_pfn[tail - start])
    assert known["folio", "head"] == f"{head:#x}"
    assert known["folio", "tail number"] == str(tail - head)
    assert known["references", "references"] == str(pages.refcount[head - start])


def test_a_page_on_a_cpus_list_is_free() -> None:
    kernel = machine("leak")
    stock = kernel.per_cpu_pages
    assert len(stock.pfn)
    pfn = int(stock.pfn[0])
    known = facts(asked(kernel, pfn), pfn)
    assert known["free", "in"] == f"the per-CPU list of CPU {stock.cpu[0]}"


# Words


def test_every_sort_of_word_leads_to_the_page() -> None:
    kernel = machine()
    shift, pfn = kernel.target.page_shift, 0x3001
    memmap = kernel.memmap
    for word in (
        str(pfn),
        f"{pfn:#x}",
        f"phys:{(pfn << shift) + 7:#x}",
        f"{memmap.address(pfn):#x}",
        f"{memmap.address(pfn) + 8:x}",
    ):
        assert find_page(kernel, word).pfn == pfn, word
    direct = find_page(kernel, f"phys:{(pfn << shift) + 0x123:#x}").address
    assert direct is not None
    again = find_page(kernel, f"{direct:#x}")
    assert (again.pfn, again.address) == (pfn, direct)


@pytest.mark.parametrize(
    "word",
    ["", "zz", "-1", "phys:", "phys:zz", "0x", "1" * 30, f"{1 << 60}", "phys:0xffffffffffff0000", "1.5"],
)
def test_a_word_that_is_no_page_is_a_clear_error(word: str) -> None:
    with pytest.raises(UsageError) as error:
        find_page(machine(), word)
    assert error.value.hint


def test_a_task_that_does_not_exist_is_a_clear_error() -> None:
    with pytest.raises(MmdumpError):
        find_page(machine(), "0x400000", 4242)


# The hook


def plugin(read: Callable[[Kernel, AskedPages], Mapping[int, Sequence[Section]]]) -> Plugins:
    plugins = Plugins()
    module = SimpleNamespace(mmdump_page_notes=hookimpl(lambda: [PageNotes("mine", read)]))
    plugins.register(module, LoadedPlugin("mine", "here", "mine"))
    return plugins


def test_a_plugin_is_asked_once_about_all_pages_and_its_facts_stand_in_their_place() -> None:
    calls = []

    def read(kernel: Kernel, pages: AskedPages) -> dict[int, list[Section]]:
        calls.append(pages.pfns)
        facts = [Fact("count", 3, Kind.COUNT), Fact("size", 4096, Kind.BYTES), Fact("chain", ["a", "b"])]
        return {pfn: [Section("mine", facts, rank=1)] for pfn in (*pages.pfns, 99999)}

    result = asked(machine(), 5, 3, 5, plugins=plugin(read))
    assert calls == [(3, 5)]
    frame = result.tables["facts"].frame
    assert frame["pfn"].unique().sort().to_list() == [3, 5]
    mine = frame.filter(section="mine", pfn=3)
    assert mine["value"].to_list() == ["3", "4 KiB", ""]
    assert mine["number"].to_list() == [3, 4096, None]
    assert mine["frames"].to_list() == [None, None, ["a", "b"]]
    order = frame.filter(pfn=3)["section"].unique(maintain_order=True).to_list()
    assert order.index("page") < order.index("mine") < order.index("place")


def _raises(kernel: Kernel, pages: AskedPages) -> dict[int, list[Section]]:
    raise ZeroDivisionError("mine is broken")


def _explains(kernel: Kernel, pages: AskedPages) -> dict[int, list[Section]]:
    raise IncompleteError("mine is not in the dump")


@pytest.mark.parametrize(
    ("read", "said", "failed"),
    [
        (_raises, "plugin mine failed: ZeroDivisionError: mine is broken", True),
        (_explains, "plugin mine: mine is not in the dump", False),
        (lambda *_: None, "plugin mine failed: AttributeError", True),
        (lambda *_: {3: ["text"]}, "plugin mine failed: TypeError", True),
    ],
)
def test_a_plugin_that_fails_is_named_and_the_rest_is_shown(
    read: Callable[..., dict[int, list[Section]]], said: str, failed: bool
) -> None:
    plugins = plugin(read)
    result = asked(machine(), 3, plugins=plugins)
    assert result.incomplete[0].startswith(said)
    assert [each.name for each in plugins.failed] == ["mine"] * failed
    assert facts(result, 3)["page", "pfn"] == "0x3"


def test_garbage_in_the_dump_is_said_and_is_no_traceback() -> None:
    for seed in range(6):
        kernel = Kernel(
            BY_NAME["corrupted"].image(profile("6.12"), seed=seed).target(), BOX.page_ext_clients()
        )
        try:
            pfns = [
                start + step for start, end in kernel.memmap.chunks() for step in range(0, end - start, 997)
            ]
            result = asked(kernel, *pfns)
        except MmdumpError:
            continue
        assert not [each for each in result.incomplete if "failed" in each], result.incomplete
