"""CMA: areas for contiguous allocation, what is in them, and what stands in the way of an allocation."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.analysis import Analysis
from mmdump.kernelfile import KernelFile
from mmdump_cma.analysis import Cma
from mmdump_cma.files import FILES

__all__ = ["FILES", "Cma"]


@hookimpl
def mmdump_analyses() -> list[type[Analysis]]:
    """``mmdump cma``."""
    return [Cma]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """``/sys/kernel/debug/cma/*/*``."""
    return list(FILES)
