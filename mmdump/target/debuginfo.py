"""Finding the kernel's debug info and giving it to drgn."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import drgn

from mmdump.errors import OpenError
from mmdump.target.identity import contradiction
from mmdump.target.symbolfile import COMPRESSED_SUFFIXES, SymbolFile, decompressed, probe

__all__ = ["DebugInfo", "NoDebugInfoError", "attach_debug_info", "existing_debug_info"]

logger = logging.getLogger("mmdump.target")
# drgn warns about what is explained here in better words. Without a handler Python would print that to
# stderr; with this one it is seen only when logging is set up (--debug).
logging.getLogger("drgn").addHandler(logging.NullHandler())

GIVEN = "given with -s"
BESIDE = "beside the dump"
STANDARD = "found by build ID or release in the standard places"
DEBUGINFOD = "debuginfod"
HINT = "Give it with -s VMLINUX, or install the distribution's kernel debug package."
ET_REL = 1


class NoDebugInfoError(OpenError):
    """The kernel's debug info was looked for everywhere, and is nowhere."""


@dataclass(frozen=True)
class DebugInfo:
    """Where a Program's types and symbols come from.

    :param path: The file; decompressed if the given one was compressed.
    :param source: In words: "given with -s", "beside the dump" ...
    :param build_id: Of the file, lower-case hex, if it has one.
    :param forced: Used although it is not the dumped kernel's.
    """

    path: Path
    source: str
    build_id: str | None
    forced: bool = False


def existing_debug_info(prog: drgn.Program) -> DebugInfo | None:
    """The debug info a Program has already, or ``None``."""
    try:
        module = prog.main_module()
    except LookupError:
        return None
    if module.debug_file_status != drgn.ModuleFileStatus.HAVE or module.debug_file_path is None:
        return None
    return DebugInfo(Path(module.debug_file_path), "already loaded", _hex(module.build_id))


def attach_debug_info(
    prog: drgn.Program,
    *,
    name: str,
    release: str,
    vmcoreinfo: Mapping[str, str],
    dump: Path | None,
    symbols: Sequence[str | os.PathLike[str]] = (),
    force: bool = False,
) -> DebugInfo:
    """Give a Program the kernel's debug info.

    Looked for in this order: ``symbols``; files named like a vmlinux beside the dump, and beside what it is
    a link to; where drgn looks
    (by build ID below /usr/lib/debug, then by release in /boot and /lib/modules); debuginfod, when
    DEBUGINFOD_URLS is set. The types themselves are loaded when they are first asked for.

    :param name: What the target is called in messages.
    :param release: The kernel's release.
    :param vmcoreinfo: Tells the kernel where it has no build ID.
    :param dump: The dump's path, or ``None`` for a live kernel.
    :param symbols: Files or directories given by the user, first to last; files may be compressed.
    :param force: Take the first given file with debug info, even with another build ID.
    :raises NoDebugInfoError: none was found
    :raises OpenError: a given file is of another kernel, or cannot be read
    """
    module = _main_module(prog, name)
    search = _Search(prog, module, name, release, vmcoreinfo, force)
    given = [Path(symbol) for symbol in symbols]
    others: list[Path] = []
    for path in given:
        found = search.in_directory(path) if os.path.isdir(path) else search.given_file(path, others)
        if found:
            break
    else:
        found = (
            (search.beside(dump) if dump is not None else None)
            or search.by_finder("standard", STANDARD)
            or (search.by_finder("debuginfod", DEBUGINFOD) if os.environ.get("DEBUGINFOD_URLS") else None)
        )
    if found is None:
        raise search.failure()
    others += [path for path in given if os.path.isfile(path) and path not in others and search.used != path]
    if others:
        # Of kernel modules, most likely: drgn finds which ones; files of nothing in the dump are ignored.
        try:
            prog.load_debug_info([decompressed(path) for path in others])
        except Exception as error:  # the kernel's own debug info is there: go on
            logger.warning("debug info of modules was not loaded: %s", error)
    return found


