"""How this kernel lays out its trace instances and ring buffers: offsets and dtypes, as plain data.

What changed between releases, and by what it is told apart here:

- 5.6 renamed ``struct ring_buffer`` to ``struct trace_buffer``, and ``struct trace_buffer`` (with the trace's
  start and clock) to ``struct array_buffer``; with it ``trace_array.trace_buffer`` became ``array_buffer``.
- 6.8 gave buffers a sub-buffer order (``subbuf_order``), and each ``struct buffer_page`` its ``order``.
- 6.10 let user space map a buffer (``mapped``, ``meta_page``), 6.12 put buffers in memory that survives a
  reboot (``ring_meta``; ``struct ring_buffer_meta``, in 6.14 ``ring_buffer_cpu_meta``). The lists of pages
  are the same; such an instance keeps how far the kernel's text moved since (``text_delta``).
- 6.19 made ``trace_flags`` 64 bits wide; the bits have been ``TRACE_ITER_*_BIT`` throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from drgn import TypeKind, offsetof

from mmdump.errors import UnsupportedError
from mmdump.kernel.layout import byteorder, find_object, find_type, has_member, member_type, struct_dtype

if TYPE_CHECKING:
    from drgn import Program, Type

    from mmdump.target import Reader

__all__ = ["TraceLayout", "read_record", "read_trace_layout", "why_no_trace"]

#: RINGBUF_TYPE_PADDING and its like were these numbers in every kernel with this ring buffer.
_EVENT_TYPES = {
    "RINGBUF_TYPE_DATA_TYPE_LEN_MAX": 28,
    "RINGBUF_TYPE_PADDING": 29,
    "RINGBUF_TYPE_TIME_EXTEND": 30,
    "RINGBUF_TYPE_TIME_STAMP": 31,
}


@dataclass(frozen=True)
class TraceLayout:
    """Structures of the tracer, as dtypes. Plain data.

    :param array: ``struct trace_array``.
    :param array_list: Offset of its ``list``.
    :param buffer: ``struct trace_buffer``, by its older name ``struct ring_buffer``.
    :param buffers_inline: Whether the table of CPUs' buffers is an array at the end of that, not a pointer.
    :param cpu_buffer: ``struct ring_buffer_per_cpu``.
    :param buffer_page: ``struct buffer_page``, which begins with its list.
    :param data_page: ``struct buffer_data_page``, up to its data.
    :param entry: ``struct trace_entry``, with which each event begins.
    :param option_bits: Bits of ``trace_flags`` by name, such as ``IRQ_INFO``.
    :param event_flags: ``TRACE_FLAG_*`` by name, such as ``IRQS_OFF``.
    """

    order: str
    page_size: int
    array: np.dtype[np.void]
    array_list: int
    buffer: np.dtype[np.void]
    buffers_inline: bool
    cpu_buffer: np.dtype[np.void]
    buffer_page: np.dtype[np.void]
    data_page: np.dtype[np.void]
    entry: np.dtype[np.void]
    option_bits: dict[str, int]
    event_flags: dict[str, int]

    @property
    def header_size(self) -> int:
        """Bytes of a sub-buffer before its data (``BUF_PAGE_HDR_SIZE``)."""
        return self.data_page.itemsize


def why_no_trace(prog: Program) -> str | None:
    """Why this kernel has no ring buffers of ftrace, in one sentence; None when it has."""
    if find_object(prog, "ftrace_trace_arrays") is None or find_type(prog, "struct trace_array") is None:
        return "this kernel was built without tracing (CONFIG_TRACING)"
    return None


def read_trace_layout(prog: Program, page_size: int) -> TraceLayout:
    """Make out the tracer's structures.

    :raises UnsupportedError: They have other members than any kernel that is known.
    """
    array = _wanted(prog, "struct trace_array")
    # 5.6 renamed the member and its type.
    inner = "array_buffer" if has_member(array, "array_buffer") else "trace_buffer"
    pointer = member_type(array, f"{inner}.buffer")
    if pointer is None:
        raise UnsupportedError("struct trace_array of this kernel has no ring buffer")
    buffer = pointer.unaliased().type.unaliased()
    buffers = member_type(buffer, "buffers")
    if buffers is None:
        raise UnsupportedError("mmdump does not know this kernel's ring buffer")
    inline = buffers.unaliased().kind == TypeKind.ARRAY
    flag_bits = _numbers(prog, "TRACE_ITER_", "_BIT", _OPTIONS)
    event_flags = _numbers(prog, "TRACE_FLAG_", "", _EVENT_FLAGS)
    data_page = _wanted(prog, "struct buffer_data_page")
    for name, value in _EVENT_TYPES.items():
        found = find_object(prog, name)
        if found is not None and found.value_() != value:
            raise UnsupportedError("mmdump does not know this kernel's ring buffer events")
    members = {
        "next": ["list.next"],
        "name": ["name"],
        "buffer": [f"{inner}.buffer"],
        "time_start": [f"{inner}.time_start"],
        "max_buffer": ["max_buffer.buffer", "snapshot_buffer.buffer"],  # CONFIG_TRACER_MAX_TRACE
        "max_time_start": ["max_buffer.time_start", "snapshot_buffer.time_start"],
        "clock_id": ["clock_id"],
        "current_trace": ["current_trace"],
        "trace_flags": ["trace_flags"],
        "text_delta": ["text_delta"],  # 6.12
    }
    return TraceLayout(
        order=byteorder(prog),
        page_size=page_size,
        array=struct_dtype(
            prog, array, members, optional=("max_buffer", "max_time_start", "text_delta", "time_start")
        ),
        array_list=offsetof(array, "list"),
        buffer=struct_dtype(
            prog,
            buffer,
            {"subbuf_order": ["subbuf_order"]} | ({} if inline else {"buffers": ["buffers"]}),
            itemsize=offsetof(buffer, "buffers") if inline else None,
            optional=("subbuf_order",),
        ),
        buffers_inline=inline,
        cpu_buffer=struct_dtype(
            prog,
            _wanted(prog, "struct ring_buffer_per_cpu"),
            {name: [name] for name in _CPU_BUFFER},
            optional=("dropped_events", "commit_overrun"),
        ),
        buffer_page=struct_dtype(
            prog,
            _wanted(prog, "struct buffer_page"),
            {
                "next": ["list.next"],
                "prev": ["list.prev"],
                "read": ["read"],
                "entries": ["entries"],
                "write": ["write"],
                "order": ["order"],  # 6.8
                "page": ["page"],
            },
            optional=("order",),
        ),
        data_page=struct_dtype(
            prog,
            data_page,
            {"time_stamp": ["time_stamp"], "commit": ["commit"]},
            itemsize=offsetof(data_page, "data"),
        ),
        entry=struct_dtype(
            prog,
            _wanted(prog, "struct trace_entry"),
            {"type": ["type"], "flags": ["flags"], "preempt_count": ["preempt_count"], "pid": ["pid"]},
        ),
        option_bits=flag_bits,
        event_flags=event_flags,
    )


_CPU_BUFFER = (
    "cpu",
    "nr_pages",
    "pages",
    "head_page",
    "tail_page",
    "commit_page",
    "reader_page",
    "entries",
    "overrun",
    "commit_overrun",
    "dropped_events",
    "read",
)
_OPTIONS = (
    *("PRINT_PARENT", "SYM_OFFSET", "SYM_ADDR", "VERBOSE", "RAW", "HEX", "BIN", "FIELDS", "PRINTK"),
    *("ANNOTATE", "SYM_USEROBJ", "PRINTK_MSGONLY", "CONTEXT_INFO", "LATENCY_FMT", "RECORD_TGID"),
    *("IRQ_INFO", "HASH_PTR"),
)
_EVENT_FLAGS = (
    *("IRQS_OFF", "IRQS_NOSUPPORT", "NEED_RESCHED_LAZY", "NEED_RESCHED", "HARDIRQ", "SOFTIRQ"),
    *("PREEMPT_RESCHED", "NMI", "BH_OFF"),
)


def _wanted(prog: Program, name: str) -> Type:
    found = find_type(prog, name)
    if found is None:
        raise UnsupportedError(f"the debug info of this kernel has no {name}")
    return found


def _numbers(prog: Program, prefix: str, suffix: str, names: tuple[str, ...]) -> dict[str, int]:
    """The enumerators of these names that this kernel has; which enum they belong to has changed."""
    found = {name: find_object(prog, f"{prefix}{name}{suffix}") for name in names}
    return {name: int(value.value_()) for name, value in found.items() if value is not None}


def read_record(reader: Reader, address: int, dtype: np.dtype[np.void]) -> Any | None:
    """One structure at an address, as a numpy record; None where it is not in the dump."""
    chunk = reader.read(address, dtype.itemsize)
    if not address or not chunk.complete or len(chunk.data) < dtype.itemsize:
        return None
    return chunk.data.view(dtype)[0]
