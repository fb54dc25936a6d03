"""`testbed matrix`: every kernel of the catalogue, from source to the conformance table that docs show."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from . import boot, build, check, scenario
from .conformance import FILES, Comparison
from .errors import BuildError, GuestError
from .kernels import KERNELS
from .sort import SORT

__all__ = ["add_arguments", "main"]

_HEAD = """\
# Conformance

What mmdump reads from a dump, held against the kernel's own files, read before the dump and after it with
the guest standing still between. A cell says how many of the records that did not change between the two
readings are just so in the dump. `page_owner_sort` is the kernel's tool, run in several ways on the dump's
text and on the kernel's. `pinned` is held against what the workload and the page pinner's events say.

`-profiling` is a run with allocation tags (`sysctl.vm.mem_profiling=1`).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `testbed matrix` understands."""
    parser.add_argument("kernel", nargs="*", help="names of the catalogue (default: all)")
    parser.add_argument(
        "--no-run",
        action="store_true",
        help="take the newest run that there is of each kernel; then names of other runs may be given, too",
    )
    parser.add_argument("-o", "--output", type=Path, help="write the table to this file, as markdown")


def main(args: argparse.Namespace) -> int:
    """Build, run and check each kernel; 0 if all that could be compared is equal."""
    rows = []
    status = 0
    for name in args.kernel or KERNELS:
        if name not in KERNELS and not args.no_run:
            raise GuestError(f"{name} is no kernel of the catalogue; there are {', '.join(KERNELS)}.")
        try:
            run = _run(name, fresh=not args.no_run)
        except (BuildError, GuestError) as error:
            rows.append(f"| {name} | | | {error} |" + " |" * (len(FILES) + 1))
            status = 1
            continue
        files, wrong = check.check_run(run)
        record = json.loads((run / "run.json").read_text())
        for dump, comparisons in files.items():
            # A run in which something moves has none.
            cells = [_cell(each) for each in comparisons] or [""] * (len(FILES) + 1)
            said = "; ".join(wrong[dump][:3]) or "as the workload says"
            form = record["dumps"][dump]["format"]
            rows.append(f"| {name} | {record['release']} | {form} | " + " | ".join([*cells, said]) + " |")
            perfect = all(each.perfect for each in comparisons if each.absent is None)
            status |= bool(wrong[dump]) or not perfect
        sys.stdout.write("\n".join(rows[-len(files) :]) + "\n")
    text = _table(rows)
    if args.output:
        args.output.write_text(text)
    else:
        sys.stdout.write(text)
    return int(status)


def _run(name: str, *, fresh: bool) -> Path:
    if not fresh:
        return check.directory_of(name)
    build.build(KERNELS[name], log=scenario.say)
    kernel = boot.built_kernel(name)
    directory, _ = scenario.run(kernel, scenario.RunOptions(memory=scenario.default_memory(kernel)))
    scenario.remove_runs(kernel.name, 2)
    return directory


def _cell(comparison: Comparison) -> str:
    if comparison.absent is not None:
        return "absent"
    share = 100 * comparison.equal / comparison.stable if comparison.stable else 0.0
    return f"{comparison.equal:,} of {comparison.stable:,} ({share:.3f} %)"


def _table(rows: list[str]) -> str:
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    head = ["kernel", "release", "dump", *(f"`{file}`" for file in (*FILES, SORT)), "`mmdump pinned`"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows]
    made = f"\nMade by `python kernel-config/testbed matrix -o docs/conformance.md` at commit {commit}.\n"
    return _HEAD + made + "\n" + "\n".join(lines) + "\n"
