"""Every generation of Android's page pinner: what mmdump decodes is what the machine recorded."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import drgn
import numpy as np
import pytest

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernelfile import find_kernel_file
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Gfp, Machine
from mmdump_snapshots.model.android_pinner import AndroidPinner, Captured, PpState, Ring
from mmdump_snapshots.model.era import Pinner
from mmdump_snapshots.scenarios import SCENARIOS
from tests.snapshots.decoded import MIGRATETYPE_NAMES, Decoded, equal, plugins, same_frames
from tests.snapshots.decoded_checks import CHECKS
from tests.snapshots.decoded_owners import check_pinned, check_records
from tests.snapshots.decoded_pages import check_ext_flags

SCENARIO = {each.name: each for each in SCENARIOS}
#: Kernel and generation: those that are offered, and on their releases those that came between.
KERNELS = {
    "A0": ("5.10", Pinner.A0),
    "A1": ("5.10", Pinner.A1),
    "A2": ("android12-5.10", Pinner.A2),
    "B0": ("5.10", Pinner.B0),
    "B1": ("android13-5.10", Pinner.B1),
    "B2": ("android14-6.1", Pinner.B2),
}
WORDS = {PpState.PUT: "put", PpState.FREE: "freed", PpState.FAIL_DETECTED: "failure detected"}
DIRECTORY = "/sys/kernel/debug/page_pinner/"


def kernel_of(name: str):
    base, generation = KERNELS[name]
    kernel = profile(base)
    return kernel if kernel.pinner is generation else kernel.with_pinner(generation)


@cache
def after(name: str, scenario: str) -> Decoded:
    kernel = kernel_of(name)
    return Decoded(SCENARIO[scenario].play(kernel, seed=3), kernel, seed=3)


def pinner_of(decoded: Decoded) -> AndroidPinner:
    pinner = decoded.machine.page_pinner
    assert isinstance(pinner, AndroidPinner)
    return pinner


def boot(kernel, **options: object) -> tuple[Machine, AndroidPinner]:
    machine = Machine(kernel.era, memory=128 << 20, boot=Boot(**options))
    assert isinstance(machine.page_pinner, AndroidPinner)
    return machine, machine.page_pinner


def in_the_way(machine: Machine, pinner: AndroidPinner, count: int) -> list[int]:
    """Pages that fail to migrate, one after the other, and are put once."""
    found = []
    for _ in range(count):
        pfn = machine.alloc_pages(0, Gfp.HIGHUSER_MOVABLE)
        machine.get_page(pfn)
        machine.clock.advance(0.5)
        with machine.running(machine.current, "alloc_contig_range", "cma_alloc"):
            pinner.not_migrated([pfn])
        with machine.running(machine.current, "pipe_read", "vfs_read"):
            machine.put_page(pfn)
        found.append(pfn)
    return found


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


def check_events(decoded: Decoded) -> int:
    """``mmdump pinner-events``: all records of both rings, the newest first. Returns how many."""
    result = decoded.analysis("pinner-events")
    assert not result.incomplete
    events = result.tables["events"].frame
    stacks = dict(result.tables["stacks"].frame.select("stack_id", "frames").iter_rows())
    pinner = pinner_of(decoded)
    total = 0
    for ring, called in ((pinner.failures, "failures"), (pinner.longterm, "longterm")):
        rows = [row for row in events.iter_rows(named=True) if row["ring"] == called]
        expected = [] if ring is None else ring.newest_first
        assert len(rows) == len(expected), called
        total += len(rows)
        for row, record in zip(rows, expected, strict=True):
            check_event(decoded, row, record, called)
            if record.handle:
                frames = decoded.machine.stack_depot.fetch(record.handle)
                assert same_frames(stacks[row["stack_id"]], frames)
    assert len(events) == total
    return total


def check_event(decoded: Decoded, row: dict, record: Captured, ring: str) -> None:
    generation = decoded.era.pinner
    nsec = record.usec * 1000
    assert row["pfn"] == record.pfn
    assert row["stack_id"] == ((record.handle & decoded.handle_mask) or None)
    assert row["elapsed_nsec"] == (nsec if record.elapsed else None)
    if not record.elapsed:
        assert row["time_nsec"] == nsec
    if generation >= Pinner.B0:
        assert row["state"] == WORDS[record.state]
    else:
        assert row["state"] == ("put" if ring == "longterm" else None)
    direct = decoded.image.addresses.direct
    if generation >= Pinner.A2:
        assert (row["count"], row["mapcount"]) == (record.count, record.mapcount)
        assert row["mapping"] == (direct(record.mapping) if record.mapping else None)
        assert row["migratetype"] is None
    else:
        assert (row["count"], row["mapcount"], row["mapping"]) == (None, None, None)
        assert row["migratetype"] == MIGRATETYPE_NAMES[record.mt]
    names = {flag.name.lower() for flag in type(record.flags) if flag & record.flags}
    # What has a name of its own in every kernel.
    known = {"locked", "referenced", "uptodate", "dirty", "lru", "active", "swapbacked", "head"}
    assert set(row["flags"]) & known == names & known


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


# Files


def text_of(decoded: Decoded, ring: Ring, form: str) -> str:
    """The file of a ring, by the formats of ``print_page_pinner()``."""
    kernel, direct = decoded.kernel, decoded.image.addresses.direct
    depot = kernel.stack_depot
    assert depot is not None
    events = decoded.analysis("pinner-events").tables["events"].frame
    lines = []
    for record in ring.newest_first:
        if not record.handle:
            break
        seconds, micros = divmod(record.usec, 1_000_000)
        if form == "early":
            lines.append(f"Page pinned ts {record.usec} us count 0")
        elif record.elapsed:
            start = "At least, pinned for" if form == "state" else "Page pinned for"
            lines.append(f"{start} {record.usec} us")
        elif form == "state":
            what = "Freed at" if record.state is PpState.FREE else "Failure detected at"
            lines.append(f"{what} [{seconds:5d}.{micros:06d}]")
        else:
            lines.append(f"Page pinned ts [{seconds:5d}.{micros:06d}]")
        # The word, as page->flags of a page of that zone with these flags.
        word = flag_word(decoded, record)
        inside = kernel.page_flag_text.inside(word)
        names = f"{word:#x}({inside})" if decoded.profile.version >= (5, 16) else inside
        if form == "early":
            what = f"PFN {record.pfn} Block {record.pfn >> 9} type {MIGRATETYPE_NAMES[record.mt]}"
        else:
            mapping = f"{direct(record.mapping) if record.mapping else 0:#x}"
            what = (
                f"PFN {record.pfn:#x} Block {record.pfn >> 9} count {record.count} "
                f"mapcount {record.mapcount} mapping {mapping}"
            )
        lines.append(f"{what} Flags {word:#x}({names})")
        lines += [f" {kernel.symbols.text(each)}" for each in depot.stack(record.handle).frames]
        lines.append("")
    assert len(events)
    return "".join(f"{line}\n" for line in lines)


def flag_word(decoded: Decoded, record: Captured) -> int:
    bits = decoded.profile.types.enumerators("enum pageflags")
    word = sum(
        1 << bits[f"PG_{flag.name.lower()}"]
        for flag in type(record.flags)
        if flag & record.flags and f"PG_{flag.name.lower()}" in bits
    )
    start = record.pfn
    [above] = decoded.kernel.pages(start, start + 1).flags.tolist()
    return word | above & -(1 << bits["__NR_PAGEFLAGS"])


@pytest.mark.parametrize("name", KERNELS)
def test_the_files_of_the_rings_are_the_kernels_text(name):
    decoded = after(name, "cma-shared")
    pinner = pinner_of(decoded)
    form = {"A0": "early", "A1": "early", "A2": "at"}.get(name, "state")
    if pinner.longterm is not None:
        assert decoded.file(DIRECTORY + "longterm_pinner").decode() == text_of(decoded, pinner.longterm, form)
    if pinner.failures is not None:
        file = "buffer" if name in ("B1", "B2") else "alloc_contig_failed"
        text = decoded.file(DIRECTORY + file).decode()
        assert text == text_of(decoded, pinner.failures, form)
        assert text.count("PFN ") == len(pinner.failures.slots)


def test_the_first_of_them_listed_every_page_that_was_got():
    decoded = after("A0", "cma-shared")
    records, machine = pinner_of(decoded).records, decoded.machine
    text = decoded.file(DIRECTORY + "pinner").decode()
    expected = [
        pfn
        for pfn in np.flatnonzero(records.count).tolist()
        if machine.page_ext.flags[pfn] & np.uint8(1 << 5) and machine.pages.type[pfn] != 1
    ]
    blocks = text.split("\n\n")[:-1]
    assert [int(block.split("PFN ")[1].split()[0]) for block in blocks] == expected
    assert len(expected) >= 4
    for block, pfn in zip(blocks, expected, strict=True):
        assert block.startswith(f"Page pinned ts {records.ts_usec[pfn]} us count {records.count[pfn]}\n")


NUMBERS = {"threshold": "300000\n", "buffer_size": "4096\n", "failure_tracking": "1\n"}
HAVE = {
    "A0": {"pinner", "longterm_pinner", "threshold"},
    "A1": {"longterm_pinner", "threshold", "alloc_contig_failed", "failure_tracking"},
    "A2": {"longterm_pinner", "threshold", "alloc_contig_failed", "failure_tracking"},
    "B0": {"longterm_pinner", "threshold", "alloc_contig_failed", "failure_tracking"},
    "B1": {"buffer", "failure_tracking", "buffer_size"},
    "B2": {"buffer", "failure_tracking", "buffer_size"},
}


@pytest.mark.parametrize("name", KERNELS)
def test_every_generation_has_its_own_files(name):
    decoded = after(name, "cma-shared")
    for file in sorted(set.union(*HAVE.values())):
        why = find_kernel_file(plugins().kernel_files(), DIRECTORY + file).why_not(decoded.kernel)
        assert (why is None) == (file in HAVE[name]), (file, why)
        if why is None and file in NUMBERS:
            assert decoded.file(DIRECTORY + file).decode() == NUMBERS[file]


@pytest.mark.parametrize("name", ["A2", "B2"])
def test_what_is_switched_off_says_so(name):
    kernel = kernel_of(name)
    machine, pinner = boot(kernel)
    in_the_way(machine, pinner, 2)
    pinner.failure_tracking = False
    decoded = Decoded(machine, kernel)
    file = "buffer" if name == "B2" else "alloc_contig_failed"
    found = find_kernel_file(plugins().kernel_files(), DIRECTORY + file)
    assert "failure_tracking is off" in (found.why_not(decoded.kernel) or "")
    assert any("failure_tracking was off" in note for note in decoded.analysis("pinner-events").notes)
    # What was recorded before is there.
    check_events(decoded)


@pytest.mark.parametrize("name", ["A2", "B1", "B2"])
def test_without_the_boot_parameter_there_is_nothing(name):
    kernel = kernel_of(name)
    decoded = Decoded(boot(kernel, page_pinner=False)[0], kernel)
    with pytest.raises(UnsupportedError, match="boot with page_pinner"):
        decoded.analysis("pinner-events")
    result = decoded.analysis("pinned")
    assert any("the page pinner was built in but is off" in note for note in result.notes)
    for each in plugins().kernel_files():
        if each.path.startswith(DIRECTORY):
            assert each.why_not(decoded.kernel) is not None


def test_a_kernel_without_it_says_that():
    decoded = Decoded(Machine(profile("6.12").era, memory=64 << 20), profile("6.12"))
    with pytest.raises(UnsupportedError, match="no page pinner that keeps records"):
        decoded.analysis("pinner-events")


# Rings that came around, that nobody cleared, that are garbage


def test_a_ring_that_came_around_has_the_newest_and_says_so():
    kernel = kernel_of("B2")
    machine, pinner = boot(kernel)
    pinner.failures.size = 16
    in_the_way(machine, pinner, 30)
    decoded = Decoded(machine, kernel)
    assert check_events(decoded) == 16
    assert any("room for 16 records" in note for note in decoded.analysis("pinner-events").notes)
    assert decoded.file(DIRECTORY + "buffer_size") == b"16\n"


def slots(decoded: Decoded) -> tuple[int, int]:
    """Where the ring's slots are: physical address, and bytes of one."""
    buffer = pinner_of(decoded).failures.buffer
    return buffer, decoded.profile.types.sizeof("struct captured_pinner")


