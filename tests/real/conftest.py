"""The real vmcore, opened once per format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmdump.kernel import Kernel
from mmdump.plugins import Plugins, load_plugins
from mmdump.result import Result
from mmdump.scan import run_one
from mmdump.target import open_target
from tests.conftest import Sample
from tests.real import truth


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load_plugins(disabled=["*"])


@pytest.fixture(scope="session")
def kernel(dump: Path, plugins: Plugins) -> Iterator[Kernel]:
    with open_target(dump) as target:
        yield Kernel(target, plugins.page_ext_clients())


@pytest.fixture(scope="session")
def pinned(kernel: Kernel, plugins: Plugins) -> Result:
    return run_one(kernel, plugins.analyses()["pinned"]())


@pytest.fixture(scope="session")
def owner_text(sample: Sample) -> dict[int, truth.Record]:
    return truth.page_owner(sample.truth("page_owner.txt").decode())


@pytest.fixture(scope="session")
def workload(sample: Sample) -> truth.Workload:
    return truth.workload(sample.truth("truth.txt").decode())
