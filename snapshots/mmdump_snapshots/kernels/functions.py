"""Functions of the kernel, for call chains: their names, how large they are, and which kernels have them.

Nothing in a snapshot runs, so a function is a name with a place in the text. Sizes are about those of a real
kernel. The names are in the text files of ``kernels/catalogue``, one for each part of the source tree::

    mm/page_alloc.c
        __alloc_pages 688 5.13..6.10
        prep_new_page 848 static

A range says from which release on a kernel has the function, and from which on no more, to about a long-term
release. Functions of ``arch/`` and system calls belong to one architecture; those of a page pinner
(``pinner=A1,A2``) to kernels with one of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from mmdump_snapshots.model.era import Pinner

if TYPE_CHECKING:
    from mmdump_snapshots.kernels.profiles import Profile

__all__ = ["Function", "catalogue", "functions"]


@dataclass(frozen=True)
class Function:
    """A function, as the catalogue has it.

    :ivar size: Bytes of its code.
    :ivar file: The source file that defines it.
    :ivar since: The first release that has it; (0, 0) for all.
    :ivar until: The first release that has it no more; None for none.
    :ivar arch: ``x86_64`` or ``aarch64`` where others have no such function.
    :ivar pinners: The page pinners that have it.
    """

    name: str
    size: int
    file: str
    static: bool = False
    since: tuple[int, int] = (0, 0)
    until: tuple[int, int] | None = None
    arch: str | None = None
    pinners: frozenset[Pinner] = frozenset(Pinner)

    def exists(self, version: tuple[int, int], arch: str, pinner: Pinner) -> bool:
        """Whether a kernel of this release and architecture, with this page pinner, has it."""
        if pinner not in self.pinners:
            return False
        if self.arch is not None and self.arch != arch:
            return False
        return self.since <= version and (self.until is None or version < self.until)


#: What tells the architecture: where a file is, or how a function's name begins.
_ARCHES = (
    ("arch/x86/", "x86_64"),
    ("arch/arm64/", "aarch64"),
    ("__x64_sys_", "x86_64"),
    ("__arm64_sys_", "aarch64"),
)


def _release(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _function(line: str, file: str) -> Function:
    name, size, *more = line.split()
    since, until = (0, 0), None
    pinners = frozenset(Pinner)
    for word in more:
        if word.startswith("pinner="):
            pinners = frozenset(Pinner[each] for each in word.removeprefix("pinner=").split(","))
        if ".." in word:
            first, _, last = word.partition("..")
            since = _release(first) if first else since
            until = _release(last) if last else None
    arch = next((arch for start, arch in _ARCHES if file.startswith(start) or name.startswith(start)), None)
    return Function(name, int(size), file, "static" in more, since, until, arch, pinners)


@cache
def catalogue() -> tuple[Function, ...]:
    """All functions of all kernels, by file and name."""
    found = []
    for text in sorted(
        (files("mmdump_snapshots.kernels") / "catalogue").iterdir(), key=lambda each: each.name
    ):
        if not text.name.endswith(".txt"):
            continue
        file = ""
        for line in text.read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                found.append(_function(line, file))
            elif line and not line.startswith("#"):
                file = line
    return tuple(sorted(found, key=lambda each: (each.file, each.name)))


def functions(profile: Profile) -> list[tuple[str, int, str, bool]]:
    """The functions of a kernel: (name, size in bytes, source file, whether static), by file and name."""
    return [
        (each.name, each.size, each.file, each.static)
        for each in catalogue()
        if each.exists(profile.version, profile.arch, profile.pinner)
    ]
