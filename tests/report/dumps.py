"""Synthetic dumps that reports are made of: the box's scenarios, and one with names planted in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mmdump.document import Report
from mmdump.kernel import Kernel
from mmdump.plugins import LoadedPlugin, Plugins, load_plugins
from mmdump.report import Choice, make_report
from mmdump.target import open_target
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Machine
from mmdump_snapshots.model.mm import Mm
from mmdump_snapshots.model.pipe import Driver
from mmdump_snapshots.scenario import Scenario
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.scenarios.cma import fill, pages_in

__all__ = ["dump_of", "planted_dump", "plugins_with", "report_of"]

_NODE = b"snapshot".ljust(65, b"\0")


@cache
def _image(name: str) -> Any:
    [scenario] = [each for each in SCENARIOS if each.name == name]
    return scenario.image(profile("6.12"))


def dump_of(name: str, directory: Path) -> Path:
    """The dump of a scenario of the box, in that directory."""
    vmcore = directory / "vmcore"
    if not vmcore.exists():
        directory.mkdir(parents=True, exist_ok=True)
        _image(name).write(directory)
    return vmcore


def planted_dump(
    directory: Path,
    comms: Sequence[str],
    functions: Sequence[str],
    node: bytes = b"snapshot",
    renamed: Mapping[bytes, bytes] | None = None,
) -> Path:
    """The dump of a machine whose CMA area is blocked by tasks of these names, called by these functions.

    :param comms: Names of up to 15 characters.
    :param renamed: Other names for functions, of the same length.
    """

    def story(machine: Machine) -> None:
        area = machine.cma[0]
        fill(machine)
        driver = Driver(machine)
        for number, comm in enumerate(comms):
            task = machine.task(comm, pid=2000 + number)
            with machine.running(task, *functions):
                vma, slots = pages_in(machine, area, Mm(machine, task), 200)
                driver.pin_user_pages(vma.mapped(slot) for slot in slots[::50])
                machine.alloc_pages(2, 0xCC0)

    directory.mkdir(parents=True, exist_ok=True)
    [like] = [each for each in SCENARIOS if each.name == "cma-failure"]
    scenario = Scenario("planted", "names that are planted", story, boot=like.boot)
    scenario.image(profile("6.12")).write(directory)
    vmcore = directory / "vmcore"
    data = vmcore.read_bytes()
    assert _NODE in data
    vmcore.write_bytes(data.replace(_NODE, node.ljust(65, b"\0")))
    vmlinux = directory / "vmlinux"
    symbols = vmlinux.read_bytes()
    for name, other in (renamed or {}).items():
        assert len(name) == len(other)
        assert b"\0" + name + b"\0" in symbols
        symbols = symbols.replace(b"\0" + name + b"\0", b"\0" + other + b"\0")
    vmlinux.write_bytes(symbols)
    return vmcore


def plugins_with(*analyses: Any, module: ModuleType | None = None) -> Plugins:
    """The box's plugins, and one more that has these analyses."""
    from mmdump import hookimpl

    plugins = load_plugins()
    if analyses:
        module = ModuleType("planted")
        module.mmdump_analyses = hookimpl(lambda: list(analyses))  # type: ignore[attr-defined]
    if module is not None:
        plugins.register(module, LoadedPlugin("planted", "a test", "planted"))
    return plugins


def report_of(vmcore: Path, choice: Choice | None = None, plugins: Plugins | None = None) -> Report:
    """The report of a dump."""
    plugins = plugins or load_plugins()
    with open_target(vmcore) as target:
        return make_report(Kernel(target, plugins.page_ext_clients()), plugins, choice)
