"""Opening a dump or the live kernel: a drgn Program, its debug info, and what is known about them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import drgn

from mmdump.errors import OpenError
from mmdump.target.debuginfo import (
    DebugInfo,
    NoDebugInfoError,
    attach_debug_info,
    existing_debug_info,
)
from mmdump.target.dumpfile import DumpFile, inspect_dump
from mmdump.target.reader import Reader
from mmdump.target.repair import needs_repair, repaired_copy
from mmdump.target.vmcoreinfo import MAX_SIZE, parse_vmcoreinfo

__all__ = ["LIVE_KERNEL", "Target", "open_target"]

LIVE_KERNEL = Path("/proc/kcore")


class Target:
    """A kernel to analyse: one drgn Program and what it is made of.

    Made by :func:`open_target` or :meth:`from_program`. A context manager; :meth:`close` releases the
    dump.
    """

    def __init__(
        self,
        prog: drgn.Program,
        *,
        path: Path | None,
        dump: DumpFile | None,
        debug_info: DebugInfo | None,
        vmcoreinfo: dict[str, str],
        no_debug_info: str | None = None,
        fd: int = -1,
    ) -> None:
        #: The drgn Program.
        self.prog = prog
        #: The dump as it was named, ``None`` for the live kernel.
        self.path = path
        #: What the file's headers say, ``None`` for the live kernel or a Program made in memory.
        self.dump = dump
        #: Where types and symbols come from; ``None`` if a Program was given without any.
        self.debug_info = debug_info
        #: Why there is no debug info, in one sentence, where the target was opened without.
        self.no_debug_info = no_debug_info
        #: VMCOREINFO's entries, as text.
        self.vmcoreinfo = vmcoreinfo
        #: Whether this is the running kernel.
        self.live = bool(prog.flags & drgn.ProgramFlags.IS_LIVE)
        #: The kernel release, as ``uname -r`` prints it; empty when not known.
        self.release = vmcoreinfo.get("OSRELEASE", "")
        self._fd = fd

    @classmethod
    def from_program(cls, prog: drgn.Program) -> Target:
        """The target that is open in a Program already, as in drgn's shell.

        :raises OpenError: the Program is not a Linux kernel's
        """
        if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
            raise OpenError(
                "the drgn program is not a Linux kernel.",
                "Open a vmcore (drgn -c) or the live kernel (drgn -k).",
            )
        dump = None
        path = None
        core = prog.core_dump_path
        if core is not None and not prog.flags & drgn.ProgramFlags.IS_LIVE:
            path = Path(core)
            try:
                dump = inspect_dump(path)
            except OpenError:
                dump = None  # drgn could open it: do without what the headers would have told
        return cls(
            prog,
            path=path,
            dump=dump,
            debug_info=existing_debug_info(prog),
            vmcoreinfo=_vmcoreinfo(prog, dump),
        )

    @property
    def name(self) -> str:
        """What to call the target in messages: the path as given, or "the live kernel"."""
        if self.live:
            return "the live kernel"
        return str(self.path) if self.path is not None else "the drgn program"

    @property
    def build_id(self) -> str | None:
        """The kernel's build ID in lower-case hex; ``None`` where VMCOREINFO has none (before Linux 5.9).

        The debug info's own is another thing: ``debug_info.build_id``.
        """
        return self.vmcoreinfo.get("BUILD-ID", "").lower() or None

    @property
    def architecture(self) -> str:
        """The architecture by drgn's name in lower case: ``x86_64``, ``aarch64``, ``s390x`` ..."""
        platform = self.prog.platform
        return platform.arch.name.lower() if platform is not None else "unknown"

    @cached_property
    def page_size(self) -> int:
        """Bytes per page.

        :raises OpenError: VMCOREINFO does not say
        """
        try:
            size = int(self.vmcoreinfo["PAGESIZE"])
        except (KeyError, ValueError):
            size = 0
        if not 1 << 10 <= size <= 1 << 20 or size & (size - 1):
            raise OpenError(f"{self.name}: VMCOREINFO has no valid PAGESIZE.", "Was the dump damaged?")
        return size

    @property
    def page_shift(self) -> int:
        """log2 of the page size."""
        return self.page_size.bit_length() - 1

    @property
    def crash_time(self) -> int | None:
        """When the kernel crashed, in seconds since the epoch; ``None`` when it did not say."""
        try:
            return int(self.vmcoreinfo["CRASHTIME"])
        except (KeyError, ValueError):
            return None

    @cached_property
    def reader(self) -> Reader:
        """Bulk reads around the pages that are missing."""
        coverage = self.dump.coverage if self.dump is not None else None
        return Reader(self.prog, self.page_size, coverage, self._direct_map)

    def _direct_map(self) -> tuple[int, int] | None:
        """The kernel addresses [base, end) of the direct map, or ``None`` when they cannot be found."""
        from drgn.helpers.linux.mm import phys_to_virt

        if self.dump is None:
            return None
        try:
            base = phys_to_virt(self.prog, 0).value_()
        except Exception:  # an architecture that drgn does not know, or no debug info
            return None
        return base, base + self.dump.coverage.end_pfn * self.dump.coverage.page_size

    def describe(self) -> str:
        """The kernel and where it is from, in one line."""
        where = "live" if self.live else self.dump.describe() if self.dump is not None else "a drgn program"
        return f"Linux {self.release or 'of unknown release'}, {self.architecture}, {where}"

    def reopen_raw(self) -> drgn.Program:
        """A second Program on the same memory without debug info: opens in about a millisecond.

        :raises OpenError: the dump has gone, or the Program was made in memory
        """
        if self.live:
            return _open_live()
        if self.path is None:
            raise OpenError("the drgn program cannot be opened a second time: it is not a file.")
        return _open_dump(str(self.path), self.path if self._fd < 0 else self._fd)

    def close(self) -> None:
        """Release what the target holds besides the Program, which lives as long as it is referred to."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_target(
    path: str | os.PathLike[str] | None = None,
    *,
    symbols: Sequence[str | os.PathLike[str]] = (),
    force: bool = False,
    live: bool = False,
    bare: bool = False,
) -> Target:
    """Open a vmcore, or the live kernel when that is asked for by name.

    :param path: The dump; ``/proc/kcore`` is the live kernel.
    :param symbols: Files or directories with debug info, before anything else is searched.
    :param force: Use debug info even if its build ID is not the dump's.
    :param live: Open the running kernel; ``path`` is then not needed.
    :param bare: Open it without debug info where none is found; :attr:`Target.no_debug_info` then says so.
    :raises OpenError: with what is wrong and what to do, whatever is wrong
    """
    if live or (path is not None and Path(path) == LIVE_KERNEL):
        prog = _open_live()
        vmcoreinfo = _vmcoreinfo(prog, None)
        release = vmcoreinfo.get("OSRELEASE", os.uname().release)
        debug_info, without = _debug_info(
            prog, "the live kernel", release, vmcoreinfo, None, symbols, force=force, bare=bare
        )
        return Target(
            prog,
            path=None,
            dump=None,
            debug_info=debug_info,
            vmcoreinfo=vmcoreinfo,
            no_debug_info=without,
        )
    if path is None:
        raise OpenError("no dump was given.", "Give a vmcore, or --live for the running kernel.")
    path = Path(path)
    dump = inspect_dump(path)
    _check_blocks(dump)
    fd = repaired_copy(dump) if needs_repair(dump) else -1
    try:
        prog = _open_dump(str(path), path if fd < 0 else fd)
        vmcoreinfo = _vmcoreinfo(prog, dump)
        release = vmcoreinfo.get("OSRELEASE", "")
        debug_info, without = _debug_info(
            prog, str(path), release, vmcoreinfo, path, symbols, force=force, bare=bare
        )
        return Target(
            prog,
            path=path,
            dump=dump,
            debug_info=debug_info,
            vmcoreinfo=vmcoreinfo,
            no_debug_info=without,
            fd=fd,
        )
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise


def _debug_info(
    prog: drgn.Program,
    name: str,
    release: str,
    vmcoreinfo: Mapping[str, str],
    dump: Path | None,
    symbols: Sequence[str | os.PathLike[str]],
    *,
    force: bool,
    bare: bool,
) -> tuple[DebugInfo | None, str | None]:
    """The debug info, or why there is none.

    :raises OpenError: There is none, and one is needed; or a file that was given does not fit.
    """
    try:
        debug_info = attach_debug_info(
            prog,
            name=name,
            release=release,
            vmcoreinfo=vmcoreinfo,
            dump=dump,
            symbols=symbols,
            force=force,
        )
    except NoDebugInfoError as error:
        if not bare:
            raise
        return None, " ".join(filter(None, (error.message, error.hint)))
    return debug_info, None


def _check_blocks(dump: DumpFile) -> None:
    """Refuse a kdump whose blocks are not the kernel's pages, which libkdumpfile reads at wrong places.

    :raises OpenError: it is one
    """
    page_size = dump.vmcoreinfo.get("PAGESIZE", "")
    block_size = dump.coverage.page_size
    if dump.container == "kdump" and page_size.isdecimal() and int(page_size) != block_size:
        raise OpenError(
            f"{dump.path}: it is kept in blocks of {block_size} bytes, while the kernel's pages have "
            f"{page_size}: QEMU writes kdumps of aarch64 guests so, and no library reads them.",
            "Dump the guest as ELF (dump-guest-memory without -z, -l or -s).",
        )


def _open_live() -> drgn.Program:
    prog = drgn.Program()
    try:
        prog.set_kernel()
    except PermissionError as error:
        raise OpenError("the live kernel: no permission to read /proc/kcore.", "Run as root.") from error
    except Exception as error:
        raise OpenError(
            f"the live kernel cannot be opened: {_sentence(error)}", "It takes root and CONFIG_PROC_KCORE."
        ) from error
    return prog


def _open_dump(name: str, path_or_fd: Path | int) -> drgn.Program:
    """A Program on a dump, with everything drgn raises translated.

    :raises OpenError: see there
    """
    prog = drgn.Program()
    try:
        # drgn keeps the descriptor: it gets one of its own.
        prog.set_core_dump(os.dup(path_or_fd) if isinstance(path_or_fd, int) else path_or_fd)
    except PermissionError as error:
        raise OpenError(f"{name}: no permission to read it.", "Run as a user who may, often root.") from error
    except drgn.FaultError as error:
        raise OpenError(
            f"{name}: what is needed to open it is not in the file ({_sentence(error)})",
            "The dump may be truncated or damaged: copy it again.",
        ) from error
    except Exception as error:  # ValueError, OSError, LookupError, or bare ones of libkdumpfile
        raise OpenError(
            f"{name}: drgn cannot open it ({_sentence(error)})",
            "The dump may be damaged or truncated, or of a kind that libkdumpfile does not know.",
        ) from error
    if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise OpenError(
            f"{name} has no VMCOREINFO, so the kernel in it cannot be identified.",
            "Take the dump with kdump, or with QEMU and -device vmcoreinfo.",
        )
    return prog


def _sentence(error: Exception) -> str:
    """What an exception says, on one line and not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]


def _vmcoreinfo(prog: drgn.Program, dump: DumpFile | None) -> dict[str, str]:
    """VMCOREINFO from the file, else as drgn has it."""
    if dump is not None and dump.vmcoreinfo:
        return dump.vmcoreinfo
    try:
        raw = prog["VMCOREINFO"].string_()
    except Exception:  # not given to this Program
        return {}
    return parse_vmcoreinfo(raw[:MAX_SIZE])
