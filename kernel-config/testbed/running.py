"""The steps of a build: commands whose failure says which step it was, and ends with its last words."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import BuildError

__all__ = ["run_logged", "run_step"]


def run_step(
    command: Sequence[str | Path], step: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a command and return what it printed; its failure is a BuildError with its last lines."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{step}: {command[0]}: {error.strerror}") from error
    if done.returncode:
        raise BuildError(f"{step} failed (exit status {done.returncode}):\n{_tail(done.stdout)}")
    return done.stdout


def run_logged(command: Sequence[str | Path], step: str, logfile: Path, env: Mapping[str, str]) -> None:
    """Run a command with its output appended to a file, which its failure names and quotes."""
    with logfile.open("a") as out:
        out.write(f"\n== {step}: {' '.join(str(word) for word in command)}\n")
        out.flush()
        status = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, "LC_ALL": "C", **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status:
        raise BuildError(
            f"{step} failed (exit status {status}), see {logfile}:\n"
            + _tail(logfile.read_text(errors="replace"))
        )


def _tail(text: str, lines: int = 25) -> str:
    # The first error often stands far above the last line when make runs jobs in parallel.
    every = text.rstrip().splitlines()
    errors = [line for line in every[:-lines] if re.search(r"\berror:|\*\*\*|undefined reference", line)]
    return "\n".join(f"    {line}" for line in [*errors[:10], *every[-lines:]])
