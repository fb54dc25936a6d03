"""The contract of page notes: what a plugin knows about single pages, for ``mmdump page``.

A provider is asked once about all pages and answers for each with titled sections of facts::

    def my_notes(kernel, asked):
        return {pfn: [Section("my client", [Fact("count", 3, Kind.COUNT)])] for pfn in asked.pfns}

    @hookimpl
    def mmdump_page_notes():
        return [PageNotes("my_client", my_notes)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mmdump.result import Kind

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64
    from mmdump.kernel.page import PageRange

__all__ = ["AskedPages", "Fact", "PageNotes", "Section"]

#: What a fact may be; a list is shown one element per line, as a call chain.
Value = int | str | bool | Sequence[str] | None


@dataclass(frozen=True)
class Fact:
    """One thing known of a page.

    :param label: Its name, the kernel's where it has one.
    :param value: A list of texts is shown below the label, one on each line. None is what is not known.
    :param kind: What a number is.
    """

    label: str
    value: Value
    kind: Kind = Kind.TEXT


@dataclass(frozen=True)
class Section:
    """Facts that belong together.

    :param title: One or two words.
    :param rank: Where it stands among a page's sections: ascending, and those of one rank by provider.
    """

    title: str
    facts: Sequence[Fact]
    rank: int = 50


class AskedPages:
    """The pages that are asked about.

    :param pfns: PFNs that have a ``struct page``, ascending and distinct.
    :param addresses: For pages that were named by an address of their memory, that address: a direct map
        address (so that a provider can say which object it lies in).
    :param holders: Whether it is worth a pass over memory to know who holds them.
    """

    def __init__(
        self,
        kernel: Kernel,
        pfns: Sequence[int],
        addresses: Mapping[int, Sequence[int]] | None = None,
        *,
        holders: bool = False,
    ) -> None:
        self._kernel = kernel
        self.pfns = tuple(sorted(set(pfns)))
        self.addresses = dict(addresses or {})
        self.holders = holders

    def ranges(self) -> Iterator[tuple[PageRange, I64]]:
        """The ranges of pages that hold them, page_ext included, and their row numbers in each (int64).

        A range is what a scan would see: a page's folio is in it, unless that is gigantic.
        """
        yield from self._ranges

    @cached_property
    def _ranges(self) -> list[tuple[PageRange, I64]]:
        memmap = self._kernel.memmap
        found = []
        asked = np.array(self.pfns, np.int64)
        ext = self._kernel.page_ext.dtype is not None
        for start, end in memmap.chunks():
            rows = asked[(asked >= start) & (asked < end)] - start
            if len(rows):
                found.append((self._kernel.pages(start, end, ext=ext), rows))
        return found


@dataclass(frozen=True)
class PageNotes:
    """What a plugin says about pages.

    :param name: Of the provider.
    :param read: The sections of each page, by PFN; pages of which it knows nothing may be left out. It is
        called once, with all pages; an exception is reported by the plugin's name, and the others go on.
    """

    name: str
    read: Callable[[Kernel, AskedPages], Mapping[int, Sequence[Section]]]
