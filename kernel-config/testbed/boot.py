"""`testbed boot`: a guest for a command or for a look around. And what all guest commands share."""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from . import build, programs, qemu, scenario
from .build import BuiltKernel
from .errors import GuestError
from .guest import Guest

_SHELL = "exec sh -i"


def add_guest_arguments(parser: argparse.ArgumentParser, *, memory: str | None = None) -> None:
    """Declare what every command that boots a guest understands."""
    parser.add_argument(
        "kernel", metavar="KERNEL", help="a name of the catalogue, or a built kernel's directory"
    )
    parser.add_argument(
        "--memory", default=memory, help="such as 512M (the default depends on the page size)"
    )
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1, help="NUMA nodes")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs")
    parser.add_argument(
        "--accel", choices=("auto", "tcg", "kvm"), default="auto", help="auto: KVM where it works"
    )
    parser.add_argument("--cmdline", default="", help="more kernel parameters; they win over the test bed's")


def built_kernel(name: str) -> BuiltKernel:
    """Return a built kernel by its directory or its name, the newest in the cache.

    Raises GuestError if there is none.
    """
    if "/" in name:
        if not (Path(name) / "build.json").exists():
            raise GuestError(f"{name} is no built kernel: it has no build.json.")
        return BuiltKernel(Path(name).resolve())
    found = build.find(name)
    if found is None:
        raise GuestError(f"the cache has no kernel {name}: run testbed build {name} first.")
    return found


def memory_of(args: argparse.Namespace, kernel: BuiltKernel) -> int:
    """Return the MiB that were asked for, or the default."""
    return qemu.parse_memory(args.memory) if args.memory else scenario.default_memory(kernel)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `testbed boot` understands."""
    add_guest_arguments(parser)
    parser.add_argument("--timeout", type=float, default=600, help="seconds before the guest is ended")
    parser.add_argument(
        "--share", type=Path, help="a directory for the guest's /share (default: a temporary one)"
    )
    parser.add_argument("--log", type=Path, help="keep the console's output in this file")
    parser.usage = "%(prog)s [options] KERNEL [-- COMMAND...]"
    parser.epilog = "COMMAND is for the guest's shell; without one there is a shell on this terminal."


def main(args: argparse.Namespace) -> int:
    """Boot, run the command and print what it prints; its exit status."""
    kernel = built_kernel(args.kernel)
    temporary = Path(tempfile.mkdtemp(prefix="mmdump-share-"))
    share = args.share or temporary
    try:
        (share / "command").write_text(" ".join(args.words) + "\n" if args.words else _SHELL + "\n")
        spec = qemu.GuestSpec(
            kernel=kernel,
            initrd=programs.initramfs(kernel.arch),
            cmdline=qemu.kernel_cmdline(kernel, "command", args.cmdline),
            memory=memory_of(args, kernel),
            nodes=args.nodes,
            cpus=args.cpus,
            accel=qemu.accelerator(kernel, args.accel),
            stalled_disk=True,
            shares=(qemu.Share("share", share), scenario.data_share(kernel)),
        )
        return _talk(spec, args.log or temporary / "console.log", args.timeout, interactive=not args.words)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _echo(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def _talk(spec: qemu.GuestSpec, log: Path, timeout: float, *, interactive: bool) -> int:
    deadline = time.monotonic() + timeout
    with Guest(spec, log, echo=_echo) as guest:
        guest.wait_for("hello", min(timeout, scenario.BOOT_SECONDS))
        if interactive:
            threading.Thread(target=_type, args=(guest,), daemon=True).start()
        values = guest.wait_for("end", max(1.0, deadline - time.monotonic()))
    return int(values.get("rc", "1"))


def _type(guest: Guest) -> None:
    for line in sys.stdin:
        guest.console.send(line.rstrip("\n"))
    guest.console.send("exit")
