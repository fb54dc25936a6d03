"""page_owner and what is pinned: decoded, exactly the machine's truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmdump.errors import UnsupportedError

from .decoded import Decoded, equal, same_frames

__all__ = ["check_page_owner", "check_pinned", "check_records"]


def check_pinned(decoded: Decoded) -> None:
    """``mmdump pinned``: no row more or less, and each as the machine knows it."""
    result = decoded.analysis("pinned")
    assert not result.incomplete
    rows = result.tables["pages"].frame.to_dicts()
    truth = decoded.truth.pinned
    assert [row["pfn"] for row in rows] == [page.pfn for page in truth]
    stacks = {row["stack_id"]: row for row in result.tables["stacks"].frame.iter_rows(named=True)}
    pfn = np.array([page.pfn for page in truth], np.int64)
    around = zip(decoded.migratetype(pfn), decoded.zone_names(pfn), decoded.nodes(pfn), strict=True)
    for row, page, (migratetype, zone, node) in zip(rows, truth, around, strict=True):
        assert {name: row[name] for name in _PINNED} == {
            "head_pfn": page.head_pfn,
            "order": page.order,
            "evidence": list(page.evidence),
            "state": page.state,
            "refcount": page.refcount,
            "mapcount": page.mapcount,
            "kind": page.kind.value,
            "pincount": page.pincount,
            "excess": page.excess,
            "owner_pid": page.owner_pid,
            "owner_comm": page.owner_comm,
            "migratetype": migratetype,
            "zone": zone,
            "node": node,
            "cma_area": _cma_area(decoded, page.pfn),
        }, f"PFN {page.pfn}"
        if page.owner_handle is None:
            assert row["stack_id"] is None
        else:
            assert row["stack_id"] == page.owner_handle & decoded.handle_mask
            stack = stacks[row["stack_id"]]
            assert stack["status"] == "ok"
            assert same_frames(stack["frames"], decoded.truth.owners.stacks[page.owner_handle])


_PINNED = (
    *("head_pfn", "order", "evidence", "state", "refcount", "mapcount", "kind", "pincount", "excess"),
    *("owner_pid", "owner_comm", "migratetype", "zone", "node", "cma_area"),
)


def _cma_area(decoded: Decoded, pfn: int) -> str | None:
    for area in decoded.machine.cma:
        if area.base_pfn <= pfn < area.end_pfn:
            return area.name
    return None


def check_page_owner(decoded: Decoded) -> None:
    """``mmdump page-owner``: the same groups with the same sums, and the special handles."""
    owners = decoded.truth.owners
    if not owners.enabled:
        with pytest.raises(UnsupportedError, match="boot with page_owner=on"):
            decoded.analysis("page-owner")
        return
    result = decoded.analysis("page-owner")
    assert not [finding for finding in result.findings if finding.key == "page-owner-garbage"]
    found: dict[int, Any] = {row["stack_id"]: row for row in result.tables["groups"].frame.to_dicts()}
    expected = {handle & decoded.handle_mask: each for handle, each in owners.by_stack.items()}
    assert found.keys() == expected.keys()
    for handle, each in expected.items():
        row = found[handle]
        assert (row["pages"], row["bytes"]) == (each.pages, owners.bytes(each.handle))
        assert row["allocations"] == each.allocations
        times = (each.oldest, each.newest) if decoded.machine.era.owner_has_pid else (None, None)
        assert (row["oldest_ts_nsec"], row["newest_ts_nsec"]) == times
        assert same_frames(row["frames"], each.frames), (row["frames"], each.frames)
    prog = decoded.kernel.target.prog
    for name, handle in owners.special.items():
        # By file name: Android's mm/page_pinner.c has a failure_handle of its own.
        assert prog.variable(name, "mm/page_owner.c").value_() == handle, name
        depot = decoded.kernel.stack_depot
        assert depot is not None
        frames = [decoded.kernel.symbols.text(address) for address in depot.stack(handle).frames]
        assert same_frames(frames, owners.stacks[handle])


#: Members of the records -> columns of the model that are the same.
_MEMBERS = {
    "order": "order",
    "handle": "handle",
    "free_handle": "free_handle",
    "ts_nsec": "ts",
    "free_ts_nsec": "free_ts",
    "pid": "pid",
    "tgid": "tgid",
    "free_pid": "free_pid",
    "free_tgid": "free_tgid",
}


def check_records(decoded: Decoded) -> None:
    """Every member of the record of every page, also of free pages and of those without a record."""
    machine, era = decoded.machine, decoded.era
    if machine.page_owner is None or not decoded.kernel.page_ext.enabled("page_owner"):
        assert not decoded.truth.owners.enabled
        return
    owners = machine.page_owner.owners
    members = {"order", "handle", "gfp_mask", "last_migrate_reason"}
    members |= {"free_handle"} if era.owner_has_free_stack else set()
    members |= {"ts_nsec", "pid"} if era.owner_has_pid else set()
    members |= {"free_ts_nsec"} if era.owner_has_free_time else set()
    members |= {"comm", "tgid"} if era.owner_has_comm else set()
    members |= {"free_pid", "free_tgid"} if era.owner_has_free_pid else set()
    comms = np.array([comm.encode()[:15] for comm in machine.comms], "S16")
    for part in decoded.parts:
        assert part.pages.ext is not None
        record, rows, pfn = part.pages.ext["page_owner"], part.rows, part.pfn
        assert set(record.names) == members
        for member, column in _MEMBERS.items():
            if member in members:
                equal(member, record[member][rows], getattr(owners, column)[pfn], pfn)
        equal("gfp_mask", record["gfp_mask"][rows], decoded.gfp(owners.gfp[pfn]), pfn)
        written = owners.handle[pfn] != 0
        reason = owners.migrate_reason[pfn].astype(np.int64) - written
        equal("last_migrate_reason", record["last_migrate_reason"][rows], reason, pfn)
        if "comm" in members:
            equal("comm", record["comm"][rows], comms[owners.comm[pfn]], pfn)
