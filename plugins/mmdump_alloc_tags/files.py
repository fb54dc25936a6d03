"""``/proc/allocinfo``: what each line of code has allocated (mm/alloc_tag.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from drgn import FaultError

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.layout import find_object
from mmdump.kernel.rodata import read_only_data
from mmdump.kernelfile import KernelFile
from mmdump_alloc_tags.state import OFF, why_not_built
from mmdump_alloc_tags.tags import INACCURATE, read_tags

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.scan import Ranges

__all__ = ["ALLOCINFO"]

_HEADER = b"allocinfo - version: "
_COLUMNS = b"#     <size>  <calls> <tag info>\n"
#: What follows counters that are not exact (6.18, version 2.0).
_INACCURATE = b" accurate:no"


def _why_not(kernel: Kernel, *_names: str) -> str | None:
    reason = why_not_built(kernel)
    if reason is not None:
        return reason
    # 6.13 left the file out where profiling was not asked for at boot, or was given up since. Up to 6.12 it
    # was always there, and the variable is gone after boot: it has nothing to say about the file.
    prog = kernel.target.prog
    if find_object(prog, "mem_profiling_compressed") is None:
        return None
    support = find_object(prog, "mem_profiling_support")
    try:
        return OFF if support is not None and not support.value_() else None
    except FaultError:
        return "whether memory allocation profiling is on could not be read"


def _read(kernel: Kernel, _ranges: Ranges, *_names: str) -> Iterator[bytes]:
    tags = read_tags(kernel)
    rodata = read_only_data(kernel)
    at = rodata.find(_HEADER)
    if at < 0:
        raise UnsupportedError("the form of /proc/allocinfo was not found in this kernel's read-only data")
    yield rodata[at : at + 64].split(b"\n", 1)[0].split(b"\0", 1)[0] + b"\n" + _COLUMNS
    marks = _INACCURATE in rodata
    lines = zip(
        tags.bytes.tolist(),
        tags.calls.tolist(),
        tags.filename,
        tags.lineno.tolist(),
        tags.modname,
        tags.function,
        tags.flags.tolist(),
        tags.counted.tolist(),
        strict=True,
    )
    missing = 0
    for size, calls, file, line, module, function, flags, counted in lines:
        if not counted or file is None or function is None:
            missing += 1
            continue
        owner = b"" if module is None else b" [%s]" % module
        mark = _INACCURATE if marks and flags & INACCURATE else b""
        yield b"%12d %8d %s:%d%s func:%s%s \n" % (size, calls, file, line, owner, function, mark)
    if missing or tags.incomplete:
        left_out = [f"{missing} lines are left out"] if missing else []
        raise IncompleteError("/proc/allocinfo: " + "; ".join([*left_out, *tags.incomplete]))


ALLOCINFO = KernelFile(
    "/proc/allocinfo",
    "bytes and allocations of each line of code that allocates memory",
    _read,
    why_not=_why_not,
)
