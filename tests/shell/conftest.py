"""Dumps to open in drgn: a synthetic one on every machine, and the real one where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import drgn
import pytest

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.scenarios import SCENARIOS
from tests.conftest import Sample


@dataclass(frozen=True)
class Core:
    """A dump and its debug info, and a line that ``mmdump pinned`` prints of it."""

    path: Path
    symbols: Path
    line: str
    groups: int
    pages: int


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Core:
    """The machine that ``mmdump demo`` shows."""
    directory = tmp_path_factory.mktemp("synthetic")
    [scenario] = [each for each in SCENARIOS if each.name == "cma-failure"]
    vmcore = scenario.image(profile("6.12")).write(directory)
    line = "12 by FOLL_PIN (allocated by postgres 1204), 4 by unexplained references (allocated by tar 1377)"
    return Core(vmcore, vmcore.with_name("vmlinux"), line, 5, 17)


@pytest.fixture(scope="session")
def real(sample: Sample) -> Core:
    """The real vmcore, filtered and compressed."""
    return Core(sample.kdump, sample.vmlinux, "73 folios held: 64 by FOLL_PIN (allocated by work 63)", 5, 81)


@pytest.fixture(scope="session", params=["synthetic", "real"])
def core(request: pytest.FixtureRequest) -> Core:
    found: Core = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def prog(core: Core) -> Iterator[drgn.Program]:
    """The dump as drgn's command line opens it with -c and -s."""
    opened = drgn.Program()
    opened.set_core_dump(core.path)
    opened.load_debug_info([core.symbols])
    yield opened
    opened.cache.clear()
