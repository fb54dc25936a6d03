"""Which pages are wanted: tests on their codes, made from the options and applied as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdump.errors import UnsupportedError, UsageError
from mmdump.kernel.arrays import Bools, Struct
from mmdump_page_owner.codes import Rows
from mmdump_page_owner.kinds import KIND_ALIASES, KINDS
from mmdump_page_owner.ranges import MOST, Range, ages, moment, numbers, pfn_ranges, words

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["CodeTest", "area_ranges", "page_tests", "passing"]


@dataclass(frozen=True)
class CodeTest:
    """What a code must be. Plain data.

    :param code: Of :data:`mmdump_page_owner.codes.CODES`.
    :param ranges: It must lie in one of these.
    :param masks: It must have all bits of one of these.
    """

    code: str
    ranges: tuple[Range, ...] = ()
    masks: tuple[int, ...] = ()

    def __call__(self, values: Struct) -> Bools:
        """Whether each value is wanted."""
        found = np.zeros(len(values), bool)
        least, most = (0, MOST) if values.dtype.kind == "u" else (-(1 << 63), (1 << 63) - 1)
        for low, high in self.ranges:
            if low <= most and high >= least:
                found |= (values >= max(low, least)) & (values <= min(high, most))
        for mask in self.masks:
            found |= (values & np.uint64(mask)) == np.uint64(mask)
        return found


def passing(rows: Rows, tests: Sequence[CodeTest]) -> Rows:
    """The rows that pass all tests; each looks only at what those before it left."""
    for test in tests:
        if not len(rows.rows):
            break
        rows = rows.only(test(rows.code(test.code)))
    return rows


@dataclass(frozen=True)
class _Names:
    """Words of an option that name things with a number."""

    flag: str
    names: dict[str, tuple[int, ...]]

    def codes(self, given: Iterable[str]) -> tuple[Range, ...]:
        """The numbers of names given in any case, as ranges."""
        lower = {name.lower(): codes for name, codes in self.names.items()}
        found: list[Range] = []
        for word in words(given):
            values = lower.get(word.lower())
            if values is None:
                raise UsageError(
                    f"{self.flag} {word or repr(word)}: there is none of that name",
                    f"This kernel has: {', '.join(self.names)}",
                )
            found += [(value, value) for value in values]
        return tuple(found)


def _gfp_masks(kernel: Kernel, given: Iterable[str]) -> tuple[int, ...]:
    """One mask for each word of the option: all flags that it names, separated by commas or ``|``."""
    known = {name.lower(): mask for mask, name in kernel.gfp_names.names}
    if not known:
        raise UnsupportedError("the names of gfp flags are not in this dump")
    masks = []
    for each in given:
        mask = 0
        for name in each.replace("|", ",").lower().split(","):
            bits = next(
                (known[form] for form in (name.strip(), f"gfp_{name}", f"__gfp_{name}") if form in known), 0
            )
            if not bits:
                raise UsageError(
                    f"--gfp {name or repr(name)}: there is no such flag",
                    f"This kernel has: {', '.join(each for _, each in kernel.gfp_names.names)}",
                )
            mask |= bits
        masks.append(mask)
    return tuple(masks)


def area_ranges(kernel: Kernel, wanted: str) -> tuple[Range, ...]:
    """First and last PFN of the CMA areas of that name, or of all with ``*``.

    :raises UnsupportedError: This kernel has no CMA area.
    :raises UsageError: It has none of that name.
    """
    areas = kernel.cma_areas
    if not areas:
        raise UnsupportedError("this kernel has no CMA area")
    found = tuple((each.base_pfn, each.end_pfn - 1) for each in areas if wanted in ("*", each.name))
    if not found:
        names = ", ".join(each.name for each in areas)
        raise UsageError(f"there is no CMA area {wanted}", f"This kernel has: {names}")
    return found


def page_tests(
    kernel: Kernel,
    now: int | None,
    *,
    pfn: Sequence[str] = (),
    cma: str | None = None,
    age: str | None = None,
    since: str | None = None,
    until: str | None = None,
    pid: Sequence[str] = (),
    tgid: Sequence[str] = (),
    order: Sequence[str] = (),
    gfp: Sequence[str] = (),
    migratetype: Sequence[str] = (),
    zone: Sequence[str] = (),
    node: Sequence[str] = (),
    kind: Sequence[str] = (),
) -> tuple[CodeTest, ...]:
    """The tests that the options of these names ask for, the cheapest first.

    :param now: The time of the dump, nanoseconds of the records' clock; None where it is unknown.
    :raises UsageError: An option makes no sense.
    :raises UnsupportedError: It asks for what this kernel or dump does not know.
    """
    tests = []
    if pfn:
        tests.append(CodeTest("pfn", pfn_ranges("--pfn", pfn)))
    if cma is not None:
        tests.append(CodeTest("pfn", area_ranges(kernel, cma)))
    if order:
        tests.append(CodeTest("order", numbers("--order", order)))
    for code, given in (("pid", pid), ("tgid", tgid), ("node", node)):
        if given:
            tests.append(CodeTest(code, numbers(f"--{code}", given)))
    tests += _times(now, age, since, until)
    if gfp:
        tests.append(CodeTest("gfp_mask", masks=_gfp_masks(kernel, gfp)))
    if migratetype:
        types = _Names("--migratetype", {name: (code,) for code, name in enumerate(kernel.pageblocks.names)})
        tests.append(CodeTest("migratetype", types.codes(migratetype)))
    if zone:
        zones = _Names("--zone", {each.name: (each.index,) for each in kernel.zones})
        tests.append(CodeTest("zone", zones.codes(zone)))
    if kind:
        every = {name: (code,) for code, name in enumerate(KINDS)}
        several = {word: tuple(map(KINDS.index, each)) for word, each in KIND_ALIASES.items()}
        tests.append(CodeTest("kind", _Names("--kind", every | several).codes(kind)))
    return tuple(tests)


def _times(now: int | None, age: str | None, since: str | None, until: str | None) -> Iterable[CodeTest]:
    relative = [
        flag
        for flag, text in (("--age", age), ("--since", since), ("--until", until))
        if text is not None and not text.startswith("@")
    ]
    if relative and now is None:
        raise UnsupportedError(
            f"{relative[0]}: when the dump was taken is not in it", "--since @SECONDS counts from the boot."
        )
    then = now or 0
    if age is not None:
        yield CodeTest("ts", (ages("--age", age, then),))
    first = max(moment("--since", since, then), 0) if since is not None else 0
    last = moment("--until", until, then) if until is not None else MOST
    if first > last:
        raise UsageError("--since is later than --until.")
    if since is not None or until is not None:
        yield CodeTest("ts", ((first, last),))
