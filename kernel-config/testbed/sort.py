"""The kernel's own page_owner_sort, on the text that mmdump makes of a dump and on the kernel's text."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .conformance import Comparison, page_owner_records

__all__ = ["ORDERS", "SORT", "compare_sorted", "sorted_text", "stable_texts", "tool_of"]

#: How a row of it is called.
SORT = "page_owner_sort"
_FILE = "/sys/kernel/debug/page_owner"
#: What it is asked for: by times, memory, PID, name, time, stack; and its own ways to cull and to sort.
ORDERS: tuple[tuple[str, ...], ...] = (
    (),
    ("-m",),
    ("-p",),
    ("-n",),
    ("-a",),
    ("-s",),
    ("--cull=stacktrace",),
    ("--cull=pid,tgid,name",),
    ("--cull=allocator",),
    ("--sort=n,-pid",),
)


def tool_of(run: Path) -> Path | None:
    """The tool that was built with the kernel of a run, in the same cache; None where there is none."""
    name = json.loads((run / "run.json").read_text())["kernel"]
    tool = run.resolve().parent.parent / "kernels" / name / "tools" / "page_owner_sort"
    return tool if tool.is_file() else None


def stable_texts(dump: bytes, *readings: bytes) -> tuple[bytes, bytes]:
    """The kernel's text and the dump's, of the records that stood still, in the order of each text."""
    ours, theirs = page_owner_records(dump), [page_owner_records(each) for each in readings]
    still = {pfn for pfn, text in theirs[0].items() if all(each.get(pfn) == text for each in theirs[1:])}
    return tuple(  # type: ignore[return-value]
        b"".join(bytes(text) + b"\n\n" for pfn, text in records.items() if pfn in still)  # type: ignore[call-overload]
        for records in (theirs[0], ours)
    )


def sorted_text(tool: Path, text: bytes, *options: str) -> bytes:
    """What the tool makes of a text.

    :raises RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory() as directory:
        given, out = Path(directory) / "in", Path(directory) / "out"
        given.write_bytes(text)
        done = subprocess.run([tool, *options, given, out], capture_output=True, check=False, timeout=300)
        if done.returncode or not out.is_file():
            raise RuntimeError(f"{tool.name} {' '.join(options)}: {done.stderr.decode(errors='replace')}")
        return out.read_bytes()


def compare_sorted(run: Path, dump: Path, readings: list[bytes]) -> Comparison:
    """How many of the orders give the same output on both texts; records that moved are left out of both."""
    tool = tool_of(run)
    if tool is None or not readings:
        return Comparison(SORT, absent="not built" if tool is None else "this kernel has no page_owner")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        done = subprocess.run(
            [sys.executable, "-m", "mmdump", "cat", dump, _FILE, "-s", run / "vmlinux", "-o", out],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return Comparison(SORT, absent=done.stderr.strip() or f"mmdump gave {done.returncode}")
        theirs, ours = stable_texts(out.read_bytes(), *readings)
    found = Comparison(SORT)
    for options in ORDERS:
        found.stable += 1
        wanted, got = (sorted_text(tool, text, *options) for text in (theirs, ours))
        if wanted and wanted == got:
            found.equal += 1
        else:
            found.differences.append((options, wanted, got))
    return found
