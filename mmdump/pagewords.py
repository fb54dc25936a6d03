"""Which page a word of the command line means: a PFN, or an address of some sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from mmdump.errors import IncompleteError, UnsupportedError, UsageError
from mmdump.target.faults import fault_words

if TYPE_CHECKING:
    from drgn import Object

    from mmdump.kernel import Kernel

__all__ = ["PageWord", "find_page"]

#: Kernel addresses begin here on every 64-bit architecture that mmdump reads.
_KERNEL_HALF = 1 << 63
#: No machine has so many pages: physical addresses have at most 52 bits, and pages 4 KiB or more.
_NO_PFN = 1 << 40


@dataclass(frozen=True)
class PageWord:
    """A page that was asked for.

    :param pfn: It.
    :param how: How the word led there, in a few words.
    :param address: A direct map address within the page, where the word was an address of memory.
    """

    pfn: int
    how: str
    address: int | None = None


def find_page(kernel: Kernel, word: str, pid: int | None = None) -> PageWord:
    """The page that a word means.

    A bare number is a PFN, decimal or hexadecimal; ``phys:0x...`` a physical address; a number in the
    kernel's half of the address space the address of a ``struct page``, of the direct map, or of anything
    else that the kernel's page tables map.

    :param pid: The word is a user address of this task instead.
    :raises UsageError: It means no page that has a ``struct page``.
    :raises IncompleteError: The page tables that lead there are not in the dump.
    """
    physical = word.removeprefix("phys:")
    number = _number(physical)
    shift = kernel.target.page_shift
    if number is None:
        raise UsageError(
            f"{word!r} is no page",
            "Give a PFN, phys:0x... for a physical address, a kernel address, or --pid and a user address.",
        )
    if physical != word:
        found = PageWord(number >> shift, f"physical address {number:#x}", _direct(kernel, number))
    elif pid is not None:
        found = _user(kernel, pid, number)
    elif number >= _KERNEL_HALF:
        found = _kernel_address(kernel, number)
    else:
        found = PageWord(number, f"PFN {number:#x}")
    if not kernel.memmap.valid(np.array([found.pfn], np.uint64).astype(np.int64))[0]:
        hint = "Numbers without 0x are decimal; phys:0x... is a physical address."
        if pid is None and word == physical and _NO_PFN <= number < _KERNEL_HALF:
            hint = "It looks like a user address: --pid PID says of which task."
        raise UsageError(f"{word} is PFN {found.pfn:#x}, which has no struct page", hint)
    return found


def _number(text: str) -> int | None:
    """Decimal, or hexadecimal with 0x or with a digit that says so; at most 64 bits."""
    for base in (0, 10, 16):
        try:
            number = int(text, base)
        except ValueError:
            continue
        return number if 0 <= number < 1 << 64 else None
    return None


def _direct(kernel: Kernel, physical: int) -> int | None:
    from drgn.helpers.linux.mm import phys_to_virt

    try:
        return int(phys_to_virt(kernel.target.prog, physical).value_())
    except Exception:  # an architecture that drgn does not know
        return None


def _kernel_address(kernel: Kernel, address: int) -> PageWord:
    memmap = kernel.memmap
    pfn, offset = divmod(address - memmap.vmemmap, memmap.page_size)
    if 0 <= pfn < memmap.end_pfn:
        # Any address inside of a struct page: a list leads to its middle.
        how = f"struct page {memmap.address(pfn):#x}" + (f" + {offset:#x}" if offset else "")
        return PageWord(pfn, how)
    base = _direct(kernel, 0)
    if base is not None and 0 <= (address - base) >> kernel.target.page_shift < memmap.end_pfn:
        return PageWord(
            (address - base) >> kernel.target.page_shift, f"direct map address {address:#x}", address
        )
    # Such as vmalloc, modules, and the kernel's own image.
    physical = _translate(kernel.target.prog["init_mm"].address_of_(), address, "the kernel")
    return PageWord(
        physical >> kernel.target.page_shift, f"kernel address {address:#x}", _direct(kernel, physical)
    )


def _user(kernel: Kernel, pid: int, address: int) -> PageWord:
    from drgn.helpers.linux.pid import find_task

    try:
        task = find_task(kernel.target.prog, pid)
        mm = task.mm.read_() if task else None
        comm = task.comm.string_().decode("utf-8", "replace") if task else ""
    except FaultError as error:
        raise IncompleteError(f"task {pid} could not be read: {fault_words(error)}") from error
    except (LookupError, AttributeError, ValueError) as error:
        raise UnsupportedError(f"mmdump does not find tasks of this kernel: {error}") from error
    if not task:
        raise UsageError(f"there is no task {pid}")
    if not mm:
        raise UsageError(f"task {pid} ({comm}) has no address space of its own: a kernel thread, or exiting")
    physical = _translate(mm, address, f"task {pid} ({comm})")
    how = f"address {address:#x} of task {pid} ({comm})"
    return PageWord(physical >> kernel.target.page_shift, how, _direct(kernel, physical))


def _translate(mm: Object, address: int, whose: str) -> int:
    """The physical address behind a virtual one.

    :raises UsageError: Nothing is mapped there.
    :raises IncompleteError: The page tables are not in the dump.
    """
    from drgn.helpers.linux.mm import follow_phys

    try:
        return int(follow_phys(mm, address).value_())
    except FaultError as error:
        where = f"{address:#x} of {whose}"
        if "not mapped" in str(error) or error.address == address:
            raise UsageError(
                f"nothing is mapped at {where}: swapped out, never touched, or no memory"
            ) from error
        why = fault_words(error)
        raise IncompleteError(f"the page tables that map {where} could not be read: {why}") from error
    except (LookupError, ValueError, NotImplementedError) as error:
        raise UnsupportedError(f"the page tables of this kernel cannot be read: {error}") from error
