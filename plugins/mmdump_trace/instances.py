"""Trace instances: the top one, and those that have a name (kernel/trace/trace.c: ftrace_trace_arrays)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.layout import find_object, find_type, has_member
from mmdump_trace.clocks import TraceClock, read_clock
from mmdump_trace.layout import TraceLayout, read_record
from mmdump_trace.memory import text_at

if TYPE_CHECKING:
    from mmdump.target import Target

__all__ = ["Instance", "find_instance", "read_instances"]

#: Instances that are followed at most.
_MOST = 1 << 12


@dataclass(frozen=True)
class Instance:
    """A ``struct trace_array``. Plain data.

    :param name: Of an instance that was made by name; None for the top one.
    :param buffer: Address of its ring buffer.
    :param time_start: Events before it do not count (``array_buffer.time_start``).
    :param options: Names of the options that are on, such as ``IRQ_INFO``.
    :param hash_is_option: Whether this kernel has an option not to hash pointers (5.13).
    :param tracer: The current tracer's name.
    :param clock: Its trace clock.
    :param text_delta: How far the kernel lies from where it lay when a buffer that survived a reboot was
        written (6.12).
    """

    name: str | None
    buffer: int
    time_start: int
    options: frozenset[str]
    tracer: str
    clock: TraceClock
    text_delta: int = 0
    hash_is_option: bool = True

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return "the top instance" if self.name is None else f"instance {self.name}"


def find_instance(instances: list[Instance], name: str | None, wrong: str | None = None) -> Instance:
    """The instance of that name, or the top one.

    :param wrong: What is wrong with the list of them.
    :raises UnsupportedError: There is none.
    :raises IncompleteError: None is known, but not all could be read.
    """
    for each in instances:
        if each.name == name:
            return each
    if name is None:
        raise IncompleteError("the top trace instance could not be found")
    if wrong is not None:
        raise IncompleteError(f"there is no trace instance {name} among those that could be read")
    known = ", ".join(each.name for each in instances if each.name is not None)
    raise UnsupportedError(
        f"this kernel has no trace instance {name}", f"It has: {known}" if known else "It has none by name."
    )


def read_instances(target: Target, layout: TraceLayout) -> tuple[list[Instance], str | None]:
    """All instances, and in one sentence what is wrong with their list.

    :raises UnsupportedError: This kernel has no tracer.
    """
    prog = target.prog
    head = find_object(prog, "ftrace_trace_arrays")
    if head is None or head.address_ is None:
        raise UnsupportedError("this kernel was built without tracing (CONFIG_TRACING)")
    found: list[Instance] = []
    seen = {head.address_}
    wrong = None
    pointer = target.reader.read(head.address_, 8)
    link = int(pointer.data.view(layout.order + "u8")[0]) if pointer.complete else 0
    while link not in seen and len(seen) <= _MOST:
        seen.add(link)
        array = read_record(target.reader, link - layout.array_list, layout.array)
        if array is None:
            wrong = "the list of trace instances is torn: some may be missing"
            break
        found.append(_instance(target, layout, array))
        link = int(array["next"])
    else:
        if link != head.address_:
            wrong = "the list of trace instances leads in a circle: some may be missing"
    if all(each.name is not None for each in found):
        # The variable itself is where the top one has always been.
        top = find_object(prog, "global_trace")
        array = read_record(target.reader, top.address_ or 0, layout.array) if top is not None else None
        if array is not None:
            found.append(_instance(target, layout, array))
    return found, wrong


def _instance(target: Target, layout: TraceLayout, array: Any) -> Instance:
    bits = int(array["trace_flags"])
    name = text_at(target.reader, int(array["name"])) if int(array["name"]) else None
    tracer, print_max = _tracer(target, int(array["current_trace"]))
    names = array.dtype.names or ()
    kept = print_max and "max_buffer" in names and int(array["max_buffer"])
    start = "max_time_start" if kept else "time_start"
    clock = read_clock(target, int(array["clock_id"]))
    text_delta = int(array["text_delta"]) if "text_delta" in names else 0
    return Instance(
        name=name,
        buffer=int(array["max_buffer" if kept else "buffer"]),
        time_start=int(array[start]) if start in names else 0,
        options=frozenset(each for each, bit in layout.option_bits.items() if bits >> bit & 1),
        tracer=tracer,
        # The clocks of before a reboot are gone.
        clock=replace(clock, to_log=None) if text_delta else clock,
        text_delta=text_delta,
        hash_is_option="HASH_PTR" in layout.option_bits,
    )


def _tracer(target: Target, address: int) -> tuple[str, bool]:
    """Name of a ``struct tracer``, and whether it shows the buffer of the longest latency (``print_max``)."""
    from drgn import FaultError, Object

    if not address or find_type(target.prog, "struct tracer") is None:
        return "nop", False
    tracer = Object(target.prog, "struct tracer", address=address)
    try:
        name = text_at(target.reader, tracer.name.value_()) or "?"
        return name, bool(has_member(tracer.type_, "print_max") and tracer.print_max.value_())
    except FaultError:
        return "?", False
