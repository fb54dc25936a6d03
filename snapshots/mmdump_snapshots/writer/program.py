"""An image as a drgn Program, without files: physical memory, and the kernel's own page tables over it."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import drgn

from mmdump_snapshots.writer.memory import NotRamError, PhysicalMemory

if TYPE_CHECKING:
    from mmdump_snapshots.writer.image import Image
    from mmdump_snapshots.writer.vmlinux import Vmlinux

__all__ = ["program"]

_ARCHITECTURES = {"x86_64": drgn.Architecture.X86_64, "aarch64": drgn.Architecture.AARCH64}


def program(image: Image) -> drgn.Program:
    """Open an image.

    :raises RuntimeError: drgn does not take its debug info.
    """
    prog = drgn.Program(drgn.Platform(_ARCHITECTURES[image.profile.arch]))
    read = _Reads(image.memory)
    for start, end in image.memory.ram:
        prog.add_memory_segment(start, end - start, read, physical=True)
    prog.set_linux_kernel_custom(image.vmcoreinfo, False)
    prog.set_enabled_debug_info_finders([])
    # The kernel is the first of the loaded modules; the others would be looked for in its debug info.
    module, _ = next(iter(prog.loaded_modules()))
    module.try_file(_debug_file(image.vmlinux))
    if module.debug_file_status != drgn.ModuleFileStatus.HAVE:
        raise RuntimeError("drgn does not take the debug info")
    return prog


@cache
def _debug_file(debug: Vmlinux) -> str:
    """A path of a kernel's debug info, in a file that is in memory only."""
    fd = os.memfd_create(f"vmlinux-{debug.profile.name}")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(debug.elf)
    return f"/proc/{os.getpid()}/fd/{fd}"


class _Reads:
    """Physical memory as drgn reads it: zeros where nothing was written, a fault where there is no RAM."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory

    def __call__(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        del offset, physical
        try:
            return self._memory.read(address, count)
        except NotRamError as error:
            raise drgn.FaultError("no memory here", error.address) from None
