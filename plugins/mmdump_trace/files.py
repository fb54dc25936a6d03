"""``/sys/kernel/tracing/trace`` and its like, as text (kernel/trace/trace.c: s_show, print_trace_fmt)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.layout import find_object
from mmdump.kernelfile import KernelFile
from mmdump_trace.header import Heading, flag_letters, read_heading
from mmdump_trace.layout import why_no_trace
from mmdump_trace.reading import Trace, open_trace
from mmdump_trace.stream import Account

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.scan import Ranges
    from mmdump_trace.stream import Events

__all__ = ["FILES", "trace_text"]

#: Options and tracers with a form of their own.
_OTHER_FORMS = {
    "LATENCY_FMT": "latency-format",
    "VERBOSE": "verbose",
    "RAW": "raw",
    "HEX": "hex",
    "BIN": "bin",
}
_OTHER_TRACERS = ("function_graph", "blk", "mmiotrace", "hwlat", "osnoise", "timerlat", "irqsoff", "wakeup")
#: What a terminal could take for a command; the kernel prints it as it is.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def _text(kernel: Kernel, _: Ranges, instance: str | None = None) -> Iterator[bytes]:
    yield from trace_text(kernel, open_trace(kernel, instance))


def _why_not(kernel: Kernel, *_: str) -> str | None:
    return why_no_trace(kernel.target.prog)


FILES = [
    KernelFile(
        f"{directory}/{file}",
        summary,
        _text,
        why_not=_why_not,
        same_as=f"/sys/kernel/tracing/{file}",
    )
    for directory in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
    for file, summary in (
        ("trace", "the events in the ring buffers of ftrace, all CPUs' in order of time"),
        ("instances/*/trace", "the same of an instance"),
    )
]


def trace_text(kernel: Kernel, trace: Trace) -> Iterator[bytes]:
    """The file in pieces.

    :raises UnsupportedError: It has a form that mmdump does not print.
    :raises IncompleteError: After all that could be printed: what is missing.
    """
    instance = trace.instance
    for option, name in _OTHER_FORMS.items():
        if option in instance.options:
            raise UnsupportedError(
                f"the trace is in the form of option {name}, which mmdump does not print",
                "mmdump trace shows its events.",
            )
    if instance.tracer.startswith(_OTHER_TRACERS):
        raise UnsupportedError(
            f"tracer {instance.tracer} prints events in its own form, which mmdump does not",
            "mmdump trace shows its events.",
        )
    heading = read_heading(kernel.target)
    yield _heading(kernel, trace, heading).encode("latin-1", "backslashreplace")
    writer = _Writer(trace, heading)
    account = Account()
    for events in trace.source.merged(account):
        yield writer.lines(events).encode("latin-1", "backslashreplace")
    problems = [*trace.problems, *account.problems(trace.source.ring)]
    if problems:
        raise IncompleteError("; ".join(problems))


def _heading(kernel: Kernel, trace: Trace, heading: Heading) -> str:
    """``s_show()`` of the first line, ``trace_default_header()``."""
    instance, ring = trace.instance, trace.source.ring
    text = f"# tracer: {instance.tracer}\n#\n"
    if _ftrace_is_dead(kernel):
        text += "# WARNING: FUNCTION TRACING IS CORRUPTED\n#          MAY BE MISSING FUNCTION EVENTS\n"
    if "CONTEXT_INFO" not in instance.options:
        return text
    skipped = _skipped(trace)
    entries = sum(each.entries - skipped.get(each.cpu, 0) for each in ring.cpus)
    written = sum(
        # Events from before the trace's start make what was overwritten meaningless.
        each.entries - skipped[each.cpu] if skipped.get(each.cpu) else each.entries + each.overrun
        for each in ring.cpus
    )
    text += f"# entries-in-buffer/entries-written: {entries}/{written}   #P:{_online(kernel)}\n#\n"
    return text + heading.text(flags="IRQ_INFO" in instance.options, tgid="RECORD_TGID" in instance.options)


def _skipped(trace: Trace) -> dict[int, int]:
    if not trace.instance.time_start:
        return {}
    account = Account()
    for _ in trace.source.by_pages(account):
        pass
    return account.skipped


def _online(kernel: Kernel) -> int:
    words = kernel.target.prog["__cpu_online_mask"].bits.value_()
    return sum(word.bit_count() for word in words)


def _ftrace_is_dead(kernel: Kernel) -> bool:
    found = find_object(kernel.target.prog, "ftrace_disabled", "ftrace.c")
    try:
        return found is not None and bool(found.value_())
    except FaultError:
        return False


class _Writer:
    """Prints events in order: ``print_trace_fmt()``.

    :ivar started: CPUs of which an event was printed.
    """

    def __init__(self, trace: Trace, heading: Heading) -> None:
        self._trace = trace
        self._heading = heading
        options = trace.instance.options
        self._context = "CONTEXT_INFO" in options
        self._flags = "IRQ_INFO" in options
        self._tgid = "RECORD_TGID" in options
        self._letters: dict[tuple[int, int], str] = {}
        self._tasks: dict[int, str] = {}
        ring = trace.source.ring
        # Where events were overwritten, those of a CPU begin at some time of its own.
        self._annotate = "ANNOTATE" in options and any(each.overrun for each in ring.cpus)
        self._started: set[int] = set()
        self._index = -1

    def lines(self, events: Events) -> str:
        """The text of some events."""
        pieces = []
        data = events.data.tobytes()
        for cpu, stamp, kind, flags, preempt, pid, start, size in zip(
            *(
                getattr(events, name).tolist()
                for name in ("cpu", "stamp", "type", "flags", "preempt", "pid", "start", "size")
            ),
            strict=True,
        ):
            self._index += 1
            if self._annotate and cpu not in self._started:
                self._started.add(cpu)
                # Nothing stands before the first ones.
                if self._index > 1:
                    pieces.append(f"##### CPU {cpu} buffer started ####\n")
            text = self._trace.printer.text(kind, data[start : start + size])
            if not text.isprintable():
                text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
            if self._context:
                pieces.append(self._columns(cpu, stamp, flags, preempt, pid))
            pieces.append(text)
        return "".join(pieces)

    def _columns(self, cpu: int, stamp: int, flags: int, preempt: int, pid: int) -> str:
        """``trace_print_context()``."""
        task = self._tasks.get(pid)
        if task is None:
            task = self._tasks[pid] = self._task(pid)
        letters = ""
        if self._flags:
            key = flags, preempt
            letters = self._letters.get(key) or self._letters.setdefault(
                key,
                flag_letters(
                    self._trace.layout.event_flags, flags, preempt, migration=self._heading.migration
                ),
            )
        if self._trace.instance.clock.in_ns:
            micro = (stamp + 500) // 1000  # ns2usecs()
            time = f" {micro // 1_000_000:5}.{micro % 1_000_000:06}"
        else:
            time = f" {stamp:12}"
        return f"{task}[{cpu:03}] {letters}{time}: "

    def _task(self, pid: int) -> str:
        width = self._heading.pid_width
        comm = _CONTROL.sub("?", self._trace.comms.comm(pid))
        task = f"{comm:>16}-{pid:<{width}} "
        if self._tgid:
            tgid = self._trace.comms.tgid(pid)
            task += f"({tgid:{width}}) " if tgid else f"({'-' * width}) "
        return task
