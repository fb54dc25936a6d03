"""The heading of ``trace`` and the columns before each event, as this kernel prints them.

Between releases the heading changed with the columns it explains: the width of PIDs (5.9), migrate-disable
(5.14), BH-disabled (6.0), the lazy form of need-resched (6.13). The kernel's own format strings, which lie in
its read-only data, tell which it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdump.target.reader import MAX_READ

if TYPE_CHECKING:
    from mmdump.target import Target

__all__ = ["Heading", "flag_letters", "read_heading"]

#: How it is in 6.12, for dumps without the kernel's strings.
_ARROWS = (
    "#                            %.*s  _-----=> irqs-off/BH-disabled\n",
    "#                            %.*s / _----=> need-resched\n",
    "#                            %.*s| / _---=> hardirq/softirq\n",
    "#                            %.*s|| / _--=> preempt-depth\n",
    "#                            %.*s||| / _-=> migrate-disable\n",
    "#                            %.*s|||| /     delay\n",
)
_NAMES = "#           TASK-PID  %.*s CPU#  |||||  TIMESTAMP  FUNCTION\n"
_BARS = "#              | |    %.*s   |   |||||     |         |\n"
_PLAIN_NAMES = "#           TASK-PID    %s CPU#     TIMESTAMP  FUNCTION\n"
_PLAIN_BARS = "#              | |      %s   |         |         |\n"
#: Words by which a format string is found, and what stands right before a string.
_MARKS = (b"=> ", b" delay\n", b"TASK-PID ", b"#              | | ", b"%16s-%-")
_SLOT = re.compile(r"%(\.\*)?s")
#: Of print_func_help_header_irq(): function_graph's headings begin otherwise.
_IRQ_ROW = re.compile(rb"# {20,}%(?:\.\*)?s")


@dataclass(frozen=True)
class Heading:
    """The formats of one kernel.

    :param arrows: Lines that explain the flags, the last of them the delay's.
    :param names: The line with the columns' names, and that with bars, where flags are shown.
    :param plain: The same two where they are not.
    :param pid_width: Columns of a PID.
    :param migration: Whether the depth of disabled migration is shown.
    :param assumed: Whether the kernel's own strings could not be found.
    """

    arrows: tuple[str, ...] = _ARROWS
    names: tuple[str, str] = (_NAMES, _BARS)
    plain: tuple[str, str] = (_PLAIN_NAMES, _PLAIN_BARS)
    pid_width: int = 7
    migration: bool = True
    assumed: bool = False

    def text(self, *, flags: bool, tgid: bool) -> str:
        """The lines of ``print_func_help_header_irq()`` or ``print_func_help_header()``."""
        if not flags:
            first, second = self.plain
            # 5.9 and before had the column elsewhere; its width is the same.
            return _filled(first, "   TGID   ", tgid, "") + _filled(second, "     |    ", tgid, "")
        first, second = self.names
        lines = [_filled(each, "            ", tgid, "  ") for each in self.arrows]
        wide = "%.*s" in first
        lines.append(_filled(first, "     TGID   " if wide else "   TGID   ", tgid, "  "))
        lines.append(_filled(second, "       |    " if wide else "     |    ", tgid, "  "))
        return "".join(lines)


def _filled(text: str, with_tgid: str, tgid: bool, without: str) -> str:
    if not tgid:
        return _SLOT.sub(without, text, count=1)
    # ``%.*s`` takes twelve columns of what it is given, the older ``%s`` was given ten.
    wide = "%.*s" in text
    return _SLOT.sub(with_tgid[:12] if wide or with_tgid.strip() else with_tgid[:10], text, count=1)


def read_heading(target: Target) -> Heading:
    """Find the kernel's own strings. Does not raise: where there are none it is 6.12's heading."""
    strings = _strings(target)
    arrows = sorted(
        (each for each in strings if _IRQ_ROW.match(each) and b"=> " in each),
        key=lambda each: -each.count(b"-", 0, each.index(b"=>")),
    )
    delays = [each for each in strings if _IRQ_ROW.match(each) and each.endswith(b" delay\n")]
    named = [each for each in strings if each.startswith(b"#           TASK-PID ") and each.count(b"%") == 1]
    barred = [each for each in strings if each.startswith(b"#              | | ") and each.count(b"%") == 1]
    irq = [each for group in (named, barred) for each in group if b"||||" in each]
    plain = [each for group in (named, barred) for each in group if b"||||" not in each]
    if not arrows or len(delays) != 1 or len(irq) != 2:
        return Heading(assumed=True)
    return Heading(
        arrows=tuple(each.decode("latin-1") for each in [*arrows, *delays]),
        names=(irq[0].decode("latin-1"), irq[1].decode("latin-1")),
        plain=(plain[0].decode("latin-1"), plain[1].decode("latin-1"))
        if len(plain) == 2
        else (_PLAIN_NAMES, _PLAIN_BARS),
        pid_width=5 if b"%16s-%-5d " in strings and b"%16s-%-7d " not in strings else 7,
        migration=any(b"migrate-disable" in each for each in arrows),
    )


def _strings(target: Target) -> set[bytes]:
    """The strings of the kernel's read-only data that may be those that are looked for."""
    try:
        start = target.prog.symbol("__start_rodata").address
        end = target.prog.symbol("__end_rodata").address
    except LookupError:
        return set()
    size = min(end - start, MAX_READ)
    if size <= 0:
        return set()
    data = target.reader.read(start, size).data.tobytes()
    found = set()
    for mark in _MARKS:
        at = data.find(mark)
        while at >= 0:
            begin, stop = data.rfind(b"\0", max(0, at - 128), at) + 1, data.find(b"\0", at, at + 128)
            if begin and stop >= 0:
                found.add(data[begin:stop])
            at = data.find(mark, at + len(mark))
    return found


def flag_letters(bits: Mapping[str, int], flags: int, preempt: int, *, migration: bool) -> str:
    """``.....``: ``trace_print_lat_fmt()``.

    :param bits: ``TRACE_FLAG_*`` of this kernel, by name.
    :param migration: Whether the count of disabled migration is shown behind that of preemption (5.14).
    """

    def is_set(name: str) -> bool:
        return bool(flags & bits.get(name, 0))

    off, below = is_set("IRQS_OFF"), is_set("BH_OFF")  # BH_OFF: 6.0
    irqs = (
        "D" if off and below else "d" if off else "b" if below else "X" if is_set("IRQS_NOSUPPORT") else "."
    )
    resched = _RESCHED[is_set("NEED_RESCHED"), is_set("NEED_RESCHED_LAZY"), is_set("PREEMPT_RESCHED")]
    nmi, hard, soft = is_set("NMI"), is_set("HARDIRQ"), is_set("SOFTIRQ")
    within = (
        "Z"
        if nmi and hard
        else "z"
        if nmi
        else "H"
        if hard and soft
        else "h"
        if hard
        else "s"
        if soft
        else "."
    )
    if not migration:
        return irqs + resched + within + (f"{preempt:x}" if preempt else ".")
    low, high = preempt & 0xF, preempt >> 4
    return irqs + resched + within + (f"{low:x}" if low else ".") + (f"{high:x}" if high else ".")


#: By need_resched, the lazy one (6.13, in the bit that said IRQS_NOSUPPORT), and that of preemption.
_RESCHED = {
    (True, True, True): "B",
    (True, False, True): "N",
    (False, True, True): "L",
    (True, True, False): "b",
    (True, False, False): "n",
    (False, True, False): "l",
    (False, False, True): "p",
    (False, False, False): ".",
}
