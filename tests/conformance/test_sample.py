"""The sample vmcore: one reading a moment before the dump, so that a few records have moved since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.conformance import compare, page_owner_records
from tests.conftest import Run, Sample


def _cat(mmdump: Callable[..., Run], dump: Path, file: str, out: Path) -> bytes:
    run = mmdump("cat", dump, file, "-o", out)
    assert run.status == 0, run.err
    return out.read_bytes()


def test_page_owner_text_is_the_kernels_byte_for_byte(
    mmdump: Callable[..., Run], dump: Path, sample: Sample, tmp_path: Path
) -> None:
    file = "/sys/kernel/debug/page_owner"
    ours = _cat(mmdump, dump, file, tmp_path / "out")
    # This kernel prints no memory cgroups for pages charged to the root: a bug of its own, see memcg.py.
    ours = ours.replace(b"Charged to memcg /\n", b"")
    found = compare(file, ours, sample.truth("page_owner.txt"))
    # A record with the same time stamp is the same allocation: all of these must be equal.
    theirs = page_owner_records(sample.truth("page_owner.txt"))
    mine = page_owner_records(ours)
    assert len(theirs) == 27243
    for pfn, text, _ in found.differences:
        if pfn in mine and text.split(b"\n")[0] == mine[pfn].split(b"\n")[0]:
            # The same allocation: only flags and the pageblock may have changed since.
            assert text.split(b"\n")[2:] == mine[pfn].split(b"\n")[2:]
    assert found.equal >= 0.995 * found.stable


@pytest.mark.parametrize(
    ("file", "share"),
    [("/proc/kpageflags", 0.99), ("/proc/kpagecount", 0.997), ("/proc/kpagecgroup", 0.999)],
)
def test_kpage_files_are_the_kernels_word_for_word(
    mmdump: Callable[..., Run], dump: Path, sample: Sample, tmp_path: Path, file: str, share: float
) -> None:
    ours = _cat(mmdump, dump, file, tmp_path / "out")
    theirs = sample.truth(Path(file).name + ".bin")
    assert len(ours) == len(theirs)
    found = compare(file, ours, theirs)
    assert found.equal >= share * found.stable
