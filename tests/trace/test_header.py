"""The heading of ``trace`` and its columns of flags, in the forms that kernels have had."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mmdump_trace.header import Heading, flag_letters, read_heading
from tests.trace.builders import Memory

RODATA = 0xFFFFFFFF82000000
#: Of 5.4: PIDs of five columns, four of flags, and a place for the thread group that takes ten.
OLD = (
    b"%16s-%-5d ",
    b"#                          %s||| /     delay\n",
    b"#                          %s|| / _--=> preempt-depth\n",
    b"#                          %s  _-----=> irqs-off\n",
    b"#                          %s| / _---=> hardirq/softirq\n",
    b"#                          %s / _----=> need-resched\n",
    b"#           TASK-PID   CPU#%s||||    TIMESTAMP  FUNCTION\n",
    b"#              | |       | %s||||       |         |\n",
    b"#           TASK-PID   CPU#   %s  TIMESTAMP  FUNCTION\n",
    b"#              | |       |    %s     |         |\n",
    b"#  %s  _-----=> irqs-off        \n",
)


def _heading(*strings: bytes) -> Heading:
    memory = Memory({RODATA: b"\0" + b"\0".join((b"other", *strings, b"end")) + b"\0"})
    ends = {"__start_rodata": RODATA, "__end_rodata": RODATA + len(memory.parts[RODATA])}
    prog = SimpleNamespace(symbol=lambda name: SimpleNamespace(address=ends[name]))
    target: Any = SimpleNamespace(prog=prog, reader=memory)
    return read_heading(target)


def test_the_kernels_own_strings_make_the_heading_whatever_their_order() -> None:
    found = _heading(*OLD)
    assert (found.assumed, found.pid_width, found.migration) == (False, 5, False)
    lines = found.text(flags=True, tgid=False).splitlines()
    assert [each.lstrip("# ") for each in lines[:5]] == [
        "_-----=> irqs-off",
        "/ _----=> need-resched",
        "| / _---=> hardirq/softirq",
        "|| / _--=> preempt-depth",
        "||| /     delay",
    ]
    assert all(each.startswith("#" + " " * 28) for each in lines[:5])
    assert lines[5:] == [
        "#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION",
        "#              | |       |   ||||       |         |",
    ]
    assert found.text(flags=False, tgid=False) == (
        "#           TASK-PID   CPU#     TIMESTAMP  FUNCTION\n"
        "#              | |       |         |         |\n"
    )


def test_without_the_strings_it_is_the_newest_known() -> None:
    assert _heading().assumed
    lines = _heading().text(flags=True, tgid=True).splitlines()
    assert lines[0] == "#                                          _-----=> irqs-off/BH-disabled"
    assert lines[6] == "#           TASK-PID       TGID    CPU#  |||||  TIMESTAMP  FUNCTION"
    assert lines[7] == "#              | |           |       |   |||||     |         |"


BITS = {
    name: 1 << bit
    for bit, name in enumerate(
        (
            "IRQS_OFF",
            "NEED_RESCHED_LAZY",
            "NEED_RESCHED",
            "HARDIRQ",
            "SOFTIRQ",
            "PREEMPT_RESCHED",
            "NMI",
            "BH_OFF",
        )
    )
}


@pytest.mark.parametrize(
    ("names", "preempt", "letters"),
    [
        ((), 0, "....."),
        (("IRQS_OFF",), 1, "d..1."),
        (("IRQS_OFF", "BH_OFF"), 0x20, "D...2"),
        (("BH_OFF", "NEED_RESCHED"), 0x12, "bn.21"),
        (("NEED_RESCHED", "PREEMPT_RESCHED"), 0, ".N..."),
        (("NEED_RESCHED_LAZY",), 0, ".l..."),
        (("NEED_RESCHED_LAZY", "PREEMPT_RESCHED"), 0, ".L..."),
        (("NEED_RESCHED_LAZY", "NEED_RESCHED"), 0, ".b..."),
        (("NEED_RESCHED_LAZY", "NEED_RESCHED", "PREEMPT_RESCHED"), 0, ".B..."),
        (("PREEMPT_RESCHED",), 0, ".p..."),
        (("HARDIRQ", "SOFTIRQ"), 0, "..H.."),
        (("NMI", "HARDIRQ"), 0, "..Z.."),
        (("NMI",), 0, "..z.."),
        (("SOFTIRQ",), 0, "..s.."),
    ],
)
def test_flags_are_letters(names: tuple[str, ...], preempt: int, letters: str) -> None:
    flags = sum(BITS[name] for name in names)
    assert flag_letters(BITS, flags, preempt, migration=True) == letters


def test_before_migration_was_counted_there_were_four_columns() -> None:
    old = {"IRQS_NOSUPPORT": 2, "NEED_RESCHED": 4}
    assert flag_letters(old, 6, 0x1F, migration=False) == "Xn.1f"
    assert flag_letters(old, 0, 0, migration=False) == "...."
