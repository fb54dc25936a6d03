"""The contract of a check: an invariant of the kernel's memory management that a dump can be held against.

A check says in one sentence what holds on every healthy machine. It looks at all pages, range by range, for
those that break it, may sum things up on the way, and may compare the sums with what the kernel counts::

    class NoNegativeReferences(Check):
        name = "refcount"
        summary = "no page has fewer than no references"

        def scan(self, pages, state):
            return [Violations("_refcount is {refcount}", np.flatnonzero(pages.refcount < 0),
                               {"refcount": pages.refcount})]

A healthy kernel is stopped anywhere by a crash: what is broken for a moment on every machine is no invariant.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from mmdump.amounts import counted

if TYPE_CHECKING:
    import polars as pl

    from mmdump.analysis import Columns
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, Bools, Struct
    from mmdump.kernel.page import PageRange

__all__ = ["Broken", "Check", "Values", "Violations", "initialised"]

#: Columns of a range by name: anything that has a value for each row.
Values: TypeAlias = "Mapping[str, Struct | _PerRow]"


class _PerRow(Protocol):
    def __getitem__(self, row: int, /) -> object: ...


@dataclass(frozen=True)
class Violations:
    """Pages of a range that break an invariant, all in the same way.

    :param what: What is wrong, such as ``"order {order}, but pfn is no multiple"``; names in braces are
        filled from ``values`` for the pages that are shown. ``{pins:time}`` is so many of that: ``1 time``,
        ``2 times``.
    :param rows: Row numbers within the range, int64.
    :param values: One value for each *row of the range* (as columns of a PageRange are), by name.
    """

    what: str
    rows: I64
    values: Values = field(default_factory=dict)

    def text(self, row: int) -> str:
        """What is wrong with the page in that row."""
        return _FILLED.vformat(self.what, (), {name: values[row] for name, values in self.values.items()})


class _Filled(string.Formatter):
    """``{number:word}`` is so many of them; formats of numbers have one letter, and a word more."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if len(format_spec) > 1 and format_spec.isalpha():
            return counted(int(value), format_spec)
        return str(super().format_field(value, format_spec))


_FILLED = _Filled()


@dataclass(frozen=True)
class Broken:
    """Something that is wrong with the whole, or with a page that was looked up in the end.

    :param what: One sentence.
    :param pfn: The page, where there is one.
    """

    what: str
    pfn: int | None = None


class Check:
    """An invariant. Subclasses say what it is, and look for what breaks it."""

    #: Short, in the kernel's words, such as ``buddy-order``.
    name: ClassVar[str]
    #: What holds, in one sentence without a full stop.
    summary: ClassVar[str]
    #: The names of the page_ext clients that it reads.
    page_ext: ClassVar[Sequence[str]] = ()
    #: The columns of :meth:`tally` that name what is summed; all others are sums, but for :attr:`least`.
    keys: ClassVar[Sequence[str]] = ()
    #: Columns of which the least is kept, such as the first PFN.
    least: ClassVar[Sequence[str]] = ()

    def why_not(self, kernel: Kernel) -> str | None:  # noqa: ARG002
        """Why this kernel cannot be held against it, in one sentence; None when it can."""
        return None

    def start(self, kernel: Kernel) -> Any:  # noqa: ARG002
        """Read once what the scan needs. What it returns must pickle."""
        return None

    def scan(self, pages: PageRange, state: Any) -> Sequence[Violations]:  # noqa: ARG002
        """The pages of a range that break it: vectorised, no loop over pages."""
        return ()

    def tally(self, pages: PageRange, state: Any) -> Columns | None:  # noqa: ARG002
        """Sums of a range, for :meth:`finish`: columns :attr:`keys` and integers; None for nothing."""
        return None

    def finish(
        self,
        kernel: Kernel,  # noqa: ARG002
        state: Any,  # noqa: ARG002
        sums: pl.DataFrame | None,  # noqa: ARG002
    ) -> Sequence[Broken]:
        """What is wrong with the whole.

        :param sums: The tallies of all ranges, summed by :attr:`keys`; None where there were none.
        """
        return ()


def initialised(pages: PageRange) -> Bools:
    """Rows whose ``struct page`` could be read and was ever written.

    A debug kernel fills the page array with ones (``page_init_poison()``), and holes stay like that.
    """
    return pages.initialised
