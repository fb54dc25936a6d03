"""Call chains: their frames, what can be told from them, and which of them are wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import polars as pl
from drgn import FaultError

from mmdump.errors import UsageError
from mmdump.kernel.layout import find_object
from mmdump.kernel.stackdepot import StackStatus
from mmdump.result import Table
from mmdump_page_owner.stacks import STACKS

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_page_owner.frames import Frames

__all__ = ["BROKEN", "SPECIAL", "UNREADABLE", "ChainTest", "Chains", "read_chains", "special_handles"]

#: Statuses of handles that page_owner cannot have recorded: the record or the depot is damaged.
BROKEN = (StackStatus.BAD_HANDLE.value, StackStatus.NOT_A_RECORD.value)
UNREADABLE = StackStatus.UNREADABLE.value
#: page_owner's own handles (static in mm/page_owner.c) -> what a page that has one is.
SPECIAL = {
    "early_handle": "allocated before page_owner began",
    "dummy_handle": "allocated while page_owner was at work on another",
    "failure_handle": "the stack depot could not take the call chain",
}
#: Chains that are decoded at most; a real depot has some thousands.
_MAX_CHAINS = 1 << 16

_FIELDS = {
    "stack_id": pl.Int64(),
    "status": pl.String(),
    "frames": pl.List(pl.String),
    "addresses": pl.List(pl.UInt64),
    "module": pl.String(),
    "vmalloc": pl.Boolean(),
    "special": pl.String(),
    "wanted": pl.Boolean(),
}


def special_handles(kernel: Kernel) -> dict[int, str]:
    """page_owner's own handles by value, and what they are called; those that could be read."""
    depot = kernel.stack_depot
    found: dict[int, str] = {}
    for name in SPECIAL:
        # By file name: Android's mm/page_pinner.c has a failure_handle of its own.
        variable = find_object(kernel.target.prog, name, "mm/page_owner.c")
        try:
            handle = int(variable.value_()) if variable is not None else 0
        except FaultError:
            handle = 0
        handle &= depot.layout.mask if depot is not None else 0xFFFFFFFF
        if handle:
            found.setdefault(handle, name)
    return found


@dataclass(frozen=True)
class ChainTest:
    """Which call chains are wanted: those that pass every test.

    :param frames: Tests of which each must be true of a frame, as the kernel prints it.
    :param modules: One of these must have a frame; none asked for means any chain.
    """

    frames: tuple[Callable[[str], bool], ...] = ()
    modules: tuple[str, ...] = ()

    @classmethod
    def parse(cls, stack: Sequence[str], module: Sequence[str]) -> ChainTest:
        """From the options.

        :raises UsageError: A regular expression is not one.
        """
        return cls(
            tuple(_frame_test(word) for word in stack),
            tuple(part.strip() for each in module for part in each.split(",")),
        )

    @property
    def all(self) -> bool:
        """Whether every chain is wanted."""
        return not (self.frames or self.modules)

    def __call__(self, frames: Sequence[str], modules: Iterable[str | None]) -> bool:
        """Whether a chain is wanted."""
        if self.modules and not any(
            fnmatchcase(each, module) for each in modules if each for module in self.modules
        ):
            return False
        return all(any(test(frame) for frame in frames) for test in self.frames)


def _frame_test(word: str) -> Callable[[str], bool]:
    """``/regex/`` anywhere in a frame's text, or the name (a glob) of its function."""
    if len(word) > 1 and word.startswith("/") and word.endswith("/"):
        try:
            pattern = re.compile(word[1:-1])
        except re.error as error:
            raise UsageError(f"--stack {word}: {error}") from error
        return lambda frame: pattern.search(frame) is not None
    if not word:
        raise UsageError("--stack '': name a function, or give a /regex/.")
    return lambda frame: fnmatchcase(frame.split("+", 1)[0].split(" ", 1)[0], word)


@dataclass(frozen=True)
class Chains:
    """Chains by handle.

    :param frame: ``stack_id``, ``status`` (of :class:`StackStatus`, or why there is none), ``frames`` as they
        are shown, the return ``addresses`` they stand for, ``module`` of the innermost frame that is in one,
        ``vmalloc`` as page_owner_sort tells it, ``special`` (its name in :data:`SPECIAL`), and whether it is
        ``wanted``; one that is not has no frames.
    :param left_out: Handles that were too many to decode.
    """

    frame: pl.DataFrame
    left_out: int = 0

    def of(self, handles: pl.Series, field: str) -> pl.Series:
        """A field of the chains of these handles, in their order; null where it is not known."""
        rows = pl.DataFrame({"stack_id": handles})
        return rows.join(
            self.frame.select("stack_id", field), on="stack_id", how="left", maintain_order="left"
        )[field]

    def table(self) -> Table:
        """Those that are wanted, as the table that other tables name by ``stack_id``."""
        return Table(STACKS, self.frame.filter("wanted").select(STACKS.names))


def read_chains(kernel: Kernel, handles: Iterable[int], frames: Frames, test: ChainTest) -> Chains:
    """Decode the chains of these handles."""
    handles = sorted(set(handles))
    special = special_handles(kernel)
    depot = kernel.stack_depot
    rows = []
    for handle in handles[:_MAX_CHAINS]:
        status = "no stack depot"
        addresses: tuple[int, ...] = ()
        if depot is not None:
            stack = depot.stack(handle)
            status, addresses = stack.status.value, stack.frames
        plain = [frames.plain(address) for address in addresses]
        modules = [frames.module(address) for address in addresses]
        wanted = test(plain, modules)
        shown = [(text, each) for each in addresses for text in (frames.texts(each) if wanted else ())]
        rows.append(
            (
                handle,
                status,
                [text for text, _ in shown],
                [each for _, each in shown],
                next((name for name in modules if name), None),
                _is_vmalloc(plain),
                special.get(handle),
                wanted,
            )
        )
    # polars takes columns in a fraction of the time that it takes rows.
    columns = zip(*rows, strict=True) if rows else ([] for _ in _FIELDS)
    frame = pl.DataFrame(
        [pl.Series(name, list(each), _FIELDS[name]) for name, each in zip(_FIELDS, columns, strict=True)]
    )
    return Chains(frame, max(len(handles) - _MAX_CHAINS, 0))


def _is_vmalloc(frames: Sequence[str]) -> bool:
    """Whether ``__vmalloc_node_range()`` called something with ``alloc_pages``, as page_owner_sort tells."""
    row = next((row for row, text in enumerate(frames) if "__vmalloc_node_range" in text), 0)
    return row > 0 and "alloc_pages" in frames[row - 1]
