"""``mmdump info`` of synthetic dumps: their machine, without a log; and what is garbage is not shown."""

from __future__ import annotations

import pytest

from mmdump.info import info
from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.result import Result
from mmdump_snapshots.kernels import profile, profiles
from mmdump_snapshots.scenarios import SCENARIOS
from mmdump_snapshots.writer.image import Image

#: Where x86-64 maps the kernel's image.
START_KERNEL_MAP = 0xFFFFFFFF80000000
IDLE = next(each for each in SCENARIOS if each.name == "idle")


def told(image: Image) -> tuple[Result, dict[str, str]]:
    plugins = load_plugins(disabled=["*"])
    result = info(Kernel(image.target(), plugins.page_ext_clients()), plugins)
    return result, dict(result.tables["facts"].frame.iter_rows())


@pytest.mark.parametrize("name", list(profiles()))
def test_the_machine_of_every_profile_is_known_and_its_log_is_absent(name: str) -> None:
    image = IDLE.image(profile(name), memory=128 << 20)
    result, facts = told(image)
    assert facts["machine"] == image.target().architecture
    assert facts["CPUs"].endswith("possible")
    assert facts["memory"].endswith("iB managed")
    assert "uptime" in facts
    assert not {"panic", "last bug"} & set(facts)
    assert not result.incomplete


@pytest.mark.parametrize(
    ("variable", "garbage", "lost"),
    [
        ("__cpu_online_mask", bytes(8), "CPUs"),
        ("_totalram_pages", b"\xff" * 8, "memory"),
        ("_totalram_pages", b"\xff" * 7 + b"\x7f", "memory"),
    ],
)
def test_garbage_is_not_shown(variable: str, garbage: bytes, lost: str) -> None:
    image = IDLE.image(profile("6.12"), memory=128 << 20)
    target = image.target()
    address = target.prog[variable].address_
    image.memory.write(address - START_KERNEL_MAP + int(target.vmcoreinfo["NUMBER(phys_base)"]), garbage)
    assert lost in told(IDLE.image(profile("6.12"), memory=128 << 20))[1]
    assert lost not in told(image)[1]


def test_what_needs_pages_cannot_run_where_the_page_array_cannot_be_read() -> None:
    image = IDLE.image(profile("6.12"), memory=128 << 20)
    target = image.target()
    table = target.prog["mem_section"].address_ - START_KERNEL_MAP
    # It leads to no memory.
    image.memory.write(
        table + int(target.vmcoreinfo["NUMBER(phys_base)"]), b"\x00\xf0\xff\xff\xff\x7f\x00\x00"
    )
    plugins = load_plugins()
    result = info(Kernel(image.target(), plugins.page_ext_clients()), plugins)
    told = {row["analysis"]: row for row in result.tables["analyses"].frame.iter_rows(named=True)}
    for name in ("buddy", "holders", "map", "pages", "pinned", "thp"):
        assert not told[name]["runs"]
        assert told[name]["why_not"].startswith("the page array could not be read: ")
