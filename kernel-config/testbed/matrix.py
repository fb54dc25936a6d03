"""`testbed matrix`: every kernel of the catalogue, from source to the conformance table that docs show."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from . import boot, build, check, scenario
from .conformance import FILES, NO_FILE, Comparison
from .errors import BuildError, GuestError
from .kernels import KERNELS
from .sort import SORT
from .told import TOLD

__all__ = ["add_arguments", "main"]

_HEAD = """\
# Conformance

What mmdump reads from a dump, held against the kernel's own files, read before the dump and after it with
the guest standing still between. A cell says how many of the records that did not change between the two
readings are just so in the dump; `-` stands where there is nothing to compare: this kernel has no such file,
or mmdump says why it cannot make it. `page_owner_sort` is the kernel's tool, run in several ways on the
dump's text and on the kernel's. `pinned` is held against what the workload and the page pinner's events say.
`reported to the hypervisor` are the blocks that are reported by the dump and by `/proc/kpageflags`, each held
against QEMU's own trace events, and the sum of `mmdump reported`.

`-profiling` is a run with allocation tags (`sysctl.vm.mem_profiling=1`).
"""


@dataclass
class _Kernel:
    """What became of one kernel.

    :param dumps: How each of its dumps was made, with what was compared of it and what `pinned` got wrong.
    :param failed: Why there are none.
    """

    name: str
    release: str = ""
    dumps: list[tuple[str, list[Comparison], list[str]]] = field(default_factory=list)
    failed: str = ""

    @property
    def perfect(self) -> bool:
        return not self.failed and all(
            not wrong and all(each.perfect for each in comparisons if each.absent is None)
            for _, comparisons, wrong in self.dumps
        )

    def summary(self) -> str:
        """Its row of the first table."""
        if self.failed:
            return f"| {self.name} | | | | | {self.failed} |"
        held = [each for _, comparisons, _ in self.dumps for each in comparisons if each.absent is None]
        stable, equal = sum(each.stable for each in held), sum(each.equal for each in held)
        wrong = "; ".join(dict.fromkeys(each for _, _, wrong in self.dumps for each in wrong[:3]))
        forms = ", ".join(form for form, _, _ in self.dumps)
        cells = [self.name, self.release, forms, f"{stable:,}" if stable else "-", _share(stable, equal)]
        return f"| {' | '.join(cells)} | {wrong or 'as the workload says'} |"

    def table(self) -> str:
        """Its own table: a row for each file that it has, a column for each dump."""
        forms = [form for form, _, _ in self.dumps]
        refused: dict[str, None] = {}
        lines = [f"| file | {' | '.join(forms)} |", "|---|" + "---:|" * len(forms)]
        for index, file in enumerate((*FILES, SORT, TOLD)):
            # A run in which something moves has none.
            cells = [_cell(comparisons[index]) if comparisons else "-" for _, comparisons, _ in self.dumps]
            if set(cells) - {"-"}:
                lines.append(f"| `{file}` | {' | '.join(cells)} |")
            for form, comparisons, _ in self.dumps:
                absent = comparisons[index].absent if comparisons else None
                if absent not in (None, NO_FILE):
                    refused[f"- `{file}`, {form}: {absent}"] = None
        if len(lines) == 2:
            return ""
        parts = [f"## {self.name}: {self.release}\n", *lines, *(["", *refused] if refused else [])]
        return "\n".join(parts) + "\n"


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
    kernels = []
    for name in args.kernel or KERNELS:
        if name not in KERNELS and not args.no_run:
            raise GuestError(f"{name} is no kernel of the catalogue; there are {', '.join(KERNELS)}.")
        try:
            run = _run(name, fresh=not args.no_run)
        except (BuildError, GuestError) as error:
            kernels.append(_Kernel(name, failed=str(error)))
        else:
            files, wrong = check.check_run(run)
            record = json.loads((run / "run.json").read_text())
            dumps = [(record["dumps"][dump]["format"], files[dump], wrong[dump]) for dump in files]
            kernels.append(_Kernel(name, record["release"], dumps))
        sys.stdout.write(kernels[-1].summary() + "\n")
    text = _text(kernels)
    if args.output:
        args.output.write_text(text)
    else:
        sys.stdout.write(text)
    return int(not all(each.perfect for each in kernels))


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
        return "-"
    return f"{comparison.equal:,} of {comparison.stable:,} ({_share(comparison.stable, comparison.equal)})"


def _share(stable: int, equal: int) -> str:
    """How many, in a form in which only all is 100 %."""
    if stable == equal:
        return "100 %" if stable else "-"
    return f"{min(100 * equal / stable, 99.999):.3f} %"


def _text(kernels: list[_Kernel]) -> str:
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    made = f"\nMade by `python kernel-config/testbed matrix -o docs/conformance.md` at commit {commit}.\n"
    head = "| kernel | release | dumps | records | just so | `mmdump pinned` |\n|---|---|---|---:|---:|---|\n"
    summary = head + "".join(each.summary() + "\n" for each in kernels)
    return "\n".join([_HEAD + made, summary, *filter(None, (each.table() for each in kernels))])
