"""The command line: python kernel-config/testbed COMMAND."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

if __package__ in {None, ""}:
    # Started as a directory: its parent is what makes `testbed` a package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from testbed import boot, build, check, crash, live, matrix, run
from testbed.errors import BuildError, GuestError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testbed", description=sys.modules["testbed"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, summary in (
        ("build", build, "build kernels of the catalogue into the cache"),
        ("boot", boot, "boot a kernel and run a command in the guest"),
        ("run", run, "boot, make all situations, read the truth and take dumps"),
        ("kexec", crash, "the same, then crash, and let makedumpfile write dumps in the capture kernel"),
        ("live", live, "run a command of this machine's file system in a guest"),
        ("check", check, "hold the dumps of a run against the kernel's own files and the workload's"),
        ("matrix", matrix, "build, run and check every kernel, and write the table that docs show"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    return parser


def _terminate(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that guests are stopped on the way out.
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command; the exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    # What stands after "--" is a command for the guest, with options of its own.
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args = _parser().parse_args(words[:cut])
    args.words = words[cut + 1 :]
    try:
        return int(args.main(args))
    except (GuestError, BuildError) as error:
        sys.stderr.write(f"testbed: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
