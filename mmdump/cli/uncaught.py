"""What a script shows of a failed ``%mmdump`` command that it does not catch: the error's own sentences."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

import drgn
from drgn.commands import CommandArgumentError, CommandError

import mmdump

__all__ = ["ArgumentError", "FailedError", "explain_uncaught", "told"]

#: Frames of these are none of the script.
_MACHINERY = tuple(os.path.dirname(os.path.abspath(each.__file__ or "")) + os.sep for each in (drgn, mmdump))


class FailedError(CommandError):
    """A command of mmdump's failed; its text is all there is to say, and its cause mmdump's own error."""


class ArgumentError(FailedError, CommandArgumentError):
    """The same, of words that make no sense."""


def told(error: FailedError) -> str:
    """The error's sentences, and which line of the script the command is in."""
    text = str(error)
    if not text.startswith("mmdump: "):
        text = f"mmdump: {text}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not os.path.abspath(frame.filename).startswith(_MACHINERY):
            return f'{text}\n  File "{frame.filename}", line {frame.lineno}'
    return text


def explain_uncaught() -> None:
    """From now on, show so what no script catches; unless somebody else has a say in that."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, FailedError):
        print(told(error), file=sys.stderr)  # noqa: T201
    else:
        sys.__excepthook__(kind, error, trace)
