"""What was meant where a dump, or the folder of one, stands in the place of a command."""

from __future__ import annotations

import os
import shlex

__all__ = ["command_for"]


def command_for(word: str) -> str | None:
    """What to say of such a word, one or two sentences; None where it is no path."""
    if os.path.isdir(word):
        dump = _dump_in(word)
        if dump is None:
            return "It is a directory: mmdump COMMAND VMCORE takes a command and the file of a dump."
        return f"It is a directory: {_commands(dump)}"
    if os.path.exists(word):
        return f"It is a file: {_commands(word)}"
    if os.sep in word:
        return f"There is no file of that name either: mmdump COMMAND {shlex.quote(word)} would take one."
    return None


def _commands(dump: str) -> str:
    path = shlex.quote(dump)
    return f"'mmdump info {path}' says what is in a dump, 'mmdump report {path} -o report.html' all about it."


def _dump_in(directory: str) -> str | None:
    """A file in a directory that is named like a dump, as kdump names it in /var/crash."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return None
    for name in names:
        path = os.path.join(directory, name)
        named = name.startswith(("vmcore", "dump.")) and not name.endswith((".txt", ".log", ".json", ".html"))
        if named and os.path.isfile(path):
            return path
    return None
