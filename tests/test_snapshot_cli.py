"""``mmdump snapshot`` and ``mmdump demo``, as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdump.plugins import load_plugins
from mmdump_snapshots.scenario import Scenario
from mmdump_snapshots.scenarios import SCENARIOS
from tests.conftest import Run

Mmdump = Callable[..., Run]

SCENARIO = """
from mmdump import hookimpl
from mmdump_snapshots.model import Gfp
from mmdump_snapshots.scenario import Scenario


def one_page(machine):
    with machine.running(machine.task("insmod", pid=77), "e1000_alloc_rx_buffers"):
        machine.alloc_pages(3, Gfp.KERNEL)


@hookimpl
def mmdump_scenarios():
    return [Scenario("one-page", "a driver takes one block", one_page, memory=64 << 20)]
"""


def test_the_demo_names_who_must_let_go_of_what(mmdump: Mmdump) -> None:
    run = mmdump("demo")
    assert run.status == 0, run.err
    assert (
        "12 by FOLL_PIN (allocated by postgres 1204), 4 by unexplained references (allocated by tar 1377)"
        in run.out
    )
    assert "4 held by pipe of pid 1377 (tar), fd 3, 4" in run.out
    assert "camera" in run.err
    assert run.err.endswith("--keep DIR keeps it.\n")


def test_the_scenarios_in_the_box_are_listed_with_the_kernels(mmdump: Mmdump) -> None:
    rows = mmdump("snapshot", "list", "-f", "jsonl", "--table", "scenarios").out.splitlines()
    assert {"cma-failure", "leak", "thp", "balloon", "fragmentation", "idle"} <= {
        json.loads(row)["scenario"] for row in rows
    }
    rows = mmdump("snapshot", "list", "-f", "jsonl", "--table", "kernels").out.splitlines()
    assert {"4.19", "6.12", "7.1", "6.12-arm64-16k"} <= {json.loads(row)["kernel"] for row in rows}


@pytest.mark.parametrize("container", ["elf", "kdump", "flattened"])
def test_what_was_generated_is_what_its_truth_says(mmdump: Mmdump, tmp_path: Path, container: str) -> None:
    out = tmp_path / "out"
    args = ("--kernel", "6.1", "--container", container, "--seed", "3", "--filter", "1")
    run = mmdump("snapshot", "generate", "cma-failure", "-o", str(out), *args)
    assert run.status == 0, run.err
    truth = json.loads((out / "truth.json").read_text())
    rows = [json.loads(row) for row in mmdump("pinned", out / "vmcore", "-f", "jsonl").out.splitlines()]
    assert [(row["pfn"], row["state"]) for row in rows] == [
        (row["pfn"], row["state"]) for row in truth["pinned"]
    ]


def test_a_plugin_brings_its_own_scenario(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCENARIO)
    out = tmp_path / "out"
    run = mmdump("--plugin", str(tmp_path / "mine.py"), "snapshot", "generate", "one-page", "-o", str(out))
    assert run.status == 0, run.err
    rows = mmdump("page-owner", out / "vmcore", "--comm", "insmod", "-f", "jsonl", "--table", "groups").out
    # What the stack depot allocated to remember it comes after it.
    first = json.loads(rows.splitlines()[0])
    assert first["pages"] == 8
    assert any("e1000_alloc_rx_buffers" in frame for frame in first["frames"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nothing",), "there is no scenario nothing"),
        (("idle", "--kernel", "2.6"), "there is no kernel 2.6"),
        (("idle", "--memory", "much"), "'much' is no size"),
        (("balloon", "--kernel", "4.19"), "balloon cannot happen to Linux 4.19"),
    ],
)
def test_what_cannot_be_generated_is_said_in_a_sentence(
    mmdump: Mmdump, tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    run = mmdump("snapshot", "generate", *args, "-o", str(tmp_path / "out"))
    assert (run.status, run.out) == (2, "")
    assert words in run.err


def test_a_dump_that_is_there_is_not_replaced_unless_told(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_bytes(b"precious")
    run = mmdump("snapshot", "generate", "thp", "-o", str(tmp_path))
    assert run.status == 2
    assert (tmp_path / "vmcore").read_bytes() == b"precious"
    assert mmdump("snapshot", "generate", "thp", "-o", str(tmp_path), "--force").status == 0


def test_the_demo_keeps_its_dump_but_replaces_none(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "vmcore").write_bytes(b"precious")
    run = mmdump("demo", "--keep", str(tmp_path))
    assert (run.status, run.out) == (2, "")
    assert (tmp_path / "vmcore").read_bytes() == b"precious"
    assert mmdump("demo", "--keep", str(tmp_path), "--force").status == 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_a_scenario_names_the_command_that_shows_it(scenario: Scenario) -> None:
    assert scenario.command in {"info", "check", *load_plugins(disabled=["*"]).analyses()}


def test_what_to_try_is_the_scenarios_own_command(mmdump: Mmdump, tmp_path: Path) -> None:
    run = mmdump("snapshot", "generate", "leak", "-o", "a leak")
    assert "Try: mmdump page-owner 'a leak/vmcore'" in run.err
