"""``mmdump check``: silent on healthy machines of every kernel; each kind of damage is found and named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import mmdump_page_owner
import mmdump_pages
from mmdump.checking import CheckRun
from mmdump.checks import Broken, Check, Violations
from mmdump.errors import MmdumpError, UsageError
from mmdump.kernel import Kernel
from mmdump.kernel.page import PageRange
from mmdump.plugins import load_plugins
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_snapshots.kernels import profile, profiles
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image

BOX = load_plugins(disabled=["*"])
CHECKS = [check() for check in (*mmdump_pages.mmdump_checks(), *mmdump_page_owner.mmdump_checks())]
BY_NAME = {each.name: each for each in SCENARIOS}
NAMES = {check.name for check in CHECKS}


def checked(image: Image, checks: Sequence[Check] = CHECKS) -> Result:
    kernel = Kernel(image.target(), BOX.page_ext_clients())
    return run_one(kernel, CheckRun(checks))


def broken(result: Result) -> dict[str, int]:
    """Violations by check."""
    rows = result.tables["checks"].frame.filter(state="broken")
    return dict(rows.select("check", "violations").iter_rows())


def pages_of(result: Result, check: str) -> list[int]:
    return result.tables["violations"].frame.filter(check=check)["pfn"].to_list()


# Healthy


@pytest.mark.parametrize("name", ["cma-failure", "balloon", "thp", "fragmentation", "early-boot"])
@pytest.mark.parametrize("kernel", profiles())
def test_a_healthy_machine_breaks_no_invariant(kernel: str, name: str) -> None:
    scenario = BY_NAME[name]
    if profile(kernel).version < scenario.since:
        pytest.skip("cannot happen to this kernel")
    result = checked(scenario.image(profile(kernel)))
    assert broken(result) == {}
    assert not result.incomplete
    assert not result.findings
    assert result.summary[0].startswith("All of ")


# Damaged


@dataclass
class Machine:
    """A machine whose page array can be written to."""

    image: Image
    kernel: Kernel
    pages: PageRange

    @classmethod
    def after(cls, scenario: str, kernel: str) -> Machine:
        image = BY_NAME[scenario].image(profile(kernel))
        read = Kernel(image.target(), BOX.page_ext_clients())
        start, end = max(read.memmap.chunks(), key=lambda chunk: chunk[1] - chunk[0])
        return cls(image, read, read.pages(start, end, ext=True))

    def address(self, pfn: int) -> int:
        size = self.kernel.memmap.page_size
        [found] = [
            phys + (pfn - start) * size for start, end, phys in self.image.page_array if start <= pfn < end
        ]
        return found

    def write(self, pfn: int, member: str, value: int) -> None:
        """Overwrite a member of a struct page."""
        dtype, offset = self.pages.layout.dtype.fields[member][:2]
        word = (value & ((1 << 8 * dtype.itemsize) - 1)).to_bytes(dtype.itemsize, "little")
        self.image.memory.write(self.address(pfn) + offset, word)

    def write_folio(self, head: int, name: str, value: int) -> None:
        """Overwrite what lies beyond the first page of a folio."""
        field = self.pages.layout.folio[name]
        raw = np.array([value]).astype(field.dtype).tobytes()
        self.image.memory.write(self.address(head) + field.offset, raw)

    def physical(self, address: int) -> int:
        """The physical address of memory in the direct map."""
        from drgn.helpers.linux.mm import virt_to_phys

        return int(virt_to_phys(self.kernel.target.prog, address).value_())

    def write_ext(self, pfn: int, name: str, value: int) -> None:
        """Overwrite the flags word of a page_ext entry, or a member of its page_owner record."""
        layout, sections = self.kernel.page_ext, self.kernel.memmap.sections
        [(row, _, _)] = sections.pieces(pfn, pfn + 1)
        entry = int(sections.page_ext[row]) + layout.stride * pfn & ((1 << 64) - 1)
        dtype, offset = layout.dtype.fields["flags"][:2]
        if name != "flags":
            record, at = layout.dtype.fields["page_owner"][:2]
            dtype, offset = record.fields[name][0], at + record.fields[name][1]
        self.image.memory.write(self.physical(entry + offset), value.to_bytes(dtype.itemsize, "little"))

    def owned(self) -> int:
        """A page of order 0 in use that page_owner says is allocated."""
        pages = self.pages
        record = pages.ext["page_owner"]
        known = (record["handle"] != 0) & (record["order"] == 0) & pages.ext.has_flag("PAGE_EXT_OWNER")
        rows = np.flatnonzero(known & (pages.refcount == 1) & ~pages.is_head & ~pages.has_flag("PG_reserved"))
        return int(rows[len(rows) // 2]) + pages.start

    def free_block(self, least: int = 1) -> int:
        """A free block of at least this order."""
        pages = self.pages
        rows = np.flatnonzero(pages.is_buddy & (pages.buddy_order >= least))
        return int(rows[len(rows) // 2]) + pages.start

    def folio(self, least: int = 2) -> int:
        """A large folio of user memory, mapped."""
        pages = self.pages
        rows = np.flatnonzero(pages.is_head & (pages.folio_order >= least) & ((pages.mapping & 1) != 0))
        rows = rows[pages.refcount[rows] > 0]
        return int(rows[0]) + pages.start

    def check(self) -> Result:
        return checked(self.image)


def _refcount(machine: Machine) -> int:
    machine.write(machine.free_block() + 1, "_refcount", 1)
    return machine.free_block() + 1


def _flag(machine: Machine) -> int:
    pfn = machine.free_block()
    machine.write(
        pfn,
        "flags",
        int(machine.pages.flags[pfn - machine.pages.start]) | machine.pages.layout.mask("PG_dirty"),
    )
    return pfn


def _reported(machine: Machine) -> int:
    pfn = machine.free_block() + 1
    word = int(machine.pages.flags[pfn - machine.pages.start]) | machine.pages.layout.mask("PG_reported")
    machine.write(pfn, "flags", word)
    return pfn


def _order(machine: Machine) -> int:
    machine.write(machine.free_block(), "private", 60)
    return machine.free_block()


def _misplaced(machine: Machine) -> int:
    pages = machine.pages
    rows = np.flatnonzero(pages.is_buddy & (pages.buddy_order < 3) & (pages.pfn % 8 != 0))
    pfn = int(rows[0]) + pages.start
    machine.write(pfn, "private", 3)
    return pfn


def _overlap(machine: Machine) -> int:
    block = machine.free_block()
    word = int(machine.pages.raw_mapcount[block - machine.pages.start])
    machine.write(block + 1, "_mapcount", word)
    machine.write(block + 1, "private", 0)
    return block + 1


def _free_tail(machine: Machine) -> int:
    block = machine.free_block()
    machine.write(block + 1, "compound_head", machine.kernel.memmap.address(block) | 1)
    return block + 1


def _headless(machine: Machine) -> int:
    head = machine.folio()
    flags = int(machine.pages.flags[head - machine.pages.start]) & ~machine.pages.layout.mask("PG_head")
    machine.write(head, "flags", flags)
    return head + 1


def _stray_tail(machine: Machine) -> int:
    head = machine.folio()
    machine.write(head + 2, "compound_head", 0xDEAD0001)
    return head + 2


def _no_tail(machine: Machine) -> int:
    head = machine.folio()
    machine.write(head + 3, "compound_head", 0)
    return head


def _negative(machine: Machine) -> int:
    machine.write(machine.folio(), "_refcount", -3)
    return machine.folio()


def _more_mappings(machine: Machine) -> int:
    fields = machine.pages.layout.folio
    name = "_large_mapcount" if "_large_mapcount" in fields else "_entire_mapcount"
    machine.write_folio(machine.folio(), name, 5000)
    return machine.folio()


def _mapcounts(machine: Machine) -> int:
    head = machine.folio()
    rows = machine.pages.raw_mapcount[head - machine.pages.start :]
    machine.write(head + 1, "_mapcount", int(rows[1]) + 1 if rows[1] < 0 else -1)
    return head


def _pins(machine: Machine) -> int:
    machine.write_folio(machine.folio(), "_pincount", 1 << 20)
    return machine.folio()


def _other_zone(machine: Machine) -> int:
    head = machine.folio()
    bits = machine.kernel.zone_bits
    word = int(machine.pages.flags[head - machine.pages.start]) ^ (3 << bits.zone_shift)
    machine.write(head, "flags", word)
    return head


DAMAGE: dict[str, list[Callable[[Machine], int]]] = {
    "free-refcount": [_refcount],
    "free-flags": [_flag],
    "reported": [_reported],
    "buddy-order": [_order, _misplaced],
    "buddy-overlap": [_overlap],
    "free-folio": [_free_tail],
    "tail-head": [_headless, _stray_tail],
    "head-tails": [_no_tail],
    "refcount": [_negative],
    "mapcount-refcount": [_more_mappings],
    "mapcount-sum": [_mapcounts],
    "pincount-refcount": [_pins],
    "page-zone": [_other_zone],
}


@pytest.mark.parametrize("kernel", ["5.10", "6.6", "6.12"])
@pytest.mark.parametrize(
    ("check", "plant"),
    [pytest.param(name, each, id=each.__name__) for name in DAMAGE for each in DAMAGE[name]],
)
def test_damage_is_found_at_its_page_and_named(
    kernel: str, check: str, plant: Callable[[Machine], int]
) -> None:
    if check == "mapcount-sum" and kernel == "5.10":
        pytest.skip("these kernels keep no sum")
    machine = Machine.after("thp", kernel)
    pfn = plant(machine)
    result = machine.check()
    assert pfn in pages_of(result, check)
    assert broken(result)[check] >= 1
    [finding] = [each for each in result.findings if each.key == f"check-{check}"]
    assert "violation" in finding.message


def test_a_lost_free_block_is_missed_by_its_zone() -> None:
    machine = Machine.after("thp", "6.12")
    block = machine.free_block(3)
    machine.write(block, "_mapcount", -1)
    result = machine.check()
    assert broken(result)["zone-free"] == 2
    assert result.tables["violations"].frame.filter(check="zone-free")["pfn"].to_list() == [None, None]


@pytest.mark.parametrize("kernel", ["4.19", "5.10", "6.12", "7.1"])
def test_what_a_cma_area_gave_out_cannot_be_free(kernel: str) -> None:
    machine = Machine.after("cma-failure", kernel)
    [area] = machine.kernel.cma_areas
    machine.image.memory.write(machine.physical(area.bitmap), b"\xff" * 64)
    result = machine.check()
    assert set(broken(result)) == {"cma-bitmap"}
    assert all(area.base_pfn <= pfn < area.end_pfn for pfn in pages_of(result, "cma-bitmap"))


def test_an_owner_of_a_free_page_is_found() -> None:
    machine = Machine.after("leak", "6.12")
    pages = machine.pages
    used = np.flatnonzero((pages.refcount == 1) & pages.ext.has_flag("PAGE_EXT_OWNER_ALLOCATED"))
    order0 = used[(pages.ext["page_owner"]["order"][used] == 0) & ~pages.is_head[used] & ~pages.is_tail[used]]
    pfn = int(order0[-1]) + pages.start
    buddy = int(pages.raw_mapcount[pages.is_buddy][0])
    machine.write(pfn, "_refcount", 0)
    machine.write(pfn, "_mapcount", buddy)
    machine.write(pfn, "private", 0)
    result = machine.check()
    assert pfn in pages_of(result, "owner-free")


@pytest.mark.parametrize("kernel", ["5.4", "5.10", "6.6", "6.12", "7.1", "6.12-arm64"])
def test_a_page_in_use_whose_owner_says_it_was_freed_is_found(kernel: str) -> None:
    machine = Machine.after("thp", kernel)
    pfn = machine.owned()
    ext = machine.pages.ext
    allocated = 1 << ext.layout.flags["PAGE_EXT_OWNER_ALLOCATED"]
    machine.write_ext(pfn, "flags", int(ext.flags[pfn - machine.pages.start]) & ~allocated)
    result = machine.check()
    assert broken(result) == {"owner-used": 1}
    assert pages_of(result, "owner-used") == [pfn]
    [finding] = result.findings
    assert f"page {pfn:#x}: has 1 reference, and page_owner says it was freed" in finding.message


def test_a_poisoned_page_may_have_been_freed_and_held() -> None:
    """``take_page_off_buddy()`` keeps a reference to what it takes out of use."""
    machine = Machine.after("thp", "6.12")
    pfn, pages = machine.owned(), machine.pages
    allocated = 1 << pages.ext.layout.flags["PAGE_EXT_OWNER_ALLOCATED"]
    machine.write_ext(pfn, "flags", int(pages.ext.flags[pfn - pages.start]) & ~allocated)
    machine.write(pfn, "flags", int(pages.flags[pfn - pages.start]) | pages.layout.mask("PG_hwpoison"))
    assert "owner-used" not in broken(machine.check())


@pytest.mark.parametrize("kernel", ["4.19", "5.10", "6.12", "7.1"])
def test_an_owner_of_an_order_that_no_allocation_has_is_found(kernel: str) -> None:
    machine = Machine.after("thp", kernel)
    pfn = machine.owned()
    machine.write_ext(pfn, "order", 0x5858)
    result = machine.check()
    assert broken(result) == {"owner-record": 1}
    rows = result.tables["violations"].frame.select("pfn", "what").rows()
    assert rows == [(pfn, "page_owner says it was allocated with order 22616")]


@pytest.mark.parametrize("kernel", ["4.19", "5.10", "6.12", "7.1"])
def test_an_owner_whose_handle_leads_to_no_call_chain_is_found(kernel: str) -> None:
    machine = Machine.after("thp", kernel)
    mask = machine.kernel.stack_depot.layout.mask
    first, second = machine.owned(), machine.owned() + 1
    machine.write_ext(first, "handle", 0xFFFFFFF7 & mask)
    machine.write_ext(second, "handle", 0xFFFFFFF7 & mask)
    result = machine.check()
    assert broken(result) == {"owner-record": 1}
    [(pfn, what)] = result.tables["violations"].frame.select("pfn", "what").rows()
    # A handle may be that of many pages: the first is named.
    assert pfn == first
    assert what.startswith(f"the handle that 2 pages have, {0xFFFFFFF7 & mask:#x}, leads to no call chain")


@pytest.mark.parametrize("kernel", ["5.10", "6.12", "7.1", "6.12-arm64"])
def test_a_pageblock_of_a_migratetype_that_the_kernel_lacks_is_found(kernel: str) -> None:
    machine = Machine.after("thp", kernel)
    layout, sections = machine.kernel.pageblocks, machine.kernel.memmap.sections
    pfn = machine.owned() >> layout.order << layout.order
    [(row, _, _)] = sections.pieces(pfn, pfn + 1)
    block = (pfn >> layout.order) % (sections.pages >> layout.order)
    address = machine.physical(int(sections.pageblock_flags[row]) + block * layout.bits // 8)
    word = machine.image.memory.read(address, 1)[0]
    shift = block * layout.bits % 8
    machine.image.memory.write(address, bytes([word & ~(7 << shift) | 7 << shift]))
    result = machine.check()
    assert broken(result) == {"pageblock-type": 1}
    assert pages_of(result, "pageblock-type") == [pfn]
    assert result.tables["violations"].frame["what"].to_list() == ["its pageblock has migratetype 7"]


def test_a_corrupted_machine_is_said_to_be_so_whatever_was_overwritten() -> None:
    found: set[str] = set()
    for seed in range(12):
        image = BY_NAME["corrupted"].image(profile("6.12"), seed=seed)
        try:
            result = checked(image)
        except MmdumpError:
            continue
        found |= set(broken(result))
    assert len(found) >= 4


# The driver


@dataclass(frozen=True)
class _Never(Check):
    name = "never"
    summary = "nothing is ever wrong"

    def scan(self, _pages: PageRange, _state: Any) -> Sequence[Violations]:
        raise ZeroDivisionError("the plugin is wrong")


class _Always(Check):
    name = "always"
    summary = "pages do not exist"
    keys = ("half",)

    def scan(self, pages: PageRange, _state: Any) -> Sequence[Violations]:
        return [Violations("it is page {pfn:#x}", np.arange(len(pages)), {"pfn": pages.pfn})]

    def tally(self, pages: PageRange, _state: Any) -> dict[str, Any]:
        return {"half": pages.pfn & 1, "pages": np.ones(len(pages), np.int64)}

    def finish(self, _kernel: Kernel, _state: Any, sums: Any) -> Sequence[Broken]:
        return [Broken(f"half {half}: {pages}") for half, pages in sorted(sums.iter_rows())]


def test_all_violations_are_counted_few_described_and_sums_add_up() -> None:
    image = BY_NAME["thp"].image(profile("6.12"))
    result = checked(image, [_Always()])
    pages = Kernel(image.target()).memmap.pages
    assert broken(result) == {"always": pages + 2}
    table = result.tables["violations"].frame
    assert table.height <= 1026
    assert table.row(0) == ("always", 0, "it is page 0x0")
    assert table["what"].to_list()[-2:] == [f"half 0: {pages // 2}", f"half 1: {pages // 2}"]


def test_a_check_that_fails_is_named_and_the_others_go_on() -> None:
    image = BY_NAME["thp"].image(profile("6.12"))
    result = checked(image, [_Never(), *CHECKS])
    assert result.incomplete == ["check never failed: ZeroDivisionError: the plugin is wrong"]
    states = dict(result.tables["checks"].frame.select("check", "state").iter_rows())
    assert states["never"] == "failed"
    assert states["free-refcount"] == "holds"


def test_only_those_asked_for_run_and_others_are_an_error() -> None:
    run = CheckRun(CHECKS, ["buddy-order", "owner-free"])
    assert [each.name for each in run.checks] == ["buddy-order", "owner-free"]
    assert run.page_ext == ("page_owner",)
    with pytest.raises(UsageError, match="no check nothing"):
        CheckRun(CHECKS, ["nothing"])


def test_every_check_says_what_holds() -> None:
    assert len(NAMES) == len(CHECKS)
    for check in CHECKS:
        assert check.summary
        assert not check.summary.endswith(".")