def fresh(count: int = 6) -> Decoded:
    kernel = kernel_of("B2")
    machine, pinner = boot(kernel)
    in_the_way(machine, pinner, count)
    return Decoded(machine, kernel)


def test_what_was_in_the_memory_before_is_no_record():
    """kvmalloc_array() does not clear: beyond the index only what can be true may be a record."""
    decoded = fresh()
    at, size = slots(decoded)
    memory = decoded.image.memory
    # The writer left the place before the first zero; a record that is nearly one.
    good = bytes(memory.read(at, size))
    types = decoded.profile.types
    for member, value in (("handle", 0x7FFFFFF0), ("pfn", 1 << 40), ("state", 7)):
        torn = bytearray(good)
        types.pack("struct captured_pinner", {member: value}, torn)
        memory.write(at + 4095 * size, bytes(torn))
        assert check_events(decoded) == 12
    # And one that was there before, of a ring that came around.
    memory.write(at + 4095 * size, good)
    events = decoded.analysis("pinner-events").tables["events"].frame
    assert len(events) == 13
    assert events["slot"].to_list() == [*range(11, -1, -1), 4095]


def test_a_record_that_cannot_be_true_is_left_out_and_counted():
    decoded = fresh()
    at, size = slots(decoded)
    decoded.image.memory.write(at + 3 * size, b"\xff" * size)
    result = decoded.analysis("pinner-events")
    assert len(result.tables["events"].frame) == 11
    assert result.incomplete == ("1 records of pp_buffer are garbage, and left out",)


