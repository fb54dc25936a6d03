"""QEMU's machine protocol (QMP): commands and their answers over a unix socket."""

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

from .errors import GuestError


def parse_line(line: bytes) -> dict[str, Any]:
    """Return one message of QMP. Raises GuestError if it is not a JSON object."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise GuestError(f"QEMU sent a line that is not JSON: {line[:80]!r}.") from error
    if not isinstance(message, dict):
        raise GuestError(f"QEMU sent a line that is not an object: {line[:80]!r}.")
    return message


def answer_of(message: dict[str, Any], command: str) -> Any:
    """Return what a command returned. Raises GuestError with QEMU's words if it failed."""
    if "error" in message:
        raise GuestError(f"QEMU refused {command}: {message['error'].get('desc', message['error'])}.")
    return message["return"]


class Qmp:
    """A connection to a running QEMU. Every wait has a limit."""

    def __init__(self, path: Path, *, timeout: float = 30.0) -> None:
        self.events: list[dict[str, Any]] = []
        """Events that came between answers, oldest first."""
        self._buffer = b""
        self._socket = connect(path, timeout)
        greeting = self._receive(time.monotonic() + timeout)
        if "QMP" not in greeting:
            raise GuestError("QEMU's machine protocol did not greet as expected.")
        self.execute("qmp_capabilities")

    def execute(self, command: str, *, timeout: float = 30.0, **arguments: Any) -> Any:
        """Run a command and return its answer. Raises GuestError on refusal and on silence.

        An underscore in an argument's name stands for QMP's hyphen.
        """
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        deadline = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            while True:
                answer = self._receive(deadline)
                if "return" in answer or "error" in answer:
                    return answer_of(answer, command)
                self.events.append(answer)
        except TimeoutError as error:
            raise GuestError(f"QEMU did not answer {command} within {timeout:.0f} s.") from error
        except OSError as error:
            raise GuestError(f"QEMU went away during {command}: {error}.") from error

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            part = self._socket.recv(65536)
            if not part:
                raise GuestError("QEMU closed its control connection.")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        return parse_line(line)


def connect(path: Path, timeout: float) -> socket.socket:
    """Return a connection to a unix socket that may not be there yet. Raises GuestError after the limit."""
    deadline = time.monotonic() + timeout
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise GuestError(f"QEMU did not open {path.name} within {timeout:.0f} s.") from error
            time.sleep(0.05)
        else:
            return connection
