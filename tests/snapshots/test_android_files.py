"""The kernel files of Android's page pinner, each generation's own."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump.errors import UnsupportedError
from mmdump.kernelfile import find_kernel_file
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Machine
from mmdump_snapshots.model.android_pinner import Captured, PpState, Ring
from tests.snapshots.android_machines import (
    DIRECTORY,
    KERNELS,
    after,
    boot,
    check_events,
    in_the_way,
    kernel_of,
    pinner_of,
)
from tests.snapshots.decoded import MIGRATETYPE_NAMES, Decoded, plugins


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
