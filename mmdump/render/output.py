"""Where output goes: standard output, or a file that appears only once it is whole."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from mmdump.errors import OutputError, UsageError, is_full
from mmdump.render.escape import escape

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["open_output", "visible"]


@contextmanager
def open_output(path: str | os.PathLike[str] | None, force: bool = False) -> Iterator[BinaryIO]:
    """Open the output for a ``with`` block.

    A file is written beside its name and renamed when the block ends without an error, so that a reader
    never sees half of it; else nothing remains. What exists and is no regular file (``/dev/null``, a pipe,
    a terminal) is written directly. None and ``-`` are standard output, which stays open; when its reader
    is gone :class:`BrokenPipeError` passes to the caller. Where standard output was replaced by something
    that takes text alone, bytes are decoded.

    :param force: Replace an existing file, keeping its mode.
    :raises UsageError: The file exists and may not be replaced, or cannot be made.
    :raises OutputError: There is no room for what is written.
    """
    with _room(path), _opened(path, force) as out:
        yield out


@contextmanager
def _room(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """No room for the output, in words."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        shown = "standard output" if path is None or os.fspath(path) == "-" else os.fspath(path)
        # A format may need room elsewhere, and says where.
        raise OutputError(f"{error.filename or shown}: {error.strerror}.") from error


@contextmanager
def _opened(path: str | os.PathLike[str] | None, force: bool) -> Iterator[BinaryIO]:
    if path is None or os.fspath(path) == "-":
        # What was printed before comes first.
        sys.stdout.flush()
        out = getattr(sys.stdout, "buffer", None) or _AsText(sys.stdout)
        yield cast("BinaryIO", out)
        out.flush()
        return
    shown = os.fspath(path)
    if not shown:
        raise UsageError("The output file has no name.", "Name a file, or - for standard output.")
    try:
        mode = _mode(shown)
        if mode is not None and stat.S_ISDIR(mode):
            raise UsageError(f"{shown} is a directory.", "Name a file in it.")
        if mode is not None and stat.S_ISREG(mode) and not force:
            raise _exists(shown)
        direct = mode is not None and not stat.S_ISREG(mode)
        # Through a symbolic link, what it points to is replaced and not the link.
        final = shown if direct else os.path.realpath(shown)
        temporary = None if direct else _beside(final, mode)
        file = open(temporary or final, "wb")  # noqa: SIM115 - closed below, before the rename
    except OSError as error:
        raise UsageError(f"{shown}: cannot write: {error.strerror or error}.") from error
    if temporary is None:
        with file:
            yield file
        return
    try:
        with file:
            yield file
        _publish(temporary, final, shown, force)
    finally:
        # Gone already if all went well.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def visible(out: BinaryIO) -> BinaryIO:
    r"""The output for bytes that may hold text from a dump as it is, such as a kernel file's.

    A terminal gets it with all but newlines and tabs escaped that is not plainly visible (see
    :func:`~mmdump.render.escape.escape`) and bytes that are no UTF-8 as ``\xNN``; anything else gets the
    very bytes.
    """
    return cast("BinaryIO", _Visible(out)) if out.isatty() else out


class _Visible(io.BufferedIOBase):
    """Bytes as text that does nothing to a terminal."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        raw = bytes(data)
        pieces = re.split(r"([\n\t])", self._decoder.decode(raw))
        pieces[::2] = map(escape, pieces[::2])
        self._out.write("".join(pieces).encode())
        return len(raw)


class _AsText(io.BufferedIOBase):
    """Bytes, UTF-8 as all formats of text are, to a stream that takes text."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        text = bytes(data)
        self._out.write(self._decoder.decode(text))
        return len(text)


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _beside(final: str, mode: int | None) -> str:
    """An empty file in the same folder, with the mode of the file it replaces or that of any new file."""
    folder, name = os.path.split(final)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name[:64]}.", suffix=".part", dir=folder)
    with os.fdopen(descriptor, "wb"):
        if mode is None:
            mask = os.umask(0)
            os.umask(mask)
            mode = 0o666 & ~mask
        os.chmod(temporary, stat.S_IMODE(mode))
    return temporary


def _publish(temporary: str, final: str, shown: str, force: bool) -> None:
    if not force:
        # An analysis takes minutes: a link fails if the name was taken meanwhile, a rename would not.
        try:
            os.link(temporary, final)
        except FileExistsError:
            raise _exists(shown) from None
        except OSError:
            # No hard links on this filesystem.
            if _mode(final) is not None:
                raise _exists(shown) from None
        else:
            return
    os.replace(temporary, final)


def _exists(shown: str) -> UsageError:
    return UsageError(f"{shown} exists.", "Give another name, or --force to replace it.")
