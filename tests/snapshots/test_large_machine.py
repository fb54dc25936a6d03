"""A large machine costs memory only where something happened, and is analysed all the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.scan import run_one
from mmdump.target import open_target

GIB = 1 << 30
MEMORY = 16 * GIB

#: Runs the command line, and says last what it took at most. RssAnon has no high-water mark of its own: it is
#: looked at all the time by a thread.
MEASURED = """
import re, sys, threading
from mmdump.cli import main
done, peak = threading.Event(), [0]
def watch():
    while not done.wait(0.01):
        with open("/proc/self/status") as status:
            peak[0] = max(peak[0], int(re.search(r"RssAnon:\\s+(\\d+) kB", status.read())[1]))
watching = threading.Thread(target=watch)
watching.start()
status = main(sys.argv[1:])
done.set()
watching.join()
print("RssAnon", peak[0] << 10)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The directory of an idle machine of 16 GiB, and the peak RssAnon of its making in bytes."""
    directory = tmp_path_factory.mktemp("large")
    arguments = ["snapshot", "generate", "idle", "-o", str(directory), "--memory", f"{MEMORY // GIB}G"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], check=True, capture_output=True, text=True
    )
    return directory, int(re.search(r"RssAnon (\d+)", done.stdout)[1])


def test_it_is_generated_in_little_memory(generated):
    _, peak = generated
    assert 0 < peak < GIB


def test_its_dump_is_sparse(generated):
    directory, _ = generated
    status = (directory / "vmcore").stat()
    # All but the hole below 1 MiB.
    assert status.st_size > MEMORY - (1 << 20)
    # Its struct pages, and little else.
    assert status.st_blocks * 512 < MEMORY // 4096 * 64 + (128 << 20)


def test_its_truth_is_short(generated):
    directory, _ = generated
    assert (directory / "truth.json").stat().st_size < 100_000


def test_what_the_driver_holds_is_found(generated):
    directory, _ = generated
    plugins = load_plugins(disabled=["*"])
    with open_target(directory / "vmcore") as target:
        kernel = Kernel(target, plugins.page_ext_clients())
        pages = run_one(kernel, plugins.analyses()["pinned"]()).tables["pages"].frame
    truth = json.loads((directory / "truth.json").read_text())["pinned"]
    assert {(row["head_pfn"], row["order"], row["pincount"]) for row in pages.to_dicts()} == {
        (page["head_pfn"], page["order"], page["pincount"]) for page in truth
    }
    assert sorted(pages["order"].to_list()) == [0, 9]
    assert set(pages["owner_comm"]) == {"qemu-system-x86"}
