"""A program on a terminal: what is typed, and what it shows until it asks again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["PROMPT", "Terminal", "terminal"]

PROMPT = ">>> "
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Terminal:
    """One run of a program with a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor

    def until(self, end: str | None = PROMPT, timeout: float = 300) -> str:
        """Everything shown until it shows ``end``, or ends itself; as plain text."""
        shown = b""
        deadline = time.monotonic() + timeout
        while True:
            text = _ESCAPES.sub("", shown.decode(errors="replace")).replace("\r\n", "\n")
            if end is not None and text.endswith(end):
                return text.removesuffix(end)
            ready, _, _ = select.select([self._descriptor], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError(f"no {end!r} after: {text}")
            try:
                more = os.read(self._descriptor, 1 << 16)
            except OSError:  # nobody has the other end any more
                more = b""
            if not more:
                return text
            shown += more

    def types(self, text: str) -> None:
        """Type something."""
        os.write(self._descriptor, text.encode())

    def says(self, line: str) -> str:
        """Type a line; what it shows for an answer."""
        self.types(f"{line}\n")
        return self.until().partition("\n")[2]

    def ends(self) -> int:
        """Type an end of file; the exit status."""
        self.types("\x04")
        self.until(None)
        return self.process.wait(60)


def _be_at_the_terminal() -> None:
    """Be interrupted from it, also where the tests' own process is not to be interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def terminal(
    command: Sequence[object], home: Path, columns: int = 110, **environment: str
) -> Iterator[Terminal]:
    """A program on a terminal of that width; it is gone afterwards."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    given = {"HOME": str(home), "TERM": "dumb", "NO_COLOR": "1", "PYTHON_BASIC_REPL": "1"} | environment
    without = ("DRGN_DISABLE_PLUGINS", "DRGN_PLUGINS", "COLUMNS", "LINES", "XDG_STATE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in without}
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=home,
        env=kept | given,
        start_new_session=True,
        preexec_fn=_be_at_the_terminal,  # noqa: PLW1509 - it takes no lock
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
