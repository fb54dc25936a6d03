"""What can go wrong, in words for a person: one sentence, a hint, and the exit status it means."""

from __future__ import annotations

import errno
from enum import IntEnum

__all__ = [
    "ExitStatus",
    "IncompleteError",
    "MmdumpError",
    "OpenError",
    "OutputError",
    "UnsupportedError",
    "UsageError",
    "is_full",
]


class ExitStatus(IntEnum):
    """Exit statuses of the command line. Findings are a success."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    #: The dump or its debug info cannot be opened.
    OPEN = 3
    #: This kernel does not have what was asked for.
    UNSUPPORTED = 4
    #: Data that the analysis needed could not be read, or a plugin failed.
    INCOMPLETE = 5
    #: The output cannot be written: the disk is full.
    OUTPUT = 6


class MmdumpError(Exception):
    """An error that is explained to the user: what happened, to what, and what to do next.

    :param message: One or two sentences, without a trailing newline.
    :param hint: What the user can do about it, if anything.
    """

    status = ExitStatus.INTERNAL

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MmdumpError):
    """What was asked for makes no sense: a bad option, expression or file name."""

    status = ExitStatus.USAGE


class OpenError(MmdumpError):
    """The dump or its debug info cannot be opened."""

    status = ExitStatus.OPEN


class UnsupportedError(MmdumpError):
    """This kernel does not have what was asked for."""

    status = ExitStatus.UNSUPPORTED


class IncompleteError(MmdumpError):
    """What had to be read for any answer at all is not in the dump, or is broken."""

    status = ExitStatus.INCOMPLETE


class OutputError(MmdumpError):
    """The output cannot be written, since there is no room for it."""

    status = ExitStatus.OUTPUT


def is_full(error: BaseException) -> bool:
    """Whether it says that there is no room for what was to be written: on the disk, or in a file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
