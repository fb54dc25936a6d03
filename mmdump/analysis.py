"""The contract of an analysis: declared once, it is a command, a report section and a call in Python."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
from numpy.typing import NDArray

from mmdump.result import Result, Schema

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = [
    "Analysis",
    "Argument",
    "Columns",
    "Need",
    "Option",
    "Parts",
    "argument",
    "argument_of",
    "option",
    "options",
]

#: Rows as numpy columns, all of one length.
Columns = Mapping[str, NDArray[Any]]
#: Rows by part: an analysis may gather several sorts of rows in one scan.
Parts = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Need:
    """Something a kernel or a dump must have for an analysis to run.

    :param missing: Given the kernel, says in one sentence why not, or None when it is there. Must not raise.
    """

    missing: Callable[[Kernel], str | None]


@dataclass(frozen=True)
class Option:
    """How a field of an analysis appears on a command line.

    :param flag: Such as ``--cma``.
    :param help: One sentence.
    :param metavar: What its value is called.
    :param optional_value: The value taken when the option is given without one; None demands a value.
    :param choices: Words that its value (or its list's elements, between commas) may be, for completion.
    :param tables: The names of tables that there are only with this option.
    """

    flag: str
    help: str
    metavar: str | None = None
    optional_value: str | None = None
    choices: Sequence[str] = ()
    tables: Sequence[str] = ()


def option(
    flag: str,
    help: str,  # noqa: A002 - the word every command line library uses
    *,
    default: Any = None,
    metavar: str | None = None,
    optional_value: str | None = None,
    choices: Sequence[str] = (),
    tables: Sequence[str] = (),
) -> Any:
    """Declare a dataclass field of an analysis as a command line option.

    The field's type says what it takes: ``bool`` a switch, ``int | None`` or ``str | None`` one value,
    ``tuple[str, ...]`` any number of values.
    """
    described = Option(flag, help, metavar, optional_value, tuple(choices), tuple(tables))
    return dataclasses.field(default=default, metadata={"option": described})


@dataclass(frozen=True)
class Argument:
    """How a field of an analysis takes the words of a command line that are no options.

    :param metavar: What one of them is called.
    :param help: One sentence.
    """

    metavar: str
    help: str


def argument(metavar: str, help: str) -> Any:  # noqa: A002 - see option()
    """Declare a dataclass field, a ``tuple[str, ...]``, as what a command takes after the dump."""
    return dataclasses.field(default=(), metadata={"argument": Argument(metavar, help)})


def argument_of(analysis: type[Analysis]) -> tuple[str, Argument] | None:
    """The field of an analysis that takes the words of a command line; None for most."""
    for each in dataclasses.fields(analysis):
        if "argument" in each.metadata:
            return each.name, each.metadata["argument"]
    return None


def options(analysis: type[Analysis]) -> list[tuple[str, Any, Any, Option]]:
    """The options of an analysis: (field name, type, default, option), in order of declaration."""
    hints = typing.get_type_hints(analysis)
    return [
        (each.name, hints[each.name], each.default, each.metadata["option"])
        for each in dataclasses.fields(analysis)
        if "option" in each.metadata
    ]


@dataclass(frozen=True)
class Analysis:
    """One question about memory. Subclasses are frozen dataclasses; their fields are the options.

    :meth:`start` once; :meth:`scan` for each range of at most 2**17 pages, in numpy alone; :meth:`batch` for
    the rows of many ranges together, where names and sums are made of them; :meth:`finish` once. An analysis
    that looks at no pages leaves ``scan`` alone and sets ``scans = False``.
    """

    #: The name of the command.
    name: ClassVar[str]
    #: One line for help and lists.
    summary: ClassVar[str]
    #: Checked before anything is read; the first that is missing says why the analysis cannot run.
    needs: ClassVar[Sequence[Need]] = ()
    #: Whether this analysis reads the page array at all.
    scans: ClassVar[bool] = True
    #: The names of the page_ext clients whose data :meth:`scan` needs, where the kernel has them.
    page_ext: ClassVar[Sequence[str]] = ()
    #: The table whose rows may be as many as the pages: what :meth:`batch` returns under its name goes to the
    #: renderer at once and is never held whole.
    stream: ClassVar[Schema | None] = None
    #: Its (other) tables, the main one first, as far as their columns are known before: for completion, and
    #: to say which table has a column that another lacks.
    tables: ClassVar[Sequence[Schema]] = ()
    #: Whether ``mmdump report`` has a section for it.
    in_report: ClassVar[bool] = True
    #: Where that section stands, and findings of equal severity: small numbers come first.
    report_rank: ClassVar[int] = 60

    @classmethod
    def for_report(cls, kernel: Kernel) -> Analysis:  # noqa: ARG003
        """The form in which ``mmdump report`` asks it: with no options, unless the kernel suggests some."""
        return cls()

    def only(self, columns: frozenset[str]) -> Analysis:  # noqa: ARG002
        """The same analysis where only these columns of the streamed table matter: others may be null.

        What is expensive, and nobody looks at, can so be left out.
        """
        return self

    def wants_pages(self, kernel: Kernel) -> bool:  # noqa: ARG002
        """Whether it reads the page array of this kernel: :attr:`scans`, unless an option decides."""
        return self.scans

    @classmethod
    def all_tables(cls) -> tuple[Schema, ...]:
        """The tables that it is known to have, the main one first."""
        return (*((cls.stream,) if cls.stream is not None else ()), *cls.tables)

    def start(self, kernel: Kernel) -> Any:  # noqa: ARG002
        """Read once what the scan needs (areas, lists, layouts). What it returns must pickle."""
        return None

    def scan(self, pages: PageRange, state: Any) -> Mapping[str, Columns]:
        """Rows of one range of pages, by part: pure, vectorised, no loop over pages."""
        raise NotImplementedError(f"{type(self).__name__}.scan")

    def batch(self, rows: Parts, state: Any) -> Parts:  # noqa: ARG002
        """Make of the rows of some ranges what is kept or streamed: decode codes, sum groups.

        What a frame costs whatever its length is paid here once for many ranges.
        """
        return rows

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:  # noqa: ARG002
        """Condense the rows of a part gathered so far, so that they do not grow with memory.

        Must be associative: it is applied again to its own output together with more rows.
        """
        return frame

    def finish(self, kernel: Kernel, state: Any, parts: Parts) -> Result:
        """Put the parts (every range's, in PFN order, folded) together to an answer."""
        raise NotImplementedError(f"{type(self).__name__}.finish")

    def why_not(self, kernel: Kernel) -> str | None:
        """Why this analysis cannot run on that kernel, in one sentence; None when it can."""
        for need in self.needs:
            reason = need.missing(kernel)
            if reason is not None:
                return reason
        return None
