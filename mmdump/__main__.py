"""``python -m mmdump``, and the program ``mmdump``: an interrupt is one line also while it is imported."""

from __future__ import annotations

import os
import signal

__all__ = ["entry"]

_INTERRUPTED = 128 + signal.SIGINT


def _interrupted(number: int, frame: object) -> None:  # noqa: ARG001
    # Not by an exception: what is being imported may make another of it, or swallow it.
    os.write(2, b"mmdump: interrupted\n")
    os._exit(_INTERRUPTED)


def entry() -> None:
    """Import the command line, and run it."""
    # Where it is ignored it stays so.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _interrupted)
    from mmdump.cli import entry as run

    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        _interrupted(signal.SIGINT, None)


if __name__ == "__main__":
    entry()
