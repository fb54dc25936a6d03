"""Dumps that several of these tests look at, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.dumps import dump_of

SCENARIOS = ("cma-failure", "leak", "thp")


@pytest.fixture(scope="session", params=SCENARIOS)
def scenario(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump of each of three scenarios."""
    return dump_of(request.param, tmp_path_factory.getbasetemp() / f"report-{request.param}")


@pytest.fixture(scope="session")
def cma_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dump of a machine whose CMA area is blocked."""
    return dump_of("cma-failure", tmp_path_factory.getbasetemp() / "report-cma-failure")
