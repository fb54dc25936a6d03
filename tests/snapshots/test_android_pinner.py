"""Every generation of Android's page pinner: what mmdump decodes is what the machine recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.era import Pinner
from tests.snapshots.android_machines import (
    KERNELS,
    SCENARIO,
    after,
    boot,
    check_events,
    in_the_way,
    kernel_of,
    pinner_of,
)
from tests.snapshots.decoded import Decoded, equal, same_frames
from tests.snapshots.decoded_checks import CHECKS
from tests.snapshots.decoded_owners import check_pinned, check_records
from tests.snapshots.decoded_pages import check_ext_flags


@pytest.mark.parametrize("name", ["A0", "A1", "B0"])
def test_the_generations_that_no_kernel_is_offered_of_decode_as_all_others_do(name):
    decoded = after(name, "cma-shared")
    for check in CHECKS:
        check(decoded)


@pytest.mark.parametrize("scenario", ["cma-shared", "cma-failure"])
@pytest.mark.parametrize("name", KERNELS)
def test_pinned_tells_marks_and_gets(name, scenario):
    decoded = after(name, scenario)
    check_pinned(decoded)
    evidence = {sign for page in decoded.truth.pinned for sign in page.evidence}
    assert "page_pinner" not in evidence
    pages = decoded.analysis("pinned").tables["pages"].frame
    records, machine = pinner_of(decoded).records, decoded.machine
    gets = name in ("A0", "A1", "A2", "B0")
    for row in pages.iter_rows(named=True):
        pfn = row["pfn"]
        assert row["pinner_ts_nsec"] == (int(records.ts_usec[pfn]) * 1000 or None)
        assert row["pinner_gets"] == ((int(records.count[pfn]) or None) if gets else None)
        handle = int(records.handle[pfn]) & decoded.handle_mask
        assert row["get_stack_id"] == ((handle or None) if gets else None)
    stacks = decoded.analysis("pinned").tables["stacks"].frame
    frames = dict(stacks.select("stack_id", "frames").iter_rows())
    for handle in pages["get_stack_id"].drop_nulls().unique().to_list():
        [full] = {each for each in records.handle.tolist() if each & decoded.handle_mask == handle}
        assert same_frames(frames[handle], machine.stack_depot.fetch(full))
    if scenario == "cma-shared":
        # So that this is the truth of something.
        assert {"excess"} | ({"get"} if gets else set()) <= evidence
        assert ("migration_failed" in evidence) == (name != "A0")


@pytest.mark.parametrize("name", KERNELS)
def test_every_pages_record_is_what_was_recorded(name):
    decoded = after(name, "cma-shared")
    records = pinner_of(decoded).records
    assert decoded.kernel.page_ext.enabled("page_pinner")
    for part in decoded.parts:
        assert part.pages.ext is not None
        found = part.pages.ext["page_pinner"]
        for member in ("handle", "ts_usec", "count"):
            values = found[member][part.rows]
            equal(
                member, values.astype(np.int64), getattr(records, member)[part.pfn].astype(np.int64), part.pfn
            )


@pytest.mark.parametrize("scenario", ["cma-shared", "cma-failure"])
@pytest.mark.parametrize("name", KERNELS)
def test_the_rings_hold_what_was_recorded(name, scenario):
    found = check_events(after(name, scenario))
    if scenario == "cma-shared":
        assert found >= {"A0": 3, "A1": 30, "A2": 40, "B0": 500, "B1": 40, "B2": 40}[name]


@pytest.mark.parametrize("name", ["B1", "B2"])
def test_a_put_is_dated_by_the_failure_before_it(name):
    kernel = kernel_of(name)
    machine, pinner = boot(kernel)
    times = []
    put = pinner.put

    def noted(pfn: int) -> None:
        if machine.page_ext.has(pfn, pinner.flag):
            times.append(machine.clock.now // 1000 * 1000)
        put(pfn)

    pinner.put = noted  # type: ignore[method-assign]
    in_the_way(machine, pinner, 5)
    events = Decoded(machine, kernel).analysis("pinner-events").tables["events"].frame
    puts = events.filter(events["state"] == "put")
    assert puts["time_nsec"].to_list() == times[::-1]
    assert len(times) == 5


def test_a_put_whose_date_cannot_be_true_has_none():
    """It would lie behind what was recorded after it."""
    kernel = kernel_of("B2")
    machine, pinner = boot(kernel)
    in_the_way(machine, pinner, 3)
    pinner.failures.slots[1] = replace(pinner.failures.slots[1], usec=60_000_000)
    events = Decoded(machine, kernel).analysis("pinner-events").tables["events"].frame
    puts = events.filter(events["state"] == "put")
    assert puts["elapsed_nsec"].to_list()[-1] == 60_000_000_000
    assert [time is None for time in puts["time_nsec"].to_list()] == [False, False, True]


def test_who_let_go_of_a_page_is_told_from_the_migration_by_the_call_chain():
    kernel = kernel_of("B2")
    machine, pinner = boot(kernel)
    in_the_way(machine, pinner, 4)
    result = Decoded(machine, kernel).analysis("pinner-events")
    events = result.tables["events"].frame
    by = events.group_by("state", "by").len().rows()
    assert sorted(by) == [("failure detected", "migration", 4), ("put", "user", 4)]
    assert set(events.filter(events["by"] == "user")["holder"]) == {"pipe"}
    [let_go] = [finding.message for finding in result.findings if finding.key == "holders-puts"]
    assert let_go == "Users let go of 4 pages after a contiguous allocation had failed there: pipe (4)."
    assert {finding.key for finding in result.findings} == {"migration-failed", "holders-puts"}
    [failed] = [finding for finding in result.findings if finding.key == "migration-failed"]
    assert failed.message.startswith("4 pages could not be migrated")
    assert "4 of them have not been freed since" in failed.message


# Flags without a word of their own


def test_flags_that_lie_over_the_record_are_read_as_the_kernel_does():
    """page_pinner_ops has no need_shared_flags: without page_owner, entries of 6.6 have no flags word."""
    kernel = profile("6.6").with_pinner(Pinner.B2)
    machine, pinner = boot(kernel, page_owner=False)
    pages = in_the_way(machine, pinner, 3)
    decoded = Decoded(machine, kernel)
    assert not machine.page_ext.has_flags
    layout = decoded.kernel.page_ext
    assert (layout.stride, layout.flags_overlaid, layout.garbage) == (24, True, False)
    result = decoded.analysis("pinned")
    rows = result.tables["pages"].frame
    assert rows["pfn"].to_list() == pages
    assert all("migration_failed" in evidence for evidence in rows["evidence"].to_list())
    assert rows["pinner_ts_nsec"].to_list() == [int(pinner.records.ts_usec[pfn]) * 1000 for pfn in pages]
    assert rows["get_stack_id"].null_count() == 3
    assert any("no word for flags" in note for note in result.notes)
    check_events(decoded)


def test_with_page_owner_it_has_one_in_every_kernel():
    kernel = profile("6.6").with_pinner(Pinner.B2)
    machine, pinner = boot(kernel)
    in_the_way(machine, pinner, 2)
    decoded = Decoded(machine, kernel)
    assert not decoded.kernel.page_ext.flags_overlaid
    check_pinned(decoded)


# The RFC's second version


@pytest.mark.parametrize("release", ["5.15", "6.12"])
@pytest.mark.parametrize("scenario", ["cma-shared", "cma-failure"])
def test_the_second_version_of_the_rfc_reads_as_the_first(release, scenario):
    """PAGE_EXT_PIN_OWNER, page_pin_owner_inited: marks for every folio that could not be migrated."""
    kernel = profile(release).with_pinner(Pinner.PIN_OWNER)
    decoded = Decoded(SCENARIO[scenario].play(kernel, seed=2), kernel, seed=2)
    for check in (check_ext_flags, check_records, check_pinned):
        check(decoded)
    marked = decoded.machine.page_pinner.marked()
    rows = decoded.analysis("pinned").tables["pages"].frame
    found = rows.filter(rows["evidence"].list.contains("page_pinner"))["pfn"].to_list()
    assert found == marked
    # cma-failure's pages cannot even be isolated.
    assert len(marked) == (3 if scenario == "cma-shared" else 0)
    assert not any("page_pinner evidence" in note for note in decoded.analysis("pinned").notes)
