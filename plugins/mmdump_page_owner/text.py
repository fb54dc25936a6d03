"""/sys/kernel/debug/page_owner, in the text of this very kernel.

What a record's lines look like changed often, and was backported. But the format strings that
``print_page_owner()`` hands to scnprintf() are in the kernel's read-only data, so in the dump: they say which
values are printed, in which order and in which base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from drgn import FaultError

from mmdump.errors import UnsupportedError
from mmdump.kernel.arrays import decoded, hex_text
from mmdump.kernel.layout import c_string, enumerators, find_object
from mmdump.kernel.rodata import read_only_data
from mmdump.kernel.stackdepot import StackStatus
from mmdump.kernelfile import KernelFile
from mmdump_page_owner.frames import Frames
from mmdump_page_owner.memcg import charged_text
from mmdump_page_owner.record import Owners, gfp_migratetype, read_owners, why_no_owner

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange
    from mmdump.scan import Ranges

__all__ = ["PAGE_OWNER_FILE", "Forms", "Printer", "read_forms"]

#: The strings that print the two first lines of a record.
_ALLOCATED = re.compile(rb"\0(Page allocated via order [^\0]+)\0")
_PFN = re.compile(rb"\0(PFN [^\0]+ Block [^\0]+)\0")
#: The string that prints the memory cgroup of a page.
_CHARGED = b"Charged %sto %smemcg %s\n\0"

#: What is printed where: the literal before a conversion -> the column.
_COLUMNS = (
    ("via order ", "order"),
    ("mask ", "mask"),
    ("tgid ", "tgid"),
    ("pid ", "pid"),
    ("free_ts ", "free_ts"),
    ("ts ", "ts"),
    ("PFN ", "pfn"),
    ("PFN 0x", "pfn"),
    ("Block ", "block"),
    (" (", "comm"),
)

_CONVERSION = re.compile(r"%(?:#?l?l?[uxd]|s|pG[gp])")


@dataclass(frozen=True)
class _Piece:
    """Literal text, and the column printed after it; None at the end."""

    literal: str
    column: str | None


def _pieces(form: str) -> list[_Piece]:
    """Take a format string apart.

    :raises UnsupportedError: It prints something that mmdump does not know.
    """
    pieces = []
    at = 0
    types = iter(("page_type", "block_type"))
    for found in _CONVERSION.finditer(form):
        literal, conversion = form[at : found.start()], found[0]
        at = found.end()
        if conversion == "%pGg":
            column: str | None = "gfp_names"
        elif conversion == "%pGp":
            # Up to 5.15 the word stands before it, and %pGp prints names alone.
            column = "flag_names" if literal == "(" else "flags"
        elif literal.endswith("type "):
            column = next(types, None)
        elif literal.endswith("Flags "):
            column = "flags_word"
        else:
            column = next((name for before, name in _COLUMNS if literal.endswith(before)), None)
        if column == "pfn" and conversion.endswith("x"):
            column = "pfn_hex"
        if column is None:
            raise UnsupportedError(f"mmdump does not know what this kernel prints after {literal!r}")
        pieces.append(_Piece(literal, column))
    return [*pieces, _Piece(form[at:], None)]


@dataclass(frozen=True)
class Forms:
    """What the lines of a record look like.

    :param pieces: Of the two first lines.
    :param charged: Whether a line says which memory cgroup is charged (5.18, CONFIG_MEMCG).
    """

    pieces: tuple[_Piece, ...]
    charged: bool


def read_forms(rodata: bytes) -> Forms:
    """Find the format strings of a record in the kernel's read-only data.

    :raises UnsupportedError: They are not there, or print something that mmdump does not know.
    """
    pieces: list[_Piece] = []
    for pattern in (_ALLOCATED, _PFN):
        match = pattern.search(rodata)
        if match is None:
            raise UnsupportedError("the text of this kernel's page_owner is not in the dump")
        pieces += _pieces(match[1].decode("latin-1"))
    return Forms(tuple(pieces), _CHARGED in rodata)


@dataclass(frozen=True)
class Printer:
    """Prints the records of a range of pages."""

    kernel: Kernel
    owners: Owners
    forms: Forms
    reasons: tuple[str, ...]
    never_migrated: frozenset[int]
    group_by_mobility: bool
    frames: Frames

    def lines(self, pages: PageRange) -> bytes:
        """The records of a range, one after the other."""
        assert pages.ext is not None
        allocated = self.owners.allocated(pages)
        allocated = allocated & ~self.owners.garbage(pages, allocated)
        rows = np.flatnonzero(self.owners.first_pages(pages, allocated))
        if not len(rows):
            return b""
        columns = self._columns(pages, rows)
        parts: list[pl.Expr] = []
        for piece in self.forms.pieces:
            parts.append(pl.lit(piece.literal))
            if piece.column is not None:
                parts.append(pl.col(piece.column))
        parts += [pl.col("stack"), pl.col("migrated"), pl.col("memcg"), pl.lit("\n")]
        text = columns.select(pl.concat_str(parts).str.join("")).item()
        # Names of tasks are bytes to the kernel, and may be any.
        return str(text).encode("latin-1", "replace")

    def _columns(self, pages: PageRange, rows: np.ndarray) -> pl.DataFrame:
        assert pages.ext is not None
        record = pages.ext["page_owner"].rows(rows)
        names = record.dtype.names or ()
        pfn = rows + pages.start
        gfp = pl.Series(record["gfp_mask"].astype(np.uint64))
        flags = pl.Series(pages.flags[rows])
        types = self.kernel.pageblocks.names
        texts: dict[str, pl.Series] = {
            "order": _decimal(record["order"]),
            "mask": decoded(gfp, lambda word: f"{word:#x}", pl.String()),
            "gfp_names": decoded(gfp, lambda word: "|".join(self.kernel.gfp_names.split(word)), pl.String()),
            "pfn": _decimal(pfn),
            "pfn_hex": hex_text(pfn.astype(np.uint64)),
            "block": _decimal(pfn >> self.kernel.pageblocks.order),
            "page_type": decoded(gfp, lambda word: _name(types, self._gfp_type(word)), pl.String()),
            "block_type": decoded(
                pl.Series(pages.migratetype_of(rows)), lambda index: _name(types, index), pl.String()
            ),
            "flags": decoded(flags, self.kernel.page_flag_text.text, pl.String()),
            "flags_word": decoded(flags, lambda word: f"{word:#x}", pl.String()),
            "flag_names": decoded(flags, self.kernel.page_flag_text.inside, pl.String()),
            "stack": decoded(pl.Series(record["handle"]), self._stack, pl.String()),
            "migrated": decoded(
                pl.Series(record["last_migrate_reason"].astype(np.int64)), self._migrated, pl.String()
            ),
            "memcg": self._charged(pages, rows),
        }
        for name, column in (
            ("pid", "pid"),
            ("tgid", "tgid"),
            ("ts", "ts_nsec"),
            ("free_ts", "free_ts_nsec"),
        ):
            if column in names:
                texts[name] = _decimal(record[column])
        if "comm" in names:
            # numpy has dropped all NULs at the end; what comes after one before it is not printed.
            values, inverse = np.unique(record["comm"], return_inverse=True)
            comms = [value.split(b"\0", 1)[0].decode("latin-1") for value in values.tolist()]
            texts["comm"] = pl.Series(comms, dtype=pl.String).gather(inverse)
        return pl.DataFrame(texts)

    def _charged(self, pages: PageRange, rows: np.ndarray) -> pl.Series:
        if not self.forms.charged:
            return pl.Series([""], dtype=pl.String).new_from_index(0, len(rows))
        return decoded(pl.Series(pages.memcg_data[rows]), partial(charged_text, self.kernel), pl.String())

    def _gfp_type(self, mask: int) -> int:
        """``gfp_migratetype()``."""
        return gfp_migratetype(mask) if self.group_by_mobility else 0

    def _stack(self, handle: int) -> str:
        depot = self.kernel.stack_depot
        stack = depot.stack(handle) if depot is not None else None
        if stack is None or stack.status is not StackStatus.OK:
            return ""
        return "".join(f" {self.frames.plain(address)}\n" for address in stack.frames)

    def _migrated(self, reason: int) -> str:
        if reason in self.never_migrated:
            return ""
        name = self.reasons[reason] if 0 <= reason < len(self.reasons) else f"{reason}"
        return f"Page has been migrated, last migrate reason: {name}\n"


def _decimal(values: np.ndarray) -> pl.Series:
    return pl.Series(np.ascontiguousarray(values)).cast(pl.String)


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index] if 0 <= index < len(names) else "Unknown"


def _read(kernel: Kernel, ranges: Ranges) -> Iterator[bytes]:
    """The whole file, ``read_page_owner()`` from the first page to the last."""
    owners = read_owners(kernel)
    assert owners is not None
    prog = kernel.target.prog
    forms = read_forms(read_only_data(kernel))
    disabled = find_object(prog, "page_group_by_mobility_disabled")
    reasons = find_object(prog, "migrate_reason_names")
    try:
        names = tuple(c_string(each) for each in reasons) if reasons is not None else ()
        group_by_mobility = disabled is None or not disabled.value_()
    except FaultError:
        names, group_by_mobility = (), True
    # -1 up to 7.2; an enumerator of its own from 7.3.
    never = enumerators(prog, "enum migrate_reason").get("MR_NEVER", -1)
    printer = Printer(
        kernel,
        owners,
        forms,
        names,
        frozenset({-1, never}),
        group_by_mobility,
        Frames(kernel),
    )
    for pages in ranges:
        if pages.ext is not None:
            yield printer.lines(pages)


PAGE_OWNER_FILE = KernelFile(
    "/sys/kernel/debug/page_owner",
    "every allocation with its call chain",
    _read,
    ext=True,
    why_not=why_no_owner,
)
