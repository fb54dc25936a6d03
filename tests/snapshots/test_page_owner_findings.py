"""What page-owner finds by itself on machines that are known: a leak, and pages that nobody owns."""

from __future__ import annotations

import io
from functools import cache

import pytest

from mmdump.amounts import bytes_text, counted
from mmdump.kernel import Kernel
from mmdump.kernel.clock import now_nsec
from mmdump.plugins import load_plugins
from mmdump.render import RenderOptions, open_renderer
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.truth import Truth
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import build
from tests.snapshots.machines import PROFILES, busy

STORIES = {scenario.name: scenario for scenario in SCENARIOS}
#: Records say when a page was allocated.
TIMED = [name for name in PROFILES if profile(name).version >= (5, 11)]
UNTIMED = [name for name in PROFILES if profile(name).version < (5, 11)]
LEAKY = "e1000_alloc_rx_buffers"
#: Scenarios whose metadata nobody has overwritten, so that there is a truth.
OTHERS = [name for name, scenario in STORIES.items() if name != "leak" and scenario.spoil is None]


@cache
def told(story: str, name: str) -> tuple[Truth, Result]:
    """What happened, and what ``mmdump page-owner`` says of it."""
    plugins = load_plugins(disabled=["*"])
    machine = STORIES[story].play(profile(name), seed=1)
    image = build(machine, profile(name), kaslr=1)
    kernel = Kernel(image.target(), plugins.page_ext_clients())
    return Truth.of(machine), run_one(kernel, plugins.analyses()["page-owner"]())


def printed(result: Result) -> str:
    out = io.BytesIO()
    renderer = open_renderer("text", out, RenderOptions())
    renderer.finish(result)
    return out.getvalue().decode()


def finding(result: Result, key: str) -> str:
    """The message of the one finding of this rule."""
    [message] = [each.message for each in result.findings if each.key == key]
    return message


@pytest.mark.parametrize("name", TIMED)
def test_a_leak_is_a_finding_and_its_chain_the_first_line(name):
    truth, result = told("leak", name)
    [leaking] = [each for each in truth.owners.by_stack.values() if LEAKY in each.frames]
    [row] = result.tables["suspects"].frame.to_dicts()
    assert (row["pages"], row["allocations"]) == (leaking.pages, leaking.allocations)
    assert row["bytes"] == truth.owners.bytes(leaking.handle)
    assert (row["oldest_ts_nsec"], row["newest_ts_nsec"]) == (leaking.oldest, leaking.newest)
    assert [frame.partition("+")[0] for frame in row["frames"]] == list(leaking.frames)
    assert f"call chain {row['stack_id']} allocated" in finding(result, "page-owner-leak")
    assert result.text_tables[0] == "suspects"
    # The first chain that is printed is under the first row of the first table.
    lines = printed(result).splitlines()
    heading = lines.index("Suspected leaks")
    assert not any("STACK_ID" in line for line in lines[:heading])
    assert lines[heading + 2].split()[0] == str(leaking.pages)
    chain = lines[heading + 3 : heading + 3 + len(leaking.frames)]
    assert [line.strip().partition("+")[0] for line in chain] == list(leaking.frames)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("story", OTHERS)
def test_nothing_else_looks_like_a_leak(story, name):
    if profile(name).version < STORIES[story].since:
        pytest.skip(f"{story} cannot happen to {name}")
    _, result = told(story, name)
    assert "page-owner-leak" not in [each.key for each in result.findings]
    assert "suspects" not in result.tables


@pytest.mark.parametrize("name", UNTIMED)
@pytest.mark.parametrize("story", ["leak", "idle"])
def test_a_kernel_that_records_no_times_says_that_it_looks_for_no_leaks(story, name):
    _, result = told(story, name)
    assert "suspects" not in result.tables
    [note] = [each for each in result.notes if "leaks" in each]
    assert "Linux 5.11 and newer do" in note


@pytest.mark.parametrize("name", PROFILES)
def test_a_dump_says_when_it_was_taken(name):
    machine, image = busy(name)
    kernel = Kernel(image.target(), load_plugins(disabled=["*"]).page_ext_clients())
    assert now_nsec(kernel) == machine.clock.now


@pytest.mark.parametrize("name", TIMED)
def test_where_leaks_were_looked_for_nothing_is_said_of_it(name):
    assert told("idle", name)[1].notes == []


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("story", ["early-boot", "depot-exhausted"])
def test_pages_without_a_chain_of_their_own_are_a_finding_with_their_bytes(story, name):
    truth, result = told(story, name)
    owners = truth.owners
    rows = {row["special"]: row for row in result.tables["groups"].frame.to_dicts()}
    for special, handle in owners.special.items():
        key = f"page-owner-{special.removesuffix('_handle')}"
        if not owners.bytes(handle):
            assert key not in [each.key for each in result.findings]
            continue
        assert rows[special]["bytes"] == owners.bytes(handle)
        pages = owners.by_stack[handle].pages
        assert rows[special]["pages"] == pages
        size, have = bytes_text(owners.bytes(handle)), "has" if pages == 1 else "have"
        assert finding(result, key).startswith(
            f"{counted(pages, 'page')} ({size}) {have} {special} in place of a call chain"
        )
    assert owners.bytes(owners.special["early_handle"])
    assert bool(owners.bytes(owners.special["failure_handle"])) == (story == "depot-exhausted")
