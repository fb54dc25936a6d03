"""The machine a kernel ran on, and what it said when it died."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from drgn import FaultError

from mmdump.errors import MmdumpError
from mmdump.kernel.arrays import printable
from mmdump.kernel.clock import now_nsec
from mmdump.kernel.layout import c_string, find_object
from mmdump.kernel.log import read_log

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel import Kernel
    from mmdump.target import Target

__all__ = ["LastWords", "Machine", "read_last_words", "read_machine"]

T = TypeVar("T")

#: What kernels print when they panic (kernel: vpanic()).
_PANIC = re.compile(rb"Kernel panic - not syncing.*")
#: The first line of what may lead to it: page faults of the kernel, BUG(), bad pages, lockups, oopses.
_BUG = re.compile(rb"BUG: .*|Unable to handle kernel .*|kernel BUG at .*|Internal error: .*|Oops: .*")
#: Of a line.
_MOST_TEXT = 240
#: Larger machines than the kernel runs on; more is garbage.
_MOST_CPUS = 1 << 16
_MOST_SECONDS = 1 << 36
_MOST_PAGES = 1 << 46


@dataclass(frozen=True)
class Machine:
    """What is known of a machine; None is not known.

    :ivar node: Its name in the network.
    :ivar hardware: As ``uname -m``.
    :ivar version: As ``uname -v``: number and time of the build.
    :ivar online: CPUs online.
    :ivar possible: CPUs there may be.
    :ivar managed: Pages the page allocator was given.
    :ivar uptime: Nanoseconds since boot, to about a tick.
    :ivar wall_clock: When the dump was taken, seconds since the epoch, by the kernel's clock, which may
        be some seconds behind.
    """

    node: str | None
    hardware: str | None
    version: str | None
    online: int | None
    possible: int | None
    managed: int | None
    uptime: int | None
    wall_clock: int | None


@dataclass(frozen=True)
class LastWords:
    """What the log says of a crash; each is a line without its time, printable, or None.

    :ivar panic: The panic message.
    :ivar bug: The first line of the last BUG, oops or fault of the kernel.
    :ivar lost: Whether parts of the log, newer than that, could not be read.
    """

    panic: str | None = None
    bug: str | None = None
    lost: bool = False


def read_machine(kernel: Kernel) -> Machine:
    """What can be found out about the machine. Does not raise: what is missing or garbage is None."""
    prog = kernel.target.prog

    def name(member: str) -> str | None:
        return c_string(prog["init_uts_ns"].name.member_(member), 65)

    return Machine(
        node=_found(lambda: name("nodename")),
        hardware=_found(lambda: name("machine")),
        version=_found(lambda: name("version")),
        online=_found(lambda: _cpus(prog, "__cpu_online_mask")),
        possible=_found(lambda: _cpus(prog, "__cpu_possible_mask")),
        managed=_found(lambda: _managed(prog)),
        uptime=_found(lambda: now_nsec(kernel)),
        wall_clock=_found(lambda: _wall_clock(prog)),
    )


def read_last_words(target: Target) -> LastWords:
    """What the log says of a crash; the newest messages count.

    :raises drgn.FaultError: What leads to the log is not in the dump.
    :raises UnsupportedError: Its structures have other members.
    """
    panic: str | None = None
    lost: list[str] = []
    for message in read_log(target, lost):
        found = _PANIC.search(message.text)
        if found is not None and panic is None:
            panic = printable(found.group()[:_MOST_TEXT])
        found = _BUG.search(message.text)
        if found is not None:
            # "Internal error: Oops" and "Oops:" follow the line that says what happened.
            return LastWords(panic, printable(found.group()[:_MOST_TEXT]), bool(lost))
    return LastWords(panic, None, bool(lost))


def _found(find: Callable[[], T | None]) -> T | None:
    try:
        return find()
    except (FaultError, MmdumpError, LookupError, AttributeError, TypeError, ValueError, OverflowError):
        return None


def _cpus(prog: Program, mask: str) -> int | None:
    # cpu_online_mask is a macro of this since 4.5.
    count = sum(word.bit_count() for word in prog[mask].bits.value_())
    return count if 0 < count <= _MOST_CPUS else None


def _managed(prog: Program) -> int | None:
    # 5.0 made totalram_pages an atomic of this name.
    found = find_object(prog, "_totalram_pages")
    pages = int(prog["totalram_pages"].value_() if found is None else found.counter.value_())
    return pages if 0 < pages <= _MOST_PAGES else None


def _wall_clock(prog: Program) -> int | None:
    # 6.17 made tk_core an element of an array, a clock for each user of auxiliary clocks.
    clocks: Any = find_object(prog, "timekeeper_data")
    core = prog["tk_core"] if clocks is None else clocks[prog["TIMEKEEPER_CORE"]]
    seconds = int(core.timekeeper.xtime_sec.value_())
    return seconds if 0 < seconds < _MOST_SECONDS else None
