"""Kernel files: a proc, sysfs or debugfs file, as the kernel would have printed it when the dump was taken.

They let a user's own tools (``page_owner_sort``, ``page-types -F``) work on dumps, and they are the proof
that what was decoded is what the kernel knew: they can be held byte for byte against its own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdump.errors import UsageError

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.scan import Ranges

__all__ = ["KernelFile", "find_kernel_file"]


def _always(kernel: Kernel) -> str | None:  # noqa: ARG001
    return None


@dataclass(frozen=True)
class KernelFile:
    """A file of the kernel.

    :param path: Its path on a running machine.
    :param summary: One line.
    :param read: Its contents in pieces, from the pages as they come. Pages that cannot be read are counted by
        the ranges themselves.
    :param ext: Whether it needs the pages' page_ext entries.
    :param why_not: Why this kernel has no such file, in one sentence; None when it has.
    """

    path: str
    summary: str
    read: Callable[[Kernel, Ranges], Iterator[bytes]]
    ext: bool = False
    why_not: Callable[[Kernel], str | None] = _always


def find_kernel_file(files: Iterable[KernelFile], wanted: str) -> KernelFile:
    """The file of that path, or the only one whose path ends in it.

    :raises UsageError: There is none, or there are several.
    """
    files = sorted(files, key=lambda each: each.path)
    found = [each for each in files if each.path == wanted]
    found = found or [each for each in files if each.path.endswith("/" + wanted.lstrip("/"))]
    if len(found) == 1:
        return found[0]
    paths = ", ".join(each.path for each in found or files)
    if found:
        raise UsageError(f"{wanted} may be any of several files", f"Name one: {paths}")
    raise UsageError(f"mmdump cannot make {wanted}", f"Files: {paths}")
