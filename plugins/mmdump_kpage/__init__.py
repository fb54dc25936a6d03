"""/proc/kpageflags, kpagecount and kpagecgroup, as fs/proc/page.c prints them: 64 bits for each page."""

from __future__ import annotations

from mmdump import hookimpl
from mmdump.kernelfile import KernelFile
from mmdump_kpage.files import KPAGECGROUP, KPAGECOUNT, KPAGEFLAGS

__all__ = ["KPAGECGROUP", "KPAGECOUNT", "KPAGEFLAGS"]


@hookimpl
def mmdump_kernel_files() -> list[KernelFile]:
    """The files that ``page-types -F`` and other tools read."""
    return [KPAGECGROUP, KPAGECOUNT, KPAGEFLAGS]
