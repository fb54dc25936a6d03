"""Format strings of the kernel, which are in its read-only data, and so in the dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdump.errors import UnsupportedError

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["read_only_data"]

#: No kernel has more read-only data than this.
_MAX_RODATA = 256 << 20


def read_only_data(kernel: Kernel) -> bytes:
    """The kernel's read-only data: what lies between ``__start_rodata`` and ``__end_rodata``.

    :raises UnsupportedError: It is not known where that is.
    """
    prog = kernel.target.prog
    try:
        start, end = prog.symbol("__start_rodata").address, prog.symbol("__end_rodata").address
    except LookupError:
        start = end = 0
    if not 0 < end - start <= _MAX_RODATA:
        raise UnsupportedError("the kernel's read-only data was not found: its symbols are missing")
    return kernel.target.reader.read(start, end - start).data.tobytes()
