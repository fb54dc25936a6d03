"""What kind of dump a file is, and what is in it, from its own headers."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmdump.errors import OpenError
from mmdump.target import elf, flattened, kdump
from mmdump.target.coverage import PhysicalCoverage
from mmdump.target.source import ByteSource, FileSource

__all__ = ["DumpFile", "inspect_dump"]

FORMATS = "mmdump reads ELF vmcores and kdump-compressed dumps (also flattened ones)."
#: What can be said of the formats that are not read.
FOREIGN = {
    b"EMiL": "a LiME image",
    b"AVML": "an AVML image",
    b"PAGEDUMP": "a Windows crash dump",
    b"PAGEDU64": "a Windows crash dump",
    b"DISKDUMP": "a diskdump",
    b"sadump\0\0": "an sadump",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x1f\x8b": "compressed with gzip",
    b"\xfd7zXZ": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"Libvirt": "a libvirt save file",
    b"QEVM": "a QEMU migration stream",
}
COMPRESSED = "compressed"


@dataclass(frozen=True)
class DumpFile:
    """A dump file, as its headers describe it.

    :param path: As it was given.
    :param size: Bytes in the file.
    :param format: ``"elf"``, ``"kdump"`` (kdump-compressed) or ``"flattened"``.
    :param container: What it is without the flattening: ``"elf"`` or ``"kdump"``.
    :param compression: ``"zlib"``, ``"lzo"``, ``"snappy"``, ``"zstd"``, or ``None`` for none.
    :param filter_level: makedumpfile's dump level (-d), or ``None`` where it is not recorded.
    :param writer: ``"makedumpfile"``, ``"QEMU"``, or ``None`` when that cannot be told.
    :param vmcoreinfo: VMCOREINFO's entries.
    :param truncated: One sentence when the file is shorter than its headers promise, or they lead nowhere.
    :param coverage: Which physical pages are there.
    :param utsname: What the kdump header says of the system; empty for ELF.
    """

    path: Path
    size: int
    format: str
    container: str
    compression: str | None
    filter_level: int | None
    writer: str | None
    vmcoreinfo: dict[str, str] = field(repr=False)
    truncated: str | None
    coverage: PhysicalCoverage = field(repr=False)
    utsname: dict[str, str] = field(default_factory=dict, repr=False)

    def describe(self) -> str:
        """The format in a few words: ``kdump-compressed (lzo), filter level 31``."""
        if self.container == "elf":
            parts = ["ELF core"]
        else:
            parts = [
                f"kdump-compressed ({self.compression})" if self.compression else "kdump, not compressed"
            ]
        if self.format == "flattened":
            parts.append("flattened")
        if self.filter_level is not None:
            parts.append(f"filter level {self.filter_level}")
        if self.truncated:
            parts.append("damaged" if "damaged" in self.truncated else "truncated")
        return ", ".join(parts)


def open_readonly(path: Path) -> int:
    """A descriptor of a regular file or block device.

    :raises OpenError: there is no such file, or it cannot be read
    """
    try:
        # A FIFO without a writer would block for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise OpenError(f"{path}: no such file.", "Check the path.") from error
    except PermissionError as error:
        raise OpenError(f"{path}: no permission to read it.", "Run as a user who may, often root.") from error
    except (OSError, ValueError) as error:
        raise OpenError(f"{path}: cannot be opened ({_reason(error)}).") from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise OpenError(f"{path} is a directory.", "Give the dump file in it.")
    raise OpenError(f"{path} is not a regular file.", FORMATS)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def inspect_dump(path: str | os.PathLike[str]) -> DumpFile:
    """Read a dump's headers. Takes milliseconds, however large the dump is.

    :raises OpenError: not a dump that can be read: the message says what it is instead
    """
    path = Path(path)
    fd = open_readonly(path)
    try:
        # The descriptor is shared with memory maps and read from later, when truncation is located.
        return _inspect(path, _OwningFileSource(fd))
    except OSError as error:
        raise OpenError(f"{path}: cannot be read ({_reason(error)}).") from error
    except (ValueError, OverflowError) as error:
        raise OpenError(f"{path} is damaged: {error}.", "Copy the dump again.") from error


class _OwningFileSource(FileSource):
    """Closes its descriptor when nothing reads from it any more."""

    def __del__(self) -> None:
        os.close(self.fd)


def _inspect(path: Path, source: FileSource) -> DumpFile:
    if source.size == 0:
        raise OpenError(f"{path} is empty.", "Was the dump interrupted, or the disk full?")
    inner: ByteSource = source
    kind = None
    cut_off = False
    if source.pread(0, len(flattened.SIGNATURE)) == flattened.SIGNATURE:
        kind = "flattened"
        inner = flattening = flattened.FlattenedSource(source)
        cut_off = flattening.truncated
    magic = inner.pread(0, 8)
    if magic.startswith(elf.MAGIC):
        core = elf.parse_elf(inner, str(path))
        truncated = core.truncated
        dump = DumpFile(
            path,
            source.size,
            kind or "elf",
            "elf",
            None,
            None,
            core.writer,
            core.vmcoreinfo,
            truncated,
            core.coverage,
        )
    elif magic == kdump.SIGNATURE:
        file = kdump.parse_kdump(inner, str(path))
        truncated = file.truncated
        dump = DumpFile(
            path, source.size, kind or "kdump", "kdump", file.compression, file.filter_level, file.writer,
            file.vmcoreinfo, truncated, file.coverage, file.utsname,
        )  # fmt: skip
    else:
        raise _foreign(path, magic)
    if cut_off and not dump.truncated:
        return replace(dump, truncated="the file is truncated: its flattened format has no end")
    return dump


def _foreign(path: Path, magic: bytes) -> OpenError:
    what = next((text for prefix, text in FOREIGN.items() if magic.startswith(prefix)), None)
    if what is not None and what.startswith(COMPRESSED):
        return OpenError(f"{path} is {what}.", "Decompress the dump first.")
    explanation = f", but {what}" if what else ""
    return OpenError(f"{path} is not an ELF core or kdump file{explanation}.", FORMATS)
