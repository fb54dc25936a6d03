"""The columns against helpers that read page by page with drgn alone, on every profile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from drgn import Object
from drgn.helpers.linux.mm import pfn_to_page
from drgn.helpers.linux.stackdepot import stack_depot_fetch

from mmdump.helpers import page_ext, page_ext_data, page_owner, page_owner_allocated, page_pinner
from mmdump.kernel import Kernel
from mmdump.kernel.page import PageRange
from mmdump_page_owner.record import read_owners
from mmdump_page_pinner.marks import marked, why_no_marks
from mmdump_snapshots.kernels import profiles
from mmdump_snapshots.model.machine import Boot, Machine
from mmdump_snapshots.model.pages import ExtFlag
from tests.snapshots.decoded import Decoded, plugins, same_frames
from tests.snapshots.machines import PROFILES, busy_machine


@pytest.fixture(scope="module", params=PROFILES)
def decoded(request: pytest.FixtureRequest) -> Decoded:
    profile = profiles()[request.param]
    machine = busy_machine(profile)
    # Pages all over memory are marked, free or not.
    if machine.page_pinner is not None:
        mark = ExtFlag.PINNER_MIGRATION_FAILED if machine.era.android else ExtFlag.PINNER
        for pfn in range(7, machine.ram[-1][1], 53):
            machine.page_ext.set(pfn, mark)
    return Decoded(machine, profile, seed=3)


def chosen(decoded: Decoded) -> Iterator[tuple[PageRange, int, Object]]:
    """Random pages of each range, and some of each sort: the row of each, and the page itself."""
    random = np.random.default_rng(5)
    for part in decoded.parts:
        pages = part.pages
        rows = set(random.choice(part.rows, min(120, len(part.rows)), replace=False).tolist())
        for mask in (pages.is_head, pages.is_tail, pages.is_buddy, pages.refcount > 0):
            found = np.intersect1d(np.flatnonzero(mask), part.rows)
            rows |= set(random.choice(found, min(20, len(found)), replace=False).tolist())
        for row in sorted(rows):
            yield pages, row, pfn_to_page(decoded.kernel.target.prog, pages.start + row)


def test_records_are_what_the_helper_finds_page_by_page(decoded: Decoded) -> None:
    ops = decoded.kernel.target.prog["page_owner_ops"]
    compared = 0
    for pages, row, page in chosen(decoded):
        assert pages.ext is not None
        record, ext = pages.ext["page_owner"], page_ext(page)
        assert pages.ext.flags[row] == ext.flags.value_()
        raw = Object(page.prog_, "struct page_owner", address=page_ext_data(ext, ops).value_())
        for name in record.names:
            member = getattr(raw, name)
            expected = member.string_() if name == "comm" else member.value_()
            assert record[name][row] == expected, f"PFN {pages.start + row}: {name}"
            compared += 1
    assert compared > 500


def test_owners_are_what_the_helper_finds(decoded: Decoded) -> None:
    owners = read_owners(decoded.kernel)
    assert owners is not None
    seen = set()
    for pages, row, page in chosen(decoded):
        owner, allocated = page_owner(page), page_owner_allocated(page)
        seen.add((bool(owner), allocated))
        assert bool(owner) == pages.ext.has_flag("PAGE_EXT_OWNER")[row]
        assert (allocated and bool(owner.handle)) == owners.recorded(pages)[row]
        if owner:
            assert owner.handle.value_() == pages.ext["page_owner"]["handle"][row]
    assert {(True, True), (False, False)} <= seen


def test_call_chains_are_what_drgn_finds(decoded: Decoded) -> None:
    depot = decoded.kernel.stack_depot
    assert depot is not None
    found = {}
    for _, _, page in chosen(decoded):
        if page_owner_allocated(page):
            found[page_owner(page).handle.value_()] = page_owner(page).handle
    assert found
    for handle, value in found.items():
        frames = [decoded.kernel.symbols.text(address) for address in depot.stack(handle).frames]
        assert same_frames(frames, [frame.name for frame in stack_depot_fetch(value)])


def test_marks_are_what_the_helper_finds(decoded: Decoded) -> None:
    reason = why_no_marks(decoded.kernel)
    seen = set()
    for pages, row, page in chosen(decoded):
        expected = reason is None and bool(marked(pages.ext)[row])
        assert page_pinner(page) == expected
        seen.add(expected)
    assert seen == ({False} if reason else {False, True})


@pytest.mark.parametrize("name", ["4.19", "6.12"])
def test_a_kernel_that_keeps_nothing_has_null_pointers(name: str) -> None:
    profile = profiles()[name]
    machine = Machine(profile.era, arch=profile.arch, boot=Boot(page_owner=False, page_pinner=False))
    kernel: Kernel = Decoded(machine, profile).kernel
    assert plugins()
    page = pfn_to_page(kernel.target.prog, 0x100)
    assert not page_owner(page)
    assert page_owner(page).type_.type_name() == "struct page_owner *"
    assert not page_owner_allocated(page)
    assert not page_pinner(page)


def test_a_page_beyond_memory_has_no_extension() -> None:
    decoded = Decoded(busy_machine(profiles()["6.12"]), profiles()["6.12"])
    page = pfn_to_page(decoded.kernel.target.prog, 1 << 30)
    assert not page_ext(page)
    assert not page_ext_data(page_ext(page), decoded.kernel.target.prog["page_owner_ops"])
    assert not page_owner(page)
