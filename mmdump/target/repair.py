"""Dumps that libkdumpfile cannot read as they are, opened through a repaired temporary copy.

QEMU's dump-guest-memory -z/-l/-s leaves utsname empty but for the machine (and knows the names of few),
and libkdumpfile then fails with "KDUMP_ATTR_ARCH_NAME: Key has no value". In a truncated kdump, reading a
page past the end of the file touches a memory map where there is no file, and the process dies of SIGBUS.
Only a few bytes have to change for both, but the user's file is not ours to change, so a copy without a name
gets them.
"""

from __future__ import annotations

import errno
import os
import tempfile

from mmdump.errors import OpenError
from mmdump.target.dumpfile import DumpFile, open_readonly
from mmdump.target.flattened import FlattenedSource
from mmdump.target.kdump import UTSNAME_FIELDS, UTSNAME_OFFSET, UTSNAME_SIZE, parse_kdump
from mmdump.target.source import FileSource

__all__ = ["needs_repair", "repaired_copy"]

CHUNK = 1 << 22
UNKNOWN = "(unknown)"
#: What QEMU calls a machine that is not x86 (dump/dump.c).
QEMU_UNKNOWN = "Unknown"
#: arch/*/kernel/vmcore_info.c
_BY_VMCOREINFO = {"NUMBER(kimage_voffset)": "aarch64", "NUMBER(phys_base)": "x86_64"}


def needs_repair(dump: DumpFile) -> bool:
    """Whether drgn can only open a repaired copy of this dump."""
    if dump.container == "elf":
        # libkdumpfile does not look for ELF inside the flattened format.
        return dump.format == "flattened"
    return "sysname" not in dump.utsname or dump.truncated is not None


def repaired_copy(dump: DumpFile) -> int:
    """Copy a dump into an unlinked temporary file (in TMPDIR) that drgn can open.

    :return: A descriptor, the caller's to close.
    :raises OpenError: no room, or the dump cannot be read
    """
    source_fd = open_readonly(dump.path)
    try:
        fd, path = tempfile.mkstemp(prefix="mmdump-")
        try:
            os.unlink(path)
            _copy(dump, FileSource(source_fd), fd)
            if dump.container == "kdump":
                _write_utsname(dump, fd)
                _blank_lost_descriptors(dump, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OpenError(
                f"{dump.path} must be copied to be opened, and {tempfile.gettempdir()} has no room for it.",
                "Set TMPDIR to a directory with as much room as the dump is large.",
            ) from error
        raise OpenError(
            f"{dump.path} must be copied to be opened, and that failed ({error.strerror or error})."
        ) from error
    except ValueError as error:
        raise OpenError(f"{dump.path} is damaged: {error}.", "Copy the dump again.") from error
    finally:
        os.close(source_fd)


def _copy(dump: DumpFile, source: FileSource, fd: int) -> None:
    """The dump without its flattening; what was not written stays a hole."""
    if dump.format == "flattened":
        inner = FlattenedSource(source)
        pieces, size, stored = inner.pieces(), inner.size, inner.stored
    else:
        pieces, size, stored = iter([(0, source.size, 0)]), source.size, source.size
    room = os.fstatvfs(fd)
    if stored > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, size)
    for offset, length, position in pieces:
        for start in range(0, length, CHUNK):
            _write(fd, offset + start, source.pread(position + start, min(CHUNK, length - start)))


def _write(fd: int, offset: int, raw: bytes) -> None:
    part = memoryview(raw)
    while part:
        written = os.pwrite(fd, part, offset)
        part = part[written:]
        offset += written


def _blank_lost_descriptors(dump: DumpFile, fd: int) -> None:
    """Make pages whose data is not in the copy unreadable, rather than deadly."""
    if dump.truncated is None:
        return
    descriptors = parse_kdump(FileSource(fd), str(dump.path)).descriptors
    for offset, raw in descriptors.blanked():
        _write(fd, offset, raw)
    if os.fstat(fd).st_size < descriptors.end:
        os.ftruncate(fd, descriptors.end)


def _machine(vmcoreinfo: dict[str, str]) -> str:
    """The architecture as ``uname -m`` names it, by what only its kernels put into VMCOREINFO."""
    for name, machine in _BY_VMCOREINFO.items():
        if name in vmcoreinfo:
            return machine
    return UNKNOWN


def _write_utsname(dump: DumpFile, fd: int) -> None:
    """Fill in the fields that libkdumpfile wants to see; those that are there stay."""
    values = {
        "sysname": "Linux",
        "nodename": UNKNOWN,
        "release": dump.vmcoreinfo.get("OSRELEASE", UNKNOWN),
        "version": UNKNOWN,
        "domainname": UNKNOWN,
    } | dump.utsname
    if values.get("machine", QEMU_UNKNOWN) == QEMU_UNKNOWN:
        values["machine"] = _machine(dump.vmcoreinfo)
    for number, name in enumerate(UTSNAME_FIELDS):
        if name in values:
            raw = values[name].encode("utf-8", "replace")[: UTSNAME_SIZE - 1]
            os.pwrite(fd, raw.ljust(UTSNAME_SIZE, b"\0"), UTSNAME_OFFSET + number * UTSNAME_SIZE)
