"""Kernel files: a proc, sysfs or debugfs file, as the kernel would have printed it when the dump was taken.

They let a user's own tools (``page_owner_sort``, ``page-types -F``) work on dumps, and they are the proof
that what was decoded is what the kernel knew: they can be held byte for byte against its own output.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate

from mmdump.errors import UsageError

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.scan import Ranges

__all__ = ["KernelFile", "find_kernel_file"]

#: How like a wrong path a file must be to be named, and how many are.
_ALIKE, _MOST_ALIKE = 0.7, 4


def _always(kernel: Kernel, *names: str) -> str | None:  # noqa: ARG001
    return None


@dataclass(frozen=True)
class KernelFile:
    """A file of the kernel, or one of many whose names only the dump knows.

    :param path: Its path on a running machine. A component ``*`` stands for any name, such as that of a CMA
        area; ``read`` and ``why_not`` get the names after their other arguments, in the order of the path.
    :param summary: One line.
    :param read: Its contents in pieces, from the pages as they come. Pages that cannot be read are counted by
        the ranges themselves.
    :param ext: Whether it needs the pages' page_ext entries.
    :param why_not: Why this kernel has no such file, in one sentence; None when it has.
    :param same_as: The path of the file that this is another way to, where a file system is mounted twice.
    """

    path: str
    summary: str
    read: Callable[Concatenate[Kernel, Ranges, ...], Iterator[bytes]]
    ext: bool = False
    why_not: Callable[Concatenate[Kernel, ...], str | None] = _always
    same_as: str | None = None

    def named(self, wanted: str) -> KernelFile | None:
        """The file of that path, or of the end of one, where this is a path with ``*``; None if it is not it.

        Every ``*`` needs a name: the end has to begin at or before the first of them.
        """
        pattern, parts = self.path.split("/"), wanted.split("/")
        if "*" not in pattern:
            return None
        outside = len(pattern) - len(parts)
        # The first component of a whole path is what stands before its first slash: nothing.
        whole = outside == 0 if wanted.startswith("/") else 0 < outside <= pattern.index("*")
        if not whole:
            return None
        pairs = list(zip(pattern[outside:], parts, strict=True))
        if any(each != name and (each != "*" or not name) for each, name in pairs):
            return None
        names = tuple(name for each, name in pairs if each == "*")
        path = "/".join([*pattern[:outside], *parts])

        def read(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
            return self.read(kernel, ranges, *names)

        def why_not(kernel: Kernel) -> str | None:
            return self.why_not(kernel, *names)

        # Of several names the pattern tells apart which is whose.
        same_as = f"{self.same_as or self.path} {'/'.join(names)}"
        return dataclasses.replace(self, path=path, read=read, why_not=why_not, same_as=same_as)


def find_kernel_file(files: Iterable[KernelFile], wanted: str) -> KernelFile:
    """The file of that path, or the only one whose path ends in it.

    Of a path with ``*``, the file of the name that stands in its place.

    :raises UsageError: There is none, or there are several.
    """
    files = sorted(files, key=lambda each: each.path)
    plain = [each for each in files if "*" not in each.path]
    found = [each for each in plain if each.path == wanted]
    found = found or [each for each in plain if each.path.endswith("/" + wanted.lstrip("/"))]
    found = found or [each for each in (one.named(wanted) for one in files) if each is not None]
    if len({each.same_as or each.path for each in found}) == 1:
        return found[0]
    if found:
        paths = ", ".join(each.path for each in found)
        raise UsageError(f"{wanted} may be any of several files", f"Name one: {paths}")
    close = _alike(wanted, [each.path for each in files])
    meant = f"Did you mean {', '.join(close)}? " if close else ""
    raise UsageError(f"mmdump cannot make {wanted}", f"{meant}mmdump cat --list shows all that there are.")


def _alike(wanted: str, paths: Sequence[str]) -> list[str]:
    """The few paths that are most like what was asked for, the likest first: by name, and by the whole."""
    word = wanted.lower().strip("/")

    def likeness(path: str) -> float:
        whole = path.strip("/").lower()
        ends = [whole.split("/")[-1], "/".join(whole.split("/")[-2:]), whole]
        ratio = max(difflib.SequenceMatcher(None, word, each).ratio() for each in ends)
        return max(ratio, 0.7 if len(word) > 3 and word in whole else 0.0)

    scores = {path: likeness(path) for path in paths}
    best = sorted((path for path in paths if scores[path] >= _ALIKE), key=lambda path: -scores[path])
    return best[:_MOST_ALIKE]
