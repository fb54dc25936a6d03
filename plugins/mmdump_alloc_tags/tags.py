"""The allocation tags: one for each line of code that allocates memory (lib/codetag.c, lib/alloc_tag.c).

A ``struct alloc_tag`` stands for the line, and per-CPU counters say what it has allocated and not yet freed.
Those of the kernel lie in one array, and those of each module in another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, sizeof

from mmdump.errors import IncompleteError, UnsupportedError
from mmdump.kernel.arrays import I64, U64, Bools, Struct, printable
from mmdump.kernel.gather import gather
from mmdump.kernel.layout import find_object, find_type, struct_dtype
from mmdump.kernel.percpu import cpu_offsets
from mmdump.kernel.xarray import Truncated, idr_entries
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from drgn import Object, Program

    from mmdump.kernel import Kernel
    from mmdump.target import Reader

__all__ = ["EMPTY", "INACCURATE", "NONE", "UNKNOWN", "AllocTags", "read_tags"]

#: Tags of the kernel and of all modules. Modules have room for 100,000 (MODULE_ALLOC_TAG_VMAP_SIZE), and the
#: largest kernel some 20,000.
_MAX_TAGS = 1 << 17
#: Modules with tags.
_MAX_MODULES = 1 << 14
#: Counters in all: tags times CPUs. A thousand CPUs with the largest kernel have half of this.
_MAX_COUNTERS = 1 << 26
#: PATH_MAX: of a file's name, the longest of a tag's strings; and of all strings together.
_MAX_STRING, _MAX_STRINGS = 4096, 64 << 20
#: Strings are read in pieces of this size; few are longer.
_PIECE = 128
#: CODETAG_FLAG_INACCURATE (6.18), a macro: an allocation of this line could not be counted.
INACCURATE = 1

#: In place of a tag's number: no tag; CODETAG_EMPTY, where an allocation is meant to have none; a value that
#: is no tag of this kernel.
NONE, EMPTY, UNKNOWN = -1, -2, -3


@dataclass(frozen=True)
class AllocTags:
    """All tags, in the order in which the kernel lists them. Plain data.

    :param address: Of each, uint64.
    :param flags: uint32.
    :param lineno: uint32.
    :param modname: Name of the module, as bytes; None for the kernel's own. A list of objects, as the next.
    :param function: None where it could not be read, as for the file.
    :param filename: As the compiler was given it.
    :param bytes: What is allocated, summed over all CPUs, int64 (``alloc_tag_read()``).
    :param calls: How many allocations, uint64.
    :param counted: Whether all CPUs' counters could be read.
    :param incomplete: One sentence for each thing that could not be had.
    """

    address: U64
    flags: np.ndarray
    lineno: np.ndarray
    modname: Sequence[bytes | None]
    function: Sequence[bytes | None]
    filename: Sequence[bytes | None]
    bytes: I64
    calls: U64
    counted: Bools
    incomplete: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.address)

    def where(self, number: int) -> str:
        """A tag in words: ``file:line func:function [module]``."""
        file, function, module = (
            None if each is None else printable(each)
            for each in (self.filename[number], self.function[number], self.modname[number])
        )
        owner = f" [{module}]" if module is not None else ""
        return f"{file or '?'}:{self.lineno[number]}{owner} func:{function or '?'}"


def read_tags(kernel: Kernel) -> AllocTags:
    """Read the tags of the kernel and of its modules, with their counters.

    :raises IncompleteError: There are none in the dump.
    :raises UnsupportedError: They have another form than any kernel that is known.
    """
    try:
        return _read_tags(kernel)
    except (LookupError, AttributeError, TypeError) as error:
        raise UnsupportedError(
            f"mmdump does not know this kernel's allocation tags: {error}",
            "Is the debug info complete, and that of this kernel?",
        ) from error


def _read_tags(kernel: Kernel) -> AllocTags:
    prog, reader = kernel.target.prog, kernel.target.reader
    struct = prog.type("struct alloc_tag")
    dtype = struct_dtype(
        prog,
        struct,
        {name: (f"ct.{name}",) for name in ("flags", "lineno", "modname", "function", "filename")}
        | {"counters": ("counters",)},
    )
    ranges, incomplete = _ranges(prog, sizeof(struct))
    addresses: list[U64] = [np.empty(0, np.uint64)]
    rows: list[Struct] = [np.empty(0, dtype)]
    lost = 0
    for start, count in ranges:
        chunk = reader.read(start, count * dtype.itemsize)
        good = chunk.row_status(dtype.itemsize, count) == ReadStatus.READ
        lost += int((~good).sum())
        if len(chunk.data):
            addresses.append(
                (np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(dtype.itemsize))[good]
            )
            rows.append(chunk.data.view(dtype)[good])
    tags, address = np.concatenate(rows), np.concatenate(addresses)
    if lost:
        incomplete.append(f"{lost} allocation tags are not in the dump")
    if not len(tags):
        raise IncompleteError("the allocation tags are not in the dump", "It may be truncated or filtered.")
    total, calls, counted = _counters(prog, reader, tags["counters"].astype(np.uint64))
    if not counted.all():
        incomplete.append(
            f"the counters of {int((~counted).sum())} of {len(tags)} allocation tags could not be read"
        )
    strings = _Strings(reader)
    names = {name: strings.read(tags[name].astype(np.uint64)) for name in ("modname", "function", "filename")}
    nameless = sum(
        file is None or function is None
        for file, function in zip(names["filename"], names["function"], strict=True)
    )
    if nameless:
        incomplete.append(f"the file or function of {nameless} allocation tags could not be read")
    return AllocTags(
        address,
        tags["flags"].copy(),
        tags["lineno"].copy(),
        names["modname"],
        names["function"],
        names["filename"],
        total,
        calls,
        counted,
        tuple(incomplete),
    )


def _ranges(prog: Program, size: int) -> tuple[list[tuple[int, int]], list[str]]:
    """The arrays of tags in the order of ``codetag_next_ct()``: (address, count); and what is missing."""
    try:
        ranges, incomplete = _registered(prog, size)
    except FaultError:
        ranges, incomplete = [], []
    if not ranges:
        # The section itself; the modules' own are lost.
        found = _section(prog, size)
        if found is not None:
            return [found], ["which modules have allocation tags could not be read"]
    return ranges, incomplete


def _section(prog: Program, size: int) -> tuple[int, int] | None:
    try:
        start, stop = (prog.symbol(f"__{end}_alloc_tags").address for end in ("start", "stop"))
    except LookupError:
        return None
    count = (stop - start) // size
    return (start, count) if 0 < count <= _MAX_TAGS else None


def _registered(prog: Program, size: int) -> tuple[list[tuple[int, int]], list[str]]:
    """What is registered with the type of tags that allocations have."""
    types = find_object(prog, "alloc_tag_cttype")
    module = find_type(prog, "struct codetag_module")
    if types is None or module is None or not types.value_():
        return [], []
    if types.desc.tag_size.value_() != size:
        return [], []
    truncated = Truncated()
    ranges: list[tuple[int, int]] = []
    total = garbage = 0
    for _, pointer in idr_entries(types.mod_idr, _MAX_MODULES, truncated):
        try:
            start, stop = _bounds(prog, pointer)
        except FaultError:
            garbage += 1
            continue
        count = max(stop - start, 0) // size
        if total + count > _MAX_TAGS or any(
            start < end and first < stop for first, end in _ends(ranges, size)
        ):
            garbage += 1
            continue
        total += count
        if count:
            ranges.append((start, count))
    incomplete = []
    if garbage or truncated.lost:
        incomplete.append(
            f"the allocation tags of {garbage + truncated.lost} modules or more are garbage or unreadable"
        )
    return ranges, incomplete


def _ends(ranges: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    return [(start, start + count * size) for start, count in ranges]


def _bounds(prog: Program, pointer: int) -> tuple[int, int]:
    from drgn import Object

    module: Object = Object(prog, "struct codetag_module", address=pointer)
    return module.range.start.value_(), module.range.stop.value_()


def _counters(prog: Program, reader: Reader, pointers: U64) -> tuple[I64, U64, Bools]:
    """``alloc_tag_read()`` of each: bytes, calls, and whether all CPUs' counters could be read."""
    struct = prog.type("struct alloc_tag_counters")
    dtype = struct_dtype(prog, struct, {"bytes": ("bytes",), "calls": ("calls",)})
    total, calls = np.zeros(len(pointers), np.uint64), np.zeros(len(pointers), np.uint64)
    counted = pointers != 0
    try:
        offsets = [offset for _, offset in cpu_offsets(prog)]
    except FaultError:
        offsets = []
    if not offsets or len(offsets) * len(pointers) > _MAX_COUNTERS:
        return total.view(np.int64), calls, np.zeros(len(pointers), bool)
    for offset in offsets:
        # Both wrap around, as in C: a CPU frees what another has allocated.
        values, status = gather(reader, pointers + np.uint64(offset & 0xFFFFFFFFFFFFFFFF), dtype)
        good = status == ReadStatus.READ
        counted &= good
        total += values["bytes"].astype(np.uint64)
        calls += values["calls"].astype(np.uint64)
    total[~counted], calls[~counted] = 0, 0
    return total.view(np.int64), calls, counted


