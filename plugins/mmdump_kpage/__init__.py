"""/proc/kpageflags and /proc/kpagecount, as fs/proc/page.c prints them: 64 bits for each page."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.kernelfile import KernelFile
from mmdump_kpage.files import KPAGECOUNT, KPAGEFLAGS

__all__ = ["KPAGECOUNT", "KPAGEFLAGS"]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """The files that ``page-types -F`` and other tools read."""
    return [KPAGECOUNT, KPAGEFLAGS]