@pytest.mark.parametrize(
    ("member", "value", "says"),
    [
        ("index", 1 << 20, "index 1048576 of 4096"),
        ("buffer", 0, "never allocated"),
        ("buffer", 0xFFFF_9000_0000_0000, "not in the dump"),
    ],
)
def test_a_ring_that_is_garbage_says_so(member, value, says):
    decoded = fresh()
    debug, types = decoded.image.vmlinux, decoded.profile.types
    link, _ = debug.variable("pp_buffer", "mm/page_pinner.c")
    at = decoded.image.addresses.kernel_phys(link) + types.offset("struct page_pinner_buffer", member)
    decoded.image.memory.write(at, value.to_bytes(8, "little"))
    result = decoded.analysis("pinner-events")
    assert says in " ".join(result.incomplete)
    assert not len(result.tables["events"].frame)
    with pytest.raises(IncompleteError, match=says):
        decoded.file(DIRECTORY + "buffer")


def test_a_long_pin_that_nobody_got_has_no_call_chain():
    """check_longterm_pin() of android12-5.10, of a page that only failed to migrate: its record is zero."""
    kernel = kernel_of("A2")
    machine, pinner = boot(kernel)
    [pfn] = in_the_way(machine, pinner, 1)
    with machine.running(machine.current, "get_user_pages_fast", "vb2_dc_get_userptr"):
        machine.gup.get(pfn)
    machine.clock.advance(1.0)
    machine.gup.put_user(pfn)
    pinner.records.handle[pfn] = pinner.records.ts_usec[pfn] = 0
    pinner.unset(pfn, 0)
    decoded = Decoded(machine, kernel)
    assert pinner.longterm is not None
    assert [bool(each.handle) for each in pinner.longterm.newest_first] == [False, True]
    # mmdump has both; the kernel's file ends at the first without a call chain.
    check_events(decoded)
    assert decoded.file(DIRECTORY + "longterm_pinner") == b""


