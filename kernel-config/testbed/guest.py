"""A guest: QEMU started, its console read, its control connected, and gone at the end whatever happens."""

import contextlib
import ctypes
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from . import qemu
from .errors import GuestError
from .qmp import Qmp, connect

_PR_SET_PDEATHSIG = 1
_PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")


def _die_with_parent() -> None:
    # Runs in the child: QEMU ends with the test bed, even if that is killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Console:
    """The serial console: everything the guest said, and a way to wait for what it says."""

    def __init__(self, connection: socket.socket, echo: Callable[[bytes], None] | None = None) -> None:
        self.text = b""
        self.closed = False
        self._connection = connection
        self._echo = echo
        self._news = threading.Condition()
        self._seen = 0
        connection.settimeout(None)
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        part = b"start"
        while part:
            try:
                part = self._connection.recv(65536)
            except OSError:
                part = b""
            if part and self._echo:
                self._echo(part)
            with self._news:
                self.text += part
                self.closed = not part
                self._news.notify_all()

    def send(self, line: str) -> None:
        """Type a line."""
        self._connection.sendall(line.encode() + b"\n")

    def wait_for(self, pattern: str, timeout: float, *, panic_is_error: bool = True) -> re.Match[bytes]:
        """Return the next match of a pattern that no earlier wait has passed.

        Raises GuestError if it does not come in time, if QEMU ends, or if the kernel panics.
        """
        wanted = re.compile(pattern.encode())
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                match = wanted.search(self.text, self._seen)
                if match:
                    self._seen = match.end()
                    return match
                panic = _PANIC.search(self.text, self._seen) if panic_is_error else None
                if panic:
                    raise GuestError(f"the guest's kernel panicked: {panic[1].decode(errors='replace')}.")
                if self.closed:
                    raise GuestError(f"the guest ended before it said {pattern!r}; last: {self.last_line()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise GuestError(
                        f"the guest did not say {pattern!r} within {timeout:.0f} s; last: {self.last_line()}"
                    )
                self._news.wait(left)

    def wait_until_closed(self, timeout: float) -> bool:
        """Whether QEMU closed the console within the limit."""
        with self._news:
            return self._news.wait_for(lambda: self.closed, timeout)

    def last_line(self) -> str:
        """Return the last line that is not empty."""
        lines = self.text.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()


class Guest:
    """A running guest, as a context manager: on leaving, QEMU is gone."""

    def __init__(
        self, spec: qemu.GuestSpec, console_log: Path, *, echo: Callable[[bytes], None] | None = None
    ) -> None:
        qemu.find_qemu(spec.kernel)
        self.spec = spec
        self._echo = echo
        self._console_log = console_log
        # Unix sockets have short names: not in the output directory.
        self._directory = Path(tempfile.mkdtemp(prefix="mmdump-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._qmp: Qmp | None = None

    @property
    def console(self) -> Console:
        """The serial console."""
        assert self._console is not None
        return self._console

    @property
    def qmp(self) -> Qmp:
        """QEMU's control."""
        assert self._qmp is not None
        return self._qmp

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        console, control = self._directory / "console", self._directory / "qmp"
        words = qemu.command_line(self.spec, console, self._console_log, control)
        with (self._directory / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # no thread runs yet that could hold a lock
            )
        try:
            self._console = Console(connect(console, 20), self._echo)
            self._qmp = Qmp(control)
        except GuestError as error:
            raise GuestError(f"QEMU did not start: {self._stderr() or error}") from error

    def _stderr(self) -> str:
        with contextlib.suppress(OSError):
            return (self._directory / "stderr").read_text(errors="replace").strip()[-500:]
        return ""

    def wait_for(self, what: str, timeout: float) -> dict[str, str]:
        """Wait for the guest's line "@@ WHAT key=value ..." and return its values.

        Raises GuestError, also when the guest says "@@ failed ..." first.
        """
        match = self.console.wait_for(rf"@@ ({re.escape(what)}|failed)\b([^\r\n]*)\r?\n", timeout)
        if match[1] == b"failed":
            raise GuestError(f"the guest failed:{match[2].decode(errors='replace')}.")
        return parse_values(match[2].decode(errors="replace"))

    def maps(self) -> str:
        """Return the mappings of QEMU's memory."""
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/maps").read_text()

    def wait_until_gone(self, timeout: float) -> None:
        """Wait until the guest has powered itself off. Raises GuestError after the limit."""
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise GuestError(f"the guest did not power off within {timeout:.0f} s.") from error

    def _stop(self) -> None:
        if self._process and self._process.poll() is None:
            with contextlib.suppress(GuestError, AttributeError):
                self.qmp.execute("quit", timeout=5) if self._qmp else None
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
        if self._qmp:
            self._qmp.close()
        if self._console:
            self._console.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def parse_values(text: str) -> dict[str, str]:
    """Return the key=value words of a line."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)
