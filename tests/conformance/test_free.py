"""Free memory of whatever the test bed has produced: every line that stood still is equal in every dump."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.scan import Ranges, run_one
from mmdump.target import open_target
from mmdump_buddy import DEBUG_GUARDPAGE, Buddy
from mmdump_buddy.files import FILES
from mmdump_buddy.pagetypeinfo import PAGETYPEINFO
from mmdump_page_reporting import Reported
from testbed.check import reading
from tests.conformance.test_testbed import DUMPS, RUNS_VARIABLE

pytestmark = [
    pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed"),
    pytest.mark.parametrize(("run", "dump"), DUMPS),
]


def _kernel(run: Path, dump: Path):
    return open_target(dump, symbols=[run / "vmlinux"])


def _lines(text: bytes) -> dict[tuple[str, int], str]:
    """Lines by the section they stand in and their number there."""
    found, section, number = {}, "", 0
    for line in text.decode().splitlines():
        if not line.startswith("Node"):
            section, number = line[:20], 0
        found[section, number] = line
        number += 1
    return found


@pytest.mark.parametrize("file", [FILES[0], PAGETYPEINFO], ids=lambda file: file.path)
def test_what_stood_still_is_equal_in_the_dump(run: Path, dump: Path, file) -> None:
    if run.name.endswith("-kexec"):
        pytest.skip("a crashing kernel cannot be read again after its dump: nothing is known to stand still")
    readings = [_lines(text) for text in reading(run, file.path)]
    plugins = load_plugins(disabled=["*"])
    clients = {client.name: client for client in (*plugins.page_ext_clients(), DEBUG_GUARDPAGE)}
    with _kernel(run, dump) as target:
        kernel = Kernel(target, clients.values())
        ours = _lines(b"".join(file.read(kernel, Ranges(kernel, ext=file.ext))))
    stable = {
        key: line
        for key, line in readings[0].items()
        if all(other.get(key) == line for other in readings[1:])
        # Mixed blocks are printed where page_owner's count of them is to be had.
        and (key in ours or not key[0].startswith("Number of mixed"))
    }
    assert stable
    assert {key: ours.get(key) for key in stable} == stable


def test_nothing_is_wrong_with_free_memory(run: Path, dump: Path) -> None:
    with _kernel(run, dump) as target:
        kernel = Kernel(target, [DEBUG_GUARDPAGE])
        buddy = run_one(kernel, Buddy())
        reported = run_one(kernel, Reported()) if Reported().why_not(kernel) is None else None
    assert buddy.findings == []
    assert not buddy.incomplete
    assert reported is None or reported.findings == []
    zoneinfo = [text.decode() for text in reading(run, "/proc/zoneinfo")]
    zones = {row["zone"]: row for row in buddy.tables["zones"].frame.to_dicts()}
    page = buddy.target["page_size"]
    for name, row in zones.items():
        bodies = [re.search(rf"zone +{name}\n(.*?)(?=\nNode|\Z)", text, re.S)[1] for text in zoneinfo]
        for key, column in (("pages free", "nr_free_pages"), ("nr_free_cma", "nr_free_cma"), ("min", "min")):
            seen = {int(re.search(rf"^ +{key} +(\d+)$", body, re.M)[1]) * page for body in bodies}
            if len(seen) == 1 and not run.name.endswith("-kexec"):
                assert {row[column]} == seen, (name, key)