def test_records_that_are_not_in_the_dump_are_counted():
    decoded = fresh(count=60)
    at, size = slots(decoded)
    prog = decoded.kernel.target.prog
    # The second page of the ring: of 120 records, those from the 74th on.
    hole = (at | 4095) + 1
    virtual = decoded.image.addresses.direct(hole)
    for address, physical in ((hole, True), (virtual, False)):
        prog.add_memory_segment(address, 4096, _fault, physical)
    result = decoded.analysis("pinner-events")
    events = result.tables["events"].frame
    lost = [place for place in range(120) if at + (place + 1) * size > hole]
    assert result.incomplete == (f"{len(lost)} records of pp_buffer are not in the dump",)
    assert events["slot"].to_list() == list(range(lost[0] - 1, -1, -1))
    with pytest.raises(IncompleteError, match="beyond the newest 0 records"):
        decoded.file(DIRECTORY + "buffer")


def _fault(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise drgn.FaultError("not there", address)


@pytest.mark.parametrize("size", [0, 1 << 40])
def test_a_size_that_is_garbage_says_so(size):
    decoded = fresh()
    link, _ = decoded.image.vmlinux.variable("pp_buf_size", "mm/page_pinner.c")
    at = decoded.image.addresses.kernel_phys(link)
    decoded.image.memory.write(at, size.to_bytes(8, "little"))
    result = decoded.analysis("pinner-events")
    assert "pp_buffer is garbage" in " ".join(result.incomplete)


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
