"""One file with debug info: what it is, and decompressing it once."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import drgn
import zstandard

from mmdump.errors import OpenError

__all__ = ["COMPRESSED_SUFFIXES", "SymbolFile", "decompressed", "probe"]

COMPRESSED_SUFFIXES = (".zst", ".xz", ".gz")
MAGICS = {b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ\0": ".xz", b"\x1f\x8b": ".gz"}
#: The largest vmlinux with debug info are about 2 GiB.
MAX_SIZE = 8 << 30
#: Debug info gets some 10 times smaller; what gets out of this much less is there to fill a disk.
MAX_RATIO = 100
#: Up to this size the ratio says nothing.
RATIO_FROM = 64 << 20
#: What ``zstd --long`` needs; a larger window only takes our memory.
MAX_WINDOW = 1 << 27
CHUNK = 1 << 20
ZSTD_INPUT = 1 << 13


@dataclass(frozen=True)
class SymbolFile:
    """What a file offers as debug info.

    :param path: The file, decompressed.
    :param build_id: Lower-case hex, or ``None`` when the file has none.
    :param has_debug_info: Whether drgn can take types from it.
    :param is_elf: Whether it is an ELF file at all.
    :param cut_short: That the file ends before its section headers do, in words; None if it does not.
    """

    path: Path
    build_id: str | None
    has_debug_info: bool
    is_elf: bool
    cut_short: str | None = None


def probe(path: Path) -> SymbolFile:
    """What a file offers, asked of drgn with a Program of its own; reads headers only.

    :raises OpenError: the file cannot be read
    """
    try:
        with path.open("rb") as file:
            header = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise OpenError(f"{path}: cannot be read ({error.strerror or error}).") from error
    is_elf, cut = header.startswith(b"\x7fELF"), _cut_short(header, size)
    if cut is not None:
        # Without its section headers it would look like one that was stripped.
        return SymbolFile(path, None, has_debug_info=False, is_elf=True, cut_short=cut)
    module = drgn.Program().extra_module(str(path), create=True)
    try:
        module.try_file(path)
    except Exception as error:  # drgn raises what elfutils says as several types
        raise OpenError(f"{path}: its debug info cannot be read ({error}).") from error
    build_id = module.build_id
    # A file that needs another one (dwz) has debug info, too; attaching it says what is missing.
    has_debug_info = module.debug_file_status != drgn.ModuleFileStatus.WANT
    return SymbolFile(path, build_id.hex() if build_id else None, has_debug_info, is_elf)


def _cut_short(header: bytes, size: int) -> str | None:
    """Whether an ELF file of that size ends before its section headers do, which linkers put last.

    :param header: Its first bytes: ``Elf32_Ehdr`` or ``Elf64_Ehdr``.
    :return: What is missing, in words.
    """
    if not header.startswith(b"\x7fELF") or len(header) < 64:
        return None
    wide, order = header[4] == 2, ">" if header[5] == 2 else "<"
    offset, entry, count = struct.unpack_from(order + ("40xQ10xHH" if wide else "32xL10xHH"), header)
    # Where there are more than the header can count, the first of them says how many.
    end = offset + entry * max(count, 1)
    if not offset or end <= size:
        return None
    return f"its section headers end at {end} bytes, the file at {size}"


def decompressed(path: Path) -> Path:
    """The file itself, or its decompressed copy in the cache when it is compressed.

    :raises OpenError: it cannot be read or decompressed
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
        status = path.stat()
    except OSError as error:
        raise OpenError(f"{path}: cannot be read ({error.strerror or error}).") from error
    suffix = next((suffix for magic, suffix in MAGICS.items() if start.startswith(magic)), None)
    if suffix is None:
        return path
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    stem = path.name.removesuffix(suffix)
    name = f"{stem}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}"
    directory = _cache_directory()
    if directory is not None:
        cached = directory / name
        if cached.is_file():
            return cached
        try:
            return _decompress(path, suffix, directory, cached)
        except OSError:
            pass  # no room or no right to write: a temporary file may do
    return _decompress_temporarily(path, suffix, name)


def _cache_directory() -> Path | None:
    """Where decompressed files are kept, or ``None`` where that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    try:
        # The XDG specification: a path that is not absolute is ignored.
        directory = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "mmdump"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return directory if os.access(directory, os.W_OK) else None


def _decompress(path: Path, suffix: str, directory: Path, target: Path) -> Path:
    """Decompress beside the target, then rename: a reader sees the whole file or none."""
    fd, temporary = tempfile.mkstemp(prefix=".partial-", dir=directory)
    try:
        with os.fdopen(fd, "wb") as output:
            _copy(path, suffix, output)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return target


def _decompress_temporarily(path: Path, suffix: str, name: str) -> Path:
    """Decompress into a directory that is removed when the process ends."""
    import atexit

    try:
        directory = Path(tempfile.mkdtemp(prefix="mmdump-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        return _decompress(path, suffix, directory, directory / name)
    except OSError as error:
        raise OpenError(
            f"{path}: cannot be decompressed ({error.strerror or error}).",
            "Make room, set TMPDIR or XDG_CACHE_HOME, or give the file decompressed.",
        ) from error


def _copy(path: Path, suffix: str, output: IO[bytes]) -> None:
    written = 0
    try:
        with path.open("rb") as file:
            limit = min(MAX_SIZE, max(RATIO_FROM, MAX_RATIO * os.fstat(file.fileno()).st_size))
            for chunk in _DECOMPRESSORS[suffix](file):
                written += len(chunk)
                if written > limit:
                    raise OpenError(
                        f"{path}: decompresses to more than {limit >> 20} MiB, which no debug info does."
                    )
                output.write(chunk)
    except (zstandard.ZstdError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise OpenError(
            f"{path}: the compressed data is damaged or cut off.", "Copy the file again."
        ) from error


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    """Frame by frame, since zstandard's stream reader takes a frame that is cut off for a whole one."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    frame = None
    # One byte may stand for 32 KiB: with little input at a time the output stays small as well.
    while raw := file.read(ZSTD_INPUT):
        while raw:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(raw)
            raw = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame is cut off")


def _xz(file: IO[bytes]) -> Iterator[bytes]:
    with lzma.open(file) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.open(file) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {".zst": _zstd, ".xz": _xz, ".gz": _gzip}
