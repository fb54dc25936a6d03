"""QEMU's command line, and whether KVM works here."""

import contextlib
import platform
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import told
from .build import BuiltKernel
from .errors import GuestError

NATIVE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""The kernel's name of this machine's architecture."""

DEFAULT_CMDLINE = (
    "page_owner=on page_pinner=on cma=64M cgroup_disable=memory panic=-1 "
    # What would move pages by itself while the truth is read.
    "numa_balancing=disable"
)
"""Kernel parameters of every guest, after the console. cgroup_disable=memory: Debian's 6.12.117 follows
a wrong pointer when page_owner is read while pages are charged to memory cgroups."""


STALLED_DISK = (
    # 128 KiB at once, which is enough to look for partitions; after that a byte a second. QEMU answers all
    # that is in flight when it stops the guest, but the guest has not seen that when it is dumped.
    "-object", "throttle-group,id=trickle,x-bps-total=1,x-bps-total-max=131072",
    "-blockdev", "driver=null-co,node-name=nothing,size=67108864,read-zeroes=on",
    "-blockdev", "driver=throttle,node-name=stalled,throttle-group=trickle,file=nothing",
    "-device", "virtio-blk-pci,drive=stalled",
)  # fmt: skip
"""Words for a disk of 64 MiB on which I/O stays in flight. No kernel can boot while it is stalled."""


@dataclass(frozen=True)
class Share:
    """A directory of the host that the guest mounts over 9p."""

    tag: str
    path: Path
    readonly: bool = False


@dataclass(frozen=True)
class GuestSpec:
    """A guest to be started."""

    kernel: BuiltKernel
    initrd: Path
    cmdline: str
    memory: int
    """MiB."""
    nodes: int = 1
    cpus: int = 2
    accel: str = "tcg"
    shares: tuple[Share, ...] = field(default=())
    stalled_disk: bool = False
    """Whether there is a disk that answers its first bytes alone: see STALLED_DISK."""
    reports: Path | None = None
    """Where QEMU writes what free page reporting tells it: see told.py."""


def parse_memory(text: str) -> int:
    """Return the MiB of "512M", "1G" or "768". Raises GuestError otherwise."""
    match = re.fullmatch(r"(\d+)([MmGg]?)", text)
    if not match or not int(match[1]):
        raise GuestError(f"{text} is not a size of memory: say 512M or 1G.")
    return int(match[1]) * (1024 if match[2] in {"G", "g"} else 1)


def console_of(kernel: BuiltKernel) -> str:
    """Return the name of the guest's serial console."""
    return str(kernel.info["machine"]["console"])


def kernel_cmdline(kernel: BuiltKernel, role: str, extra: str = "") -> str:
    """Return the kernel parameters of a guest that is to play a role; `extra` comes last and wins."""
    words = [f"console={console_of(kernel)}", "loglevel=5", DEFAULT_CMDLINE, f"testbed.role={role}", extra]
    return " ".join(word for word in words if word)


def command_line(spec: GuestSpec, console: Path, console_log: Path, qmp: Path) -> list[str]:
    """Return the words that start QEMU with its console and its control on unix sockets.

    QEMU waits for the console's client before it starts the guest, so that no output is lost.
    """
    machine = spec.kernel.info["machine"]
    words = [
        str(machine["qemu"]), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", str(machine["machine"]),
        "-accel", "tcg,thread=multi" if spec.accel == "tcg" else spec.accel,
        "-cpu", "host" if spec.accel == "kvm" else str(machine["cpu"]),
        # Nodes that share a socket would share its caches, which kernels complain of.
        "-smp", f"{spec.cpus},sockets={spec.nodes}",
        "-m", f"{spec.memory}M",
        "-kernel", str(spec.kernel.image), "-initrd", str(spec.initrd), "-append", spec.cmdline,
        "-chardev", f"socket,id=console,path={console},server=on,wait=on,logfile={console_log}",
        "-serial", "chardev:console",
        "-qmp", f"unix:{qmp},server=on,wait=off",
        "-device", "virtio-balloon-pci,free-page-reporting=on",
        "-device", "vmcoreinfo",
    ]  # fmt: skip
    words += _node_words(spec)
    words += STALLED_DISK if spec.stalled_disk else ()
    words += told.trace_words(spec.reports) if spec.reports else ()
    for share in spec.shares:
        readonly = ",readonly=on" if share.readonly else ""
        words += [
            "-fsdev", f"local,id={share.tag},path={share.path},security_model=none,multidevs=remap{readonly}",
            "-device", f"virtio-9p-pci,fsdev={share.tag},mount_tag={share.tag}",
        ]  # fmt: skip
    return words


def _node_words(spec: GuestSpec) -> list[str]:
    if spec.nodes == 1:
        return []
    if spec.memory % spec.nodes or spec.cpus < spec.nodes:
        raise GuestError(f"{spec.memory} MiB and {spec.cpus} CPUs do not divide by {spec.nodes} nodes.")
    words = []
    for node in range(spec.nodes):
        cpus = ",".join(f"cpus={cpu}" for cpu in range(node, spec.cpus, spec.nodes))
        words += [
            "-object", f"memory-backend-ram,id=ram{node},size={spec.memory // spec.nodes}M",
            "-numa", f"node,nodeid={node},{cpus},memdev=ram{node}",
        ]  # fmt: skip
    return words


def find_qemu(kernel: BuiltKernel) -> None:
    """Raise GuestError with the Debian package if QEMU for the kernel's architecture is not here."""
    program = str(kernel.info["machine"]["qemu"])
    if not shutil.which(program):
        package = {"x86_64": "qemu-system-x86", "arm64": "qemu-system-arm"}.get(kernel.arch, "qemu-system")
        raise GuestError(f"{program} is not installed: apt-get install {package}.")


def kvm_works(kernel: BuiltKernel, *, seconds: float = 20.0) -> bool:
    """Whether this kernel's first lines appear on a serial console under KVM.

    /dev/kvm may exist and not work, and firmware may run where a kernel does not: only a boot tells.
    """
    if kernel.arch != NATIVE or not Path("/dev/kvm").exists():
        return False
    machine = kernel.info["machine"]
    words = [
        str(machine["qemu"]), "-nodefaults", "-display", "none", "-no-reboot", "-m", "512M",
        "-machine", str(machine["machine"]), "-accel", "kvm", "-cpu", "host",
        "-kernel", str(kernel.image), "-serial", "stdio",
        "-append", f"console={console_of(kernel)} panic=-1",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as out:
        try:
            qemu = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
        except OSError:
            return False
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                # Without a root file system it ends in a panic, which is proof enough.
                if b"Kernel panic" in _text(out):
                    return True
                if qemu.poll() is not None:
                    return b"Kernel panic" in _text(out)
                time.sleep(0.1)
            return False
        finally:
            qemu.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                qemu.wait(10)


def _text(file: object) -> bytes:
    assert hasattr(file, "seek")
    assert hasattr(file, "read")
    file.seek(0)
    return bytes(file.read())


def accelerator(kernel: BuiltKernel, wanted: str) -> str:
    """Return "kvm" or "tcg": what was wanted, or for "auto" what works here."""
    if wanted != "auto":
        return wanted
    return "kvm" if kvm_works(kernel) else "tcg"
