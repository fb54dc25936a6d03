"""Trace events from the ftrace ring buffers of a dump (kernel/trace/).

For other plugins: :func:`read_events` gives events as rows, with their fields as columns.
"""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernelfile import KernelFile
from mmdump_trace.analysis import TraceAnalysis
from mmdump_trace.clocks import TraceClock
from mmdump_trace.files import FILES
from mmdump_trace.layout import why_no_trace
from mmdump_trace.read import TraceEvents, read_events
from mmdump_trace.reading import trace_clock

__all__ = ["TraceAnalysis", "TraceClock", "TraceEvents", "read_events", "trace_clock", "why_no_trace"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump trace``."""
    return [TraceAnalysis]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """``/sys/kernel/tracing/trace``, and that of each instance."""
    return FILES
