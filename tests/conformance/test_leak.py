"""The test bed's leaks: write() into pipes that nobody reads, at once by a task that is gone, or slowly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmdump.errors import UnsupportedError
from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.scan import run_one
from mmdump.target import open_target
from testbed.check import dumps_of, reading
from testbed.conformance import page_owner_records
from testbed.truth import parse_truth

#: A directory of the test bed's runs, one directory each.
RUNS_VARIABLE = "MMDUMP_TESTBED_RUNS"
PAGE_OWNER = "/sys/kernel/debug/page_owner"


def _runs() -> list[Path]:
    where = os.environ.get(RUNS_VARIABLE)
    return sorted(each for each in Path(where).iterdir() if each.is_symlink()) if where else []


def pages_of(text: bytes, comm: str, function: str) -> int:
    """How many pages a task allocated in a function, of order 0, by the kernel's own page_owner."""
    return sum(
        f"({comm})".encode() in record and f"{function}+".encode() in record
        for record in page_owner_records(text).values()
        if isinstance(record, bytes)
    )


DUMPS = [
    pytest.param(run, dump, id=f"{run.name}-{dump.name}")
    for run in _runs()
    if (run / "run.json").is_file()
    for dump in dumps_of(run)
]


@pytest.mark.skipif(not DUMPS, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump"), DUMPS)
def test_the_leaking_chain_comes_first_and_a_burst_is_not_suspected(run: Path, dump: Path) -> None:
    lines = parse_truth((run / "truth" / "truth.txt").read_text())
    [writer] = [line for line in lines if line.text.startswith("leak writer")]
    chain = writer.values["chain"]
    plugins = load_plugins(disabled=["*"])
    with open_target(dump, symbols=[run / "vmlinux"]) as target:
        kernel = Kernel(target, plugins.page_ext_clients())
        page_owner = plugins.analyses()["page-owner"]
        try:
            whole = run_one(kernel, page_owner())
        except UnsupportedError as error:
            pytest.skip(str(error))
        own = run_one(kernel, page_owner(kind=("kernel",))).tables["groups"].frame
        written = run_one(kernel, page_owner(kind=("kernel",), comm=("leak-writer",))).tables["groups"].frame

    leaked = [row for row in written.to_dicts() if any(chain in frame for frame in row["frames"])]
    assert sum(row["pages"] for row in leaked) == writer.number("pages")
    # What was allocated before page_owner began has no chain of its own.
    first = own.filter(own["special"].is_null()).row(0, named=True)
    assert any(chain in frame for frame in first["frames"])
    assert "leak-writer" in first["comms"]

    slow = [line for line in lines if line.kind == "slowleak"]
    others = {"page-owner-early", "page-owner-dummy"}
    if not slow:
        assert "suspects" not in whole.tables
        assert {each.key for each in whole.findings} <= others
        return
    # What the writer took at once came by the same chain, most of it, and hides nothing.
    [suspect] = whole.tables["suspects"].frame.to_dicts()
    assert whole.text_tables[0] == "suspects"
    assert any(slow[0].values["chain"] in frame for frame in suspect["frames"])
    assert suspect["pages"] == first["pages"]
    burst = sum(row["pages"] for row in leaked if row["stack_id"] == suspect["stack_id"])
    before, after = (pages_of(text, "work-slowleak", chain) for text in reading(run, PAGE_OWNER))
    # Few came by another chain, or are other tasks': pipes are used elsewhere too.
    assert 0.9 * before <= suspect["pages"] - burst <= 1.1 * after
    assert before / 2 < suspect["evenly"] < after * 3 / 2
    assert {each.key for each in whole.findings} - others == {"page-owner-leak"}