class _Strings:
    """Reads C strings, each once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._left = _MAX_STRINGS

    def read(self, pointers: U64) -> list[bytes | None]:
        """The string of each pointer; None where there is none, or it could not be read."""
        distinct, inverse = np.unique(pointers, return_inverse=True)
        pieces, status = gather(self._reader, distinct, np.dtype(f"V{_PIECE}"))
        texts: list[bytes | None] = []
        for pointer, piece, good in zip(
            distinct.tolist(), pieces, (status == ReadStatus.READ).tolist(), strict=True
        ):
            raw = piece.tobytes() if good else b""
            texts.append((raw if b"\0" in raw else self._long(pointer)) if pointer else None)
        texts = [None if text is None else text.split(b"\0", 1)[0] for text in texts]
        return [texts[each] for each in inverse.reshape(-1).tolist()]

    def _long(self, pointer: int) -> bytes | None:
        """A string that is longer, or whose end lies on a page's end."""
        for size in (4096 - pointer % 4096, _MAX_STRING):
            if self._left < 0:
                return None
            chunk = self._reader.read(pointer, size)
            self._left -= size
            lost = np.flatnonzero(chunk.status != ReadStatus.READ)
            raw = chunk.data.tobytes()
            if len(lost):
                raw = raw[: max(0, int(lost[0]) * chunk.page_size - pointer % chunk.page_size)]
            if b"\0" in raw:
                return raw
        return None
