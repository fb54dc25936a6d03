"""``mmdump page`` and ``mmdump check`` on the real vmcore."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mmdump_page_owner
import mmdump_pages
from mmdump.checking import CheckRun
from mmdump.errors import UsageError
from mmdump.kernel import Kernel
from mmdump.pageinfo import page_info
from mmdump.pagewords import PageWord, find_page
from mmdump.plugins import LoadedPlugin, Plugins
from mmdump.scan import run_one
from tests.conftest import Sample
from tests.real import truth


@pytest.fixture(scope="module")
def box(plugins: Plugins) -> Plugins:
    if "pages" not in {each.name for each in plugins.found}:
        plugins.register(mmdump_pages, LoadedPlugin("pages", "here", "mmdump_pages", own=True))
    return plugins


def known(kernel: Kernel, box: Plugins, word: str, pid: int | None = None) -> dict[tuple[str, str], object]:
    found = find_page(kernel, word, pid)
    result = page_info(kernel, box, [found])
    assert not result.incomplete
    rows = result.tables["facts"].frame.select("section", "fact", "value", "frames").iter_rows()
    return {(section, fact): frames or value for section, fact, value, frames in rows}


def test_a_healthy_machine_breaks_no_invariant(kernel: Kernel) -> None:
    checks = [*mmdump_pages.mmdump_checks(), *mmdump_page_owner.mmdump_checks()]
    result = run_one(kernel, CheckRun([check() for check in checks]))
    assert result.summary == [f"All of {len(checks)} invariants hold."]
    assert not result.tables["violations"].frame.height
    assert not result.incomplete


def test_a_user_address_leads_to_the_page_that_the_process_saw_there(kernel: Kernel, sample: Sample) -> None:
    text = sample.truth("truth.txt").decode()
    places = re.findall(r"^thp parent pid=(\d+) idx=(\d) va=(0x[0-9a-f]+) pfn=(0x[0-9a-f]+)", text, re.M)
    assert len(places) == 8
    for pid, number, address, pfn in places:
        # The last page of each: of two of them the first half was unmapped, and the seventh khugepaged
        # has since put together anew for this process, while its child keeps the old one.
        last = f"{int(address, 16) + 511 * 4096 + 7:#x}"
        found = find_page(kernel, last, int(pid)).pfn
        assert (found == int(pfn, 16) + 511) == (number != "6")
        if number in "45":
            with pytest.raises(UsageError, match="nothing is mapped"):
                find_page(kernel, address, int(pid))


def test_a_number_that_looks_like_a_user_address_is_said_to(kernel: Kernel) -> None:
    for word, looks in (("0x7f4b61994000", True), ("0x555500000000", True), ("0x40000000", False)):
        with pytest.raises(UsageError, match="has no struct page") as caught:
            find_page(kernel, word)
        assert ("user address: --pid PID" in (caught.value.hint or "")) == looks
    with pytest.raises(UsageError) as caught:
        find_page(kernel, "phys:0x7f4b61994000")
    assert "--pid" not in (caught.value.hint or "")


def test_a_held_page_names_who_allocated_it_and_that_it_is_held(
    kernel: Kernel, box: Plugins, workload: truth.Workload, owner_text: dict[int, truth.Record]
) -> None:
    pfn = min(workload.gup_test)
    facts = known(kernel, box, f"{pfn:#x}")
    record = owner_text[pfn]
    assert facts["owner", "comm"] == record.comm
    assert facts["owner", "pid"] == str(record.pid)
    [(label, stack)] = [
        (fact, value) for (section, fact), value in facts.items() if fact.startswith("allocated by")
    ]
    assert stack == list(record.stack)
    # As column STACK_ID of the tables has it.
    number = re.fullmatch(r"allocated by \(stack (\d+)\)", label)
    assert number is not None
    assert kernel.stack_depot is not None
    frames = kernel.stack_depot.stack(int(number[1])).frames
    assert [kernel.symbols.text(address) for address in frames] == stack
    assert facts["pinned", "held"] == "yes, by something"
    assert "FOLL_PIN" in str(facts["references", "by"])
    assert facts["place", "pageblock type"] == "CMA" or facts["place", "zone"] == "DMA32"


def test_slab_pages_name_a_cache_and_page_cache_pages_a_file(kernel: Kernel, box: Plugins) -> None:
    caches, paths, mapped = set(), set(), set()
    for start, end in kernel.memmap.chunks():
        pages = kernel.pages(start, end)
        lru = pages.has_flag("PG_lru") & (pages.refcount > 0)
        for rows in (np.flatnonzero(pages.is_type("slab"))[::97], np.flatnonzero(lru)[::997]):
            words = [PageWord(int(row) + start, "") for row in rows[:20]]
            if not words:
                continue
            frame = page_info(kernel, box, words).tables["facts"].frame
            caches |= set(frame.filter(section="slab", fact="cache")["value"])
            paths |= set(frame.filter(fact="path in it")["value"])
            mapped |= {each for row in frame.filter(fact="mapped at")["frames"].drop_nulls() for each in row}
    assert {"kmalloc", "dentry", "kernfs_node_cache"} & {re.sub(r"-\d+k?$", "", each) for each in caches}
    assert all(re.fullmatch(r"[\w:-]+", each) for each in caches), caches
    assert "/file" in paths
    if "lzo" not in str(kernel.target.path):
        assert any(each.endswith("of work 70") or " work 70" in each for each in mapped)
