"""Dumps of a stopped guest: QEMU's formats, made readable for every tool, and makedumpfile's filters."""

import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import GuestError
from .qmp import Qmp

ALL_FORMATS = ("elf", "kdump-zlib", "kdump-lzo", "kdump-snappy")
"""What QEMU can write, where it was built with the libraries."""

DUMP_SECONDS = 600
_SIGNATURE = b"makedumpfile"
_FLAT_HEADER = 4096
_FLAT_END = -1
_BIGGEST_PART = 1 << 30

# struct Elf64_Ehdr, little-endian
_EHDR_SIZE, _E_PHOFF, _E_EHSIZE, _E_PHENTSIZE, _E_SHENTSIZE = 64, 32, 52, 54, 58
_PN_XNUM = 0xFFFF

FILTERS = {"lzo-d31": ("-l", "-d", "31"), "zlib-d1": ("-c", "-d", "1")}
"""Dumps that makedumpfile makes of an ELF dump on this machine: name and options."""


def available_formats(qmp: Qmp) -> list[str]:
    """Return the formats that this QEMU and machine can write."""
    answer = qmp.execute("query-dump-guest-memory-capability")
    return [str(name) for name in answer["formats"]]


def dump(qmp: Qmp, path: Path, format_name: str) -> float:
    """Write the memory of a stopped guest, and return the seconds it took.

    QEMU writes its kdump formats flattened: they are put in order here, since few readers know that.
    """
    started = time.monotonic()
    is_elf = format_name == "elf"
    written = path if is_elf else path.with_suffix(path.suffix + ".flat")
    qmp.execute(
        "dump-guest-memory",
        timeout=DUMP_SECONDS,
        paging=False,
        protocol=f"file:{written}",
        format=format_name,
    )
    if is_elf:
        tidy_elf(written)
    else:
        unflatten(written, path)
        written.unlink()
    path.chmod(0o644)
    return time.monotonic() - started


def tidy_elf(path: Path) -> None:
    """Move the program headers of QEMU's ELF dump to right behind the ELF header.

    QEMU puts a section table between the two since 7.1, and the ELF header's own size wrong. Readers
    that follow e_phoff do not mind; makedumpfile expects the usual place. The section table, which
    says nothing, makes room. A dump with so many segments that it says how many is left as it is.
    """
    with path.open("r+b") as file:
        header = bytearray(file.read(_EHDR_SIZE))
        if len(header) != _EHDR_SIZE or header[:5] != b"\x7fELF\x02":
            raise GuestError(f"{path.name} is no 64-bit ELF file.")
        (offset,) = struct.unpack_from("<Q", header, _E_PHOFF)
        size, count = struct.unpack_from("<HH", header, _E_PHENTSIZE)
        if offset == _EHDR_SIZE or count == _PN_XNUM:
            return
        file.seek(offset)
        segments = file.read(size * count)
        struct.pack_into("<QQ", header, _E_PHOFF, _EHDR_SIZE, 0)
        struct.pack_into("<H", header, _E_EHSIZE, _EHDR_SIZE)
        struct.pack_into("<HHH", header, _E_SHENTSIZE, 0, 0, 0)
        file.seek(0)
        file.write(header + segments + bytes(offset - _EHDR_SIZE))


def unflatten(source: Path, target: Path) -> None:
    """Turn makedumpfile's flattened format into a file (makedumpfile -R). Raises GuestError if damaged."""
    with source.open("rb") as flat:
        header = flat.read(_FLAT_HEADER)
        if header[:12] != _SIGNATURE:
            # QEMU 9 and newer can be asked for the plain format, and other tools may write it.
            shutil.copyfile(source, target)
            return
        with target.open("wb") as out:
            while True:
                words = flat.read(16)
                if len(words) != 16:
                    raise GuestError(f"{source.name} ends in the middle of a flattened dump.")
                offset, size = struct.unpack(">qq", words)
                if offset == _FLAT_END:
                    return
                if offset < 0 or not 0 <= size <= _BIGGEST_PART:
                    raise GuestError(f"{source.name} is damaged: {size} bytes at offset {offset}.")
                _copy(flat, out, offset, size, source.name)


def _copy(flat: BinaryIO, out: BinaryIO, offset: int, size: int, name: str) -> None:
    data = flat.read(size)
    if len(data) != size:
        raise GuestError(f"{name} ends in the middle of a flattened dump.")
    out.seek(offset)
    out.write(data)


def make_filtered(elf: Path, target: Path, options: tuple[str, ...], log: Callable[[str], None]) -> bool:
    """Filter an ELF dump with this machine's makedumpfile; whether that worked.

    It does where the dump is of this machine's architecture and of a kernel that makedumpfile knows.
    """
    program = shutil.which("makedumpfile")
    if not program:
        log(f"no {target.name}: makedumpfile is not installed")
        return False
    words = [program, "--message-level", "6", *options, str(elf), str(target)]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=DUMP_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log(f"no {target.name}: {error}")
        return False
    if done.returncode:
        target.unlink(missing_ok=True)
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        log(f"no {target.name}: makedumpfile said: {' / '.join(last)}")
        return False
    target.chmod(0o644)
    return True


def notes_of(makedumpfile_log: str) -> str:
    """Return what makedumpfile did not do although it succeeded: an option that Debian built it without."""
    disabled = [line.strip() for line in makedumpfile_log.splitlines() if "option is disabled" in line]
    return " ".join(disabled)


def compress(path: Path) -> Path:
    """Compress a dump with zstd, remove the original, and return the new path."""
    target = path.with_name(path.name + ".zst")
    words = ["zstd", "-q", "-f", "-T0", "--rm", str(path), "-o", str(target)]
    try:
        subprocess.run(words, check=True, timeout=DUMP_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise GuestError(f"{path.name} could not be compressed with zstd: {error}.") from error
    return target
