"""``mmdump info`` of the real vmcore: the machine it was taken from, its log, and what can be asked of it."""

from __future__ import annotations

import re

import pytest

from mmdump.amounts import bytes_text
from mmdump.info import info
from mmdump.kernel import Kernel
from mmdump.kernel.log import read_log
from mmdump.plugins import Plugins
from mmdump.result import Result
from tests.conftest import Sample


@pytest.fixture(scope="module")
def found(kernel: Kernel, plugins: Plugins) -> Result:
    return info(kernel, plugins)


@pytest.fixture(scope="module")
def facts(found: Result) -> dict[str, str]:
    return dict(found.tables["facts"].frame.iter_rows())


def test_it_says_what_machine_it_was(facts: dict[str, str]) -> None:
    assert facts["node"] == "(none)"
    assert facts["machine"] == "x86_64"
    assert facts["build"].startswith("#1 SMP PREEMPT_DYNAMIC")
    assert facts["CPUs"] == "2 online of 2 possible"


def test_memory_is_what_the_zones_manage(facts: dict[str, str], kernel: Kernel) -> None:
    managed = sum(state.managed for state in kernel.zone_states)
    assert facts["memory"] == f"{bytes_text(managed * 4096)} managed"


def test_it_was_up_longer_than_its_log(facts: dict[str, str], kernel: Kernel) -> None:
    hours, minutes, seconds = (int(part) for part in facts["uptime"].split(":"))
    newest = next(read_log(kernel.target)).nsec
    assert newest <= ((hours * 60 + minutes) * 60 + seconds) * 10**9 < newest + 3600 * 10**9


def test_the_dump_was_taken_on_the_day_the_kernel_was_built(facts: dict[str, str]) -> None:
    # QEMU wrote it while the kernel ran: there is no CRASHTIME, and nobody panicked.
    assert "crash time" not in facts
    assert re.fullmatch(r"2026-11-20 \d\d:\d\d:\d\d UTC", facts["time of dump"])
    assert "panic" not in facts
    assert "last bug" not in facts


def test_the_log_is_what_dmesg_printed(kernel: Kernel, sample: Sample) -> None:
    from drgn.helpers.linux.printk import get_printk_records

    ours = [(each.nsec, each.text) for each in read_log(kernel.target)]
    assert ours[::-1] == [(each.timestamp, each.text) for each in get_printk_records(kernel.target.prog)]


def test_nothing_is_incomplete_and_all_analyses_can_run_but_those_it_has_nothing_for(found: Result) -> None:
    assert not found.incomplete
    analyses = found.tables["analyses"].frame
    # Android's page pinner it has not, and memory allocation profiling is off.
    assert set(analyses.filter(~analyses["runs"])["analysis"]) == {"alloc-tags", "pinner-events"}
    clients = {row["client"]: row for row in found.tables["page_ext"].frame.iter_rows(named=True)}
    assert clients["page_owner"]["state"] == "on"
