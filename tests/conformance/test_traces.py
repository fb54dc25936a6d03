"""The traces of the test bed's kernels: what the kernel printed, and what mmdump makes of the dump."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.check import dumps_of, reading
from tests.conformance.test_testbed import RUNS_VARIABLE, _runs
from tests.conftest import Run

#: Depends on how the file was read: the kernel shows it once for each CPU, or not.
_STARTED = re.compile(rb"^##### CPU \d+ buffer started ####\n", re.M)

TRACES = [
    pytest.param(run, dump, file, id=f"{run.name}-{dump.name}-{file.parent.name}")
    for run in _runs()
    for dump in dumps_of(run)
    for file in (
        Path("/") / path.relative_to(run / "truth" / "before")
        for path in sorted((run / "truth" / "before" / "sys" / "kernel" / "tracing").glob("**/trace"))
    )
]


@pytest.mark.skipif(not TRACES, reason=f"{RUNS_VARIABLE} names no directory with runs of the test bed")
@pytest.mark.parametrize(("run", "dump", "file"), TRACES)
def test_a_trace_that_stood_still_is_the_same_byte_for_byte(
    run: Path, dump: Path, file: Path, mmdump: Callable[..., Run], tmp_path: Path
) -> None:
    readings = reading(run, str(file))
    if len(readings) < 2 or readings[0] != readings[1]:
        pytest.skip("this trace went on while it was read, or was read once only")
    out = tmp_path / "trace"
    done = mmdump("cat", dump, file, "-s", run / "vmlinux", "-o", out)
    if done.status == 5:
        pytest.skip(f"this dump lacks a part of it: {done.err}")
    assert done.status == 0, done.err
    assert _STARTED.sub(b"", out.read_bytes()) == _STARTED.sub(b"", readings[0])
