"""What the commands say of dumps in which something that they need is missing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.targets import targets

SLEEPER = """
from pathlib import Path
import time
from mmdump import hookimpl
from mmdump.analysis import Analysis

class Sleep(Analysis):
    name = "sleep"
    summary = "never comes to an end"

    def start(self, kernel):
        Path(__file__).with_name("asleep").touch()
        time.sleep(60)

@hookimpl
def mmdump_analyses():
    return [Sleep]
"""


@pytest.fixture
def image():
    """A machine's memory, to be damaged."""
    scenario = next(each for each in SCENARIOS if each.name == "cma-failure")
    return scenario.image(profile("6.12"), memory=128 << 20)


def info(mmdump, dump):
    run = mmdump("info", dump, "-f", "json")
    return run, json.loads(run.out)


def test_info_without_debug_info_shows_what_the_dump_says_itself(mmdump, image, tmp_path):
    dump = image.write(tmp_path / "dump", "kdump")
    (dump.parent / "vmlinux").unlink()
    run, document = info(mmdump, dump)
    assert run.status == 5
    assert "no debug info" in run.err
    rows = {name: table["rows"] for name, table in document["tables"].items()}
    assert {"key": "PAGESIZE", "value": "4096"} in rows["vmcoreinfo"]
    assert sum(row["count"] for row in rows["memory_in_dump"]) == (128 << 8) - 96
    assert not any(row["runs"] for row in rows["analyses"])
    # Analyses need it.
    assert mmdump("pinned", dump).status == 3


def test_info_says_that_zones_are_garbage(mmdump, image, tmp_path):
    for start, end in targets(image)["nodes and zones"][1:]:
        image.memory.write(start, b"\xff" * (end - start))
    run, document = info(mmdump, image.write(tmp_path / "dump"))
    assert run.status == 5
    assert any("nodes or zones are garbage" in each for each in document["incomplete"])


def test_a_kernel_that_knows_no_page_is_no_success_and_leaves_no_half_answer(mmdump, image, tmp_path):
    _, (table, _), *_ = targets(image)["memory sections"]
    # The root of the sections, at the place of those of memory that the dump knows nothing of.
    image.memory.write(table, bytes(8) + image.memory.read(table, 8))
    dump = image.write(tmp_path / "dump")
    run, document = info(mmdump, dump)
    assert run.status == 5
    assert "page array: no page of this kernel's memory is known" in document["incomplete"]
    run = mmdump("pinned", dump, "-f", "json")
    assert (run.status, run.out) == (5, "")
    assert "no page of this kernel's memory is known" in run.err


def test_a_segment_at_an_offset_that_no_file_has_is_data_that_is_missing(mmdump, image, tmp_path):
    dump = image.write(tmp_path / "dump")
    with dump.open("r+b") as file:
        headers = bytearray(file.read(4096))
        for number in range(1, int.from_bytes(headers[56:58], "little")):
            headers[64 + 56 * number + 15] = 0xFF
        file.seek(0)
        file.write(headers)
    for command in (["info", dump], ["pinned", dump], ["cat", dump, "kpageflags"]):
        run = mmdump(*command)
        assert run.status in (3, 5), run
        assert "dump" in run.err or "could not" in run.out + run.err, run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_to_be_terminated_leaves_no_half_written_file(image, tmp_path, number):
    dump = image.write(tmp_path / "dump")
    plugin = tmp_path / "sleeper.py"
    plugin.write_text(SLEEPER)
    output = tmp_path / "output"
    output.mkdir()
    words = ["--plugin", plugin, "sleep", dump, "-o", output / "out.json"]
    # Not as under nohup, where the one is ignored.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        process = subprocess.Popen([sys.executable, "-m", "mmdump", *map(str, words)])
    finally:
        signal.signal(number, before)
    try:
        for _ in range(600):
            if (tmp_path / "asleep").exists():
                break
            time.sleep(0.05)
        assert list(output.iterdir())
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    finally:
        process.kill()
        process.wait()
    assert not list(output.iterdir())
