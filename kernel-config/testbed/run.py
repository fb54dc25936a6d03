"""`testbed run`: see scenario.py."""

import argparse
import sys

from . import boot, dump, scenario
from .errors import GuestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `testbed run` understands."""
    boot.add_guest_arguments(parser)
    formats, filters = ",".join(dump.ALL_FORMATS), ",".join(dump.FILTERS)
    parser.add_argument("--formats", default="elf,kdump-zlib", help=f"of {formats} (default: %(default)s)")
    parser.add_argument("--filters", default=filters, help="of the ELF dump, by makedumpfile (%(default)s)")
    parser.add_argument(
        "--situations",
        default="all",
        help=f"made in this order (%(default)s, which may be one of several; also "
        f"{', '.join(scenario.EXTRA_SITUATIONS)})",
    )
    parser.add_argument("--name", help="of the run's directory (default: the kernel's)")
    parser.add_argument("--compress", action="store_true", help="compress the dumps with zstd afterwards")
    parser.add_argument("--keep", type=int, default=2, help="runs of it that are kept (default: %(default)s)")


def split_names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return the names of a list with commas. Raises GuestError for one that is not known."""
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in known:
            raise GuestError(f"{name} is no {what}; there are {', '.join(known)}.")
    return names


def situations_of(text: str) -> tuple[str, ...]:
    """Return the situations of a list with commas, in which "all" stands for those of every run."""
    known = (*scenario.SITUATIONS, *scenario.EXTRA_SITUATIONS, "all")
    names: list[str] = []
    for name in split_names(text, known, "situation"):
        names += scenario.SITUATIONS if name == "all" else (name,)
    return tuple(dict.fromkeys(names))


def main(args: argparse.Namespace) -> int:
    """Run, and print the directory with what came of it; 0, or 1 if a situation failed."""
    kernel = boot.built_kernel(args.kernel)
    options = scenario.RunOptions(
        memory=boot.memory_of(args, kernel),
        nodes=args.nodes,
        cpus=args.cpus,
        accel=args.accel,
        cmdline=args.cmdline,
        formats=split_names(args.formats, dump.ALL_FORMATS, "dump format"),
        compress=args.compress,
        situations=situations_of(args.situations),
        filters=split_names(args.filters, tuple(dump.FILTERS), "filter"),
    )
    name = args.name or kernel.name
    directory, record = scenario.run(kernel, options, name=name)
    for what, why in record.absent.items():
        scenario.say(f"absent: {what}: {why}")
    for what, why in record.failed.items():
        scenario.say(f"failed: {what}: {why}")
    scenario.remove_runs(name, args.keep)
    sys.stdout.write(f"{directory}\n")
    return 1 if record.failed else 0
