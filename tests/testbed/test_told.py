"""What the hypervisor was told, out of QEMU's own words."""

from __future__ import annotations

import array
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed import told
from testbed.errors import GuestError
from testbed.told import Mapping

MIB = 1 << 20
#: As QEMU 7.2 writes them.
LOG = """\
ram_block_discard_range pc.ram@0x7f736fe00000 + 0x400000: madvise: 1 fallocate: 0 ret: 0
ram_block_discard_range pc.ram@0x7f7361200000 + 0x200000: madvise: 1 fallocate: 0 ret: 0
something else
"""
#: Memory that is not the guest's, a report that failed, and words of another QEMU.
ODD = (
    "ram_block_discard_range pc.bios@0x7f73a0000000 + 0x20000: madvise: 1 fallocate: 0 ret: 0",
    "ram_block_discard_range pc.ram@0x7f7361400000 + 0x200000: madvise: 1 fallocate: 0 ret: -22",
    "ram_block_discard_range of pc.ram, 2 MiB",
)
#: Of a process whose memory of 512 MiB has a page behind it that nobody may touch.
MAPS = """\
557d5f400000-557d5f7fe000 r--p 00000000 fe:00 1234 /usr/bin/qemu-system-x86_64
7f735f000000-7f735fe00000 rw-p 00000000 00:00 0
7f735fd00000-7f737fe00000 rw-p 00000000 00:00 0
7f737fe00000-7f737fe01000 ---p 00000000 00:00 0
7f7380000000-7f73c0000000 rwxp 00000000 00:00 0
7ffc1b000000-7ffc1b021000 rw-p 00000000 00:00 0 [stack]
"""
MEMORY = Mapping(0x7F735FE00000, 512 * MIB)


def kernel(arch: str = "x86_64", page_size: int = 4096) -> Any:
    return SimpleNamespace(arch=arch, page_size=page_size)


def test_guest_memory_is_the_mapping_that_is_as_large() -> None:
    assert told.guest_memory(MAPS, 512 * MIB) == MEMORY
    assert told.guest_memory(MAPS, 4096 * MIB) is None
    # Which of two it is nobody knows.
    assert told.guest_memory(MAPS, 14 * MIB) is None


@pytest.mark.parametrize(
    ("arch", "page_size", "first", "pages"),
    [("x86_64", 4096, 0x10000, 1024), ("arm64", 4096, 0x50000, 1024), ("arm64", 16384, 0x14000, 256)],
)
def test_reports_are_pages_of_the_guest(arch: str, page_size: int, first: int, pages: int) -> None:
    found = told.ranges(LOG, MEMORY, kernel(arch, page_size))
    assert len(found) == 2
    assert found[0] == (first, pages)


@pytest.mark.parametrize("line", ODD)
def test_what_is_not_understood_is_no_report(line: str) -> None:
    with pytest.raises(GuestError, match="QEMU"):
        told.ranges(LOG + line, MEMORY, kernel())


def test_of_memory_with_a_hole_nothing_is_known() -> None:
    large = Mapping(MEMORY.address, 3 << 30)
    assert len(told.ranges(LOG, large, kernel("arm64"))) == 2
    with pytest.raises(GuestError, match="hole"):
        told.ranges(LOG, large, kernel())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert told.read(tmp_path) is None
    told.write(tmp_path, [(0x10000, 1024), (512, 512)])
    assert told.read(tmp_path) == [(0x10000, 1024), (512, 512)]


def flags(*reported: int) -> bytes:
    """/proc/kpageflags of 8192 pages, of which these begin reported blocks; others are free, or in use."""
    found = array.array("Q", [1 << 10, 1 << 3, 0, 1 << 5] * 2048)
    for pfn in reported:
        found[pfn] = 1 << 10 | 1 << 3
    return found.tobytes()


@pytest.mark.parametrize(
    ("blocks", "said", "stable", "equal"),
    [
        ({(512, 512), (2048, 1024)}, 6 * MIB, 3, 3),
        # A block that nobody was told of, one of another size, and a sum that is not theirs.
        ({(512, 512), (2048, 1024), (4096, 512)}, 8 * MIB, 4, 3),
        ({(512, 1024), (2048, 1024)}, 8 * MIB, 3, 2),
        ({(512, 512), (2048, 1024)}, 4 * MIB, 3, 2),
        # One that the kernel says is reported, and mmdump does not.
        ({(512, 512)}, 2 * MIB, 3, 2),
    ],
)
def test_each_block_was_told_just_so_and_none_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    blocks: set[tuple[int, int]],
    said: int,
    stable: int,
    equal: int,
) -> None:
    answer = {"tables": {"zones": {"rows": [{"reported": 0}, {"reported": said}]}}}
    monkeypatch.setattr(told, "reported_blocks", lambda *_: blocks)
    monkeypatch.setattr(told, "answer", lambda *_: json.dumps(answer))
    (tmp_path / "run.json").write_text('{"page_size": 4096}')
    told.write(tmp_path, [(512, 512), (2048, 1024), (2048, 1024), (8192, 512)])
    # The last of them was taken between the readings.
    readings = [flags(512, 2048, 6144), flags(512, 2048)]
    found = told.compare_told(tmp_path, tmp_path / "vmcore", readings)
    assert (found.stable, found.equal) == (stable, equal)
    assert found.perfect == (not found.differences)


def test_an_mmdump_that_fails_is_a_difference(tmp_path: Path) -> None:
    told.write(tmp_path, [(512, 512)])
    found = told.compare_told(tmp_path, tmp_path / "no dump", [])
    assert not found.perfect
    assert found.absent is None


def test_without_the_hypervisors_words_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert told.compare_told(tmp_path, tmp_path / "vmcore", []).absent is not None
