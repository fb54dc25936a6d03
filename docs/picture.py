"""Draw what a command shows on a terminal: ``python docs/picture.py FILE.svg mmdump pinned vmcore``.

The command runs on a terminal of its own, in the current directory.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

__all__ = ["draw"]

#: A picture fetches no fonts: it takes what the reader's machine has.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S).replace("Fira Code, ", "")


def draw(command: list[str], columns: int = 110) -> str:
    """The picture of a command and of its output, as SVG."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    # Neither is of the terminal that this one pretends to be.
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    process = subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL, env=environment)  # noqa: S603
    os.close(slave)
    shown = b""
    while True:
        try:
            more = os.read(master, 1 << 16)
        except OSError:  # the terminal is gone with the last of its programs
            break
        if not more:
            break
        shown += more
    if process.wait():
        raise SystemExit(f"{shlex.join(command)} failed")
    console = Console(record=True, width=columns, file=io.StringIO(), highlight=False)
    console.print(Text(f"$ {shlex.join(command)}", "bold"))
    console.print(Text.from_ansi(shown.decode().replace("\r\n", "\n")))
    return console.export_svg(title="", theme=MONOKAI, code_format=FORMAT, unique_id="mmdump")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: picture.py FILE COMMAND...")
    with open(sys.argv[1], "w") as out:
        out.write(draw(sys.argv[2:]))