def _main_module(prog: drgn.Program, name: str) -> drgn.Module:
    """The kernel as a drgn module, without searching for debug info yet.

    Listing all loaded modules would need the kernel's debug info, and drgn would go and find it; the
    kernel itself comes first, from VMCOREINFO alone.
    """
    try:
        prog.set_enabled_debug_info_finders([])
        module, _ = next(iter(prog.loaded_modules()))
        prog.set_enabled_debug_info_finders(["standard"])
    except Exception as error:
        raise OpenError(f"{name}: drgn cannot tell which kernel this is ({error}).") from error
    return module


class _Search:
    """One search for the main module's debug info, and what was seen on the way."""

    def __init__(
        self,
        prog: drgn.Program,
        module: drgn.Module,
        name: str,
        release: str,
        vmcoreinfo: Mapping[str, str],
        force: bool,
    ) -> None:
        self._prog = prog
        self._module = module
        self._name = name
        self._release = release
        self._vmcoreinfo = vmcoreinfo
        self._force = force
        self._build_id = _hex(module.build_id)
        self._contradictions: dict[Path, str | None] = {}
        #: Why files that looked right were not taken.
        self._rejected: list[str] = []
        #: The given path that was taken, as it was given.
        self.used: Path | None = None

    def given_file(self, path: Path, others: list[Path]) -> DebugInfo | None:
        """Attach a file that the user asked for by name.

        :param others: Gets the path when it is an object file: a kernel module's.
        :raises OpenError: it cannot be the kernel's debug info
        """
        if not os.path.exists(path):
            raise OpenError(f"{path}: no such file or directory.", "Check the path given with -s.")
        if not os.path.isfile(path):
            # A FIFO without a writer would block for ever.
            raise OpenError(f"{path} is not a regular file.", "Debug info is a vmlinux with DWARF.")
        file = probe(decompressed(path))
        if not file.is_elf:
            raise OpenError(
                f"{path} is not an ELF file.",
                "Debug info is a vmlinux with DWARF, not a vmlinuz, bzImage or System.map.",
            )
        if _elf_type(file.path) == ET_REL:
            others.append(path)
            return None
        self.used = path
        if file.cut_short:
            raise OpenError(f"{path} is cut short: {file.cut_short}.", "Copy or download it again.")
        if not file.has_debug_info:
            raise OpenError(f"{path} has no debug info: it was stripped.", HINT)
        if not self._force and (why := self._foreign(file)):
            raise self._another_kernel(path, why)
        return self._attach(file, GIVEN)

    def in_directory(self, directory: Path) -> DebugInfo | None:
        """Look in a directory the user gave: for a vmlinux in it, or as a tree like /usr/lib/debug."""
        found = self._named_files(directory, GIVEN)
        if found:
            return found
        options = drgn.DebugInfoOptions(
            directories=[os.path.abspath(directory)], kernel_directories=["", os.path.abspath(directory)]
        )
        self._guarded(lambda: self._prog.find_standard_debug_info([self._module], options))
        found = self._found(GIVEN)
        if found is None:
            self._rejected.append(f"{directory} has none that fits")
        return found

    def beside(self, dump: Path) -> DebugInfo | None:
        """Look beside the dump, and beside what it is a link to; what does not fit is only remembered."""
        real = Path(os.path.realpath(dump)).parent
        same = os.path.realpath(dump.parent) == str(real)
        return self._named_files(dump.parent, BESIDE) or (None if same else self._named_files(real, BESIDE))

    def by_finder(self, finder: str, source: str) -> DebugInfo | None:
        """Let drgn look. It turns debuginfod off for kernels, so that one is enabled here by name."""
        if finder not in self._prog.registered_debug_info_finders():
            return None

        def find() -> None:
            self._prog.set_enabled_debug_info_finders([finder])
            self._prog.load_module_debug_info(self._module)

        self._guarded(find)
        self._prog.set_enabled_debug_info_finders(["standard"])
        return self._found(source)

    def failure(self) -> NoDebugInfoError:
        """The error when nothing was found, with what was seen."""
        kernel = f"kernel {self._release}"
        if self._build_id:
            kernel += f" (build ID {self._build_id})"
        message = f"{self._name}: no debug info for {kernel}."
        if self._rejected:
            # One stale file explains itself; a list of them would bury the message.
            message += f" Not used: {'; '.join(self._rejected[:3])}."
        return NoDebugInfoError(message, HINT)

    def _named_files(self, directory: Path, source: str) -> DebugInfo | None:
        for path in _candidates(directory, self._release):
            try:
                file = probe(decompressed(path))
            except OpenError as error:
                self._rejected.append(error.message.rstrip("."))
                continue
            if file.cut_short:
                self._rejected.append(f"{path} is cut short: {file.cut_short}")
            elif not file.has_debug_info:
                self._rejected.append(f"{path} has no debug info")
            elif not (why := self._foreign(file)) or (self._force and source == GIVEN):
                return self._attach(file, source)
            elif self._build_id is None:
                self._rejected.append(f"{path} belongs to another kernel: {why}")
            else:
                self._rejected.append(f"{path} has build ID {file.build_id or 'none'}")
        return None

    def _foreign(self, file: SymbolFile) -> str | None:
        """What shows that a file is of another kernel, in words; ``None`` if nothing does."""
        if self._build_id is None:
            # VMCOREINFO has no BUILD-ID before 5.9 (0935288c6e00 "kdump: append kernel build-id string
            # to VMCOREINFO").
            if file.path not in self._contradictions:
                self._contradictions[file.path] = contradiction(self._prog, file.path, self._vmcoreinfo)
            return self._contradictions[file.path]
        if file.build_id == self._build_id:
            return None
        return f"its build ID is {file.build_id or 'missing'}"

    def _another_kernel(self, path: Path, why: str) -> OpenError:
        if self._build_id is None:
            kernel = f"while {self._name} is of Linux {self._release}"
        else:
            kernel = f"that of {self._name} (kernel {self._release}) is {self._build_id}"
        return OpenError(
            f"{path} belongs to another kernel: {why}, {kernel}.",
            "Give the vmlinux of the kernel that was dumped, or use this one with --force-symbols.",
        )

    def _attach(self, file: SymbolFile, source: str) -> DebugInfo:
        try:
            self._module.try_file(file.path, force=self._force)
        except Exception as error:
            raise OpenError(f"{file.path}: drgn cannot use it ({error}).") from error
        if self._module.debug_file_status == drgn.ModuleFileStatus.WANT_SUPPLEMENTARY:
            wanted = self._module.wanted_supplementary_debug_file()
            raise OpenError(
                f"{file.path} needs its supplementary file {wanted.supplementary_path}, which was not found.",
                HINT,
            )
        if self._module.debug_file_status != drgn.ModuleFileStatus.HAVE:
            raise OpenError(f"{file.path}: drgn does not accept it as debug info of {self._name}.", HINT)
        return DebugInfo(file.path, source, file.build_id, forced=self._foreign(file) is not None)

    def _found(self, source: str) -> DebugInfo | None:
        """What drgn found: by build ID, or by the release alone, which another build may have as well."""
        found = existing_debug_info(self._prog)
        if found is None:
            return None
        why = self._foreign(SymbolFile(found.path, found.build_id, has_debug_info=True, is_elf=True))
        if why and not self._force:
            raise self._another_kernel(found.path, why)
        return DebugInfo(found.path, source, found.build_id, forced=why is not None)

    def _guarded(self, find: Callable[[], None]) -> None:
        try:
            find()
        except Exception as error:
            self._rejected.append(f"drgn: {error}")


def _candidates(directory: Path, release: str) -> Iterator[Path]:
    names = ["vmlinux", "vmlinux.debug"]
    # The release is text from the dump: it must not lead out of the directory.
    if release and "/" not in release and "\0" not in release:
        names += [f"vmlinux-{release}", f"vmlinux-{release}.debug"]
    for name in names:
        for suffix in ("", *COMPRESSED_SUFFIXES):
            path = directory / (name + suffix)
            if os.path.isfile(path):  # unlike Path.is_file(), no exception for a name that is too long
                yield path


def _elf_type(path: Path) -> int:
    with path.open("rb") as file:
        header = file.read(18)
    return int.from_bytes(header[16:18], "big" if header[5:6] == b"\2" else "little")


def _hex(build_id: bytes | None) -> str | None:
    return build_id.hex() if build_id else None
