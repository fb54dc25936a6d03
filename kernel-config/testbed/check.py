"""`testbed check`: hold what mmdump reads from the dumps of a run against the kernel's own view."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import cache
from .conformance import Comparison, conformance, table
from .errors import GuestError
from .held import expected, failures_in_trace, judge, pinned_rows
from .scenario import EXTRA_SITUATIONS
from .sort import compare_sorted
from .told import compare_told
from .truth import parse_truth

__all__ = ["add_arguments", "check_run", "dumps_of", "main", "moves", "reading"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `testbed check` understands."""
    parser.add_argument(
        "run", nargs="+", help="a run's directory (of a live run too), or the name of one in the cache"
    )


def directory_of(name: str) -> Path:
    """The directory of a run.

    :raises GuestError: There is none.
    """
    for found in (Path(name), cache.cache_root() / "runs" / name):
        if (found / "run.json").is_file() or (found / "stdout").is_file():
            return found.resolve()
    raise GuestError(f"{name} is no run: `testbed run {name}` makes one.")


def dumps_of(run: Path) -> list[Path]:
    """The dumps of a run, as its record lists them."""
    record = json.loads((run / "run.json").read_text())
    return [run / name for name in record["dumps"] if (run / name).is_file()]


def reading(run: Path, file: str) -> list[bytes]:
    """The readings of a kernel file, before the dump and after it."""
    paths = [run / "truth" / when / file.lstrip("/") for when in ("before", "after")]
    return [path.read_bytes() for path in paths if path.is_file()]


def moves(run: Path) -> str | None:
    """Why nothing is known to have stood still around the dumps of a run; None where it did."""
    record = json.loads((run / "run.json").read_text())
    if any("capture" in dumped["by"] for dumped in record["dumps"].values()):
        return "a crashing kernel cannot be read again after its dump: nothing is known to stand still"
    lines = parse_truth((run / "truth" / "truth.txt").read_text())
    if any(line.kind in EXTRA_SITUATIONS for line in lines):
        return "something went on while the truth was read: pages may have left a free list and come back"
    return None


def check_run(run: Path) -> tuple[dict[str, list[Comparison]], dict[str, list[str]]]:
    """Compare all dumps of a run: kernel files by dump, and what is wrong with `mmdump pinned` by dump."""
    files: dict[str, list[Comparison]] = {}
    wrong: dict[str, list[str]] = {}
    want = expected(parse_truth((run / "truth" / "truth.txt").read_text()))
    traces = reading(run, "/sys/kernel/tracing/trace")
    failures = failures_in_trace(traces[0].decode(errors="replace")) if traces else set()
    for dump in dumps_of(run):
        files[dump.name] = []
        if moves(run) is None:
            files[dump.name] += conformance(dump, run / "vmlinux", lambda file: reading(run, file))
            files[dump.name].append(compare_sorted(run, dump, reading(run, "/sys/kernel/debug/page_owner")))
            files[dump.name].append(compare_told(run, dump, reading(run, "/proc/kpageflags")))
        try:
            rows = pinned_rows(dump, run / "vmlinux")
        except RuntimeError as error:
            wrong[dump.name] = [str(error)]
        else:
            wrong[dump.name] = judge(rows, want, failures).wrong
    return files, wrong


def check_live(run: Path) -> list[str]:
    """What is wrong with the answer that `mmdump pinned --live -f json` gave in a guest."""
    try:
        rows = json.loads((run / "stdout").read_text())["tables"]["pages"]["rows"]
    except (ValueError, KeyError):
        return ["its output is not what mmdump pinned -f json prints", (run / "stderr").read_text()[-500:]]
    trace = run / "trace.txt"
    failures = failures_in_trace(trace.read_text(errors="replace")) if trace.is_file() else set()
    return judge(rows, expected(parse_truth((run / "truth.txt").read_text())), failures).wrong


def main(args: argparse.Namespace) -> int:
    """Print the conformance table of each run; 0 if all of it is perfect."""
    status = 0
    for name in args.run:
        run = directory_of(name)
        if not (run / "run.json").is_file():
            wrong_live = check_live(run)
            said = "; ".join(wrong_live[:5]) or "as the workload says"
            sys.stdout.write(f"{run.name}\n  {'mmdump pinned --live':34} {said}\n")
            status |= bool(wrong_live)
            continue
        record = json.loads((run / "run.json").read_text())
        sys.stdout.write(f"{record['kernel']}: Linux {record['release']}, {record['arch']}\n")
        files, wrong = check_run(run)
        for dump, comparisons in files.items():
            sys.stdout.write((table(dump, comparisons) if comparisons else f"{dump}: {moves(run)}") + "\n")
            said = "; ".join(wrong[dump][:5]) or "as the workload says"
            sys.stdout.write(f"  {'mmdump pinned':34} {said}\n")
            if wrong[dump] or not all(each.perfect for each in comparisons if each.absent is None):
                status = 1
    return status
