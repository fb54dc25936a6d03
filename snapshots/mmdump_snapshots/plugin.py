"""The scenarios in the box, as a plugin like any other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdump import hookimpl

if TYPE_CHECKING:
    from mmdump_snapshots.scenario import Scenario

__all__ = ["mmdump_scenarios"]


@hookimpl
def mmdump_scenarios() -> list[Scenario]:
    """What can happen to a machine."""
    from mmdump_snapshots.scenarios import SCENARIOS

    return list(SCENARIOS)
