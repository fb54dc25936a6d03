"""Trace events from the ftrace ring buffers of a dump (kernel/trace/)."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.kernelfile import KernelFile
from mmdump_trace.files import FILES

__all__: list[str] = []


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """``/sys/kernel/tracing/trace``, and that of each instance."""
    return FILES
