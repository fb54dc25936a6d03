"""A plugin that is broken, wherever it is, is named and does no harm to what others say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdump_snapshots.kernels import profile
from mmdump_snapshots.scenarios import SCENARIOS
from tests.conftest import Run

Mmdump = Callable[..., Run]

#: Everything that a plugin can contribute, and all of it raises when it is used.
BROKEN = """
from mmdump import hookimpl
from mmdump.analysis import Analysis, Need
from mmdump.checks import Check
from mmdump.kernel.page_ext import PageExtClient
from mmdump.kernelfile import KernelFile
from mmdump.pagenotes import PageNotes
from mmdump.render import FormatSpec


def fails(*_arguments):
    raise RuntimeError("on \\x1b[31m purpose")


class Needy(Analysis):
    "Cannot even say whether it can run."
    name, summary, needs = "needy", "fails early", (Need(fails),)


class Scanning(Analysis):
    "Fails in the middle."
    name, summary = "scanning", "fails late"
    scan = fails


class Wrong(Check):
    name, summary = "wrong", "fails"
    scan = fails


@hookimpl
def mmdump_analyses():
    return [Needy, Scanning]


@hookimpl
def mmdump_checks():
    return [Wrong]


@hookimpl
def mmdump_page_notes():
    return [PageNotes("broken", fails)]


@hookimpl
def mmdump_page_ext_clients():
    # It does not say when it is on, and the kernel has given it no place.
    return [PageExtClient("page_table_check", ops="page_table_check_ops", struct="struct page_table_check",
                          members={"anon": ("anon_map_count",)})]


@hookimpl
def mmdump_renderers():
    return [FormatSpec("broken", fails, one_table=True)]


@hookimpl
def mmdump_scenarios():
    return fails()
"""


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    [scenario] = [each for each in SCENARIOS if each.name == "cma-failure"]
    return scenario.image(profile("6.12")).write(tmp_path_factory.mktemp("dump"))


@pytest.fixture
def broken(mmdump: Mmdump, tmp_path: Path) -> Callable[..., Run]:
    """The command line with that plugin."""
    (tmp_path / "broken.py").write_text(BROKEN)

    def run(*arguments: object) -> Run:
        done = mmdump("--plugin", "broken.py", *arguments)
        assert "Traceback" not in done.err
        assert "\x1b" not in done.err + done.out
        return done

    return run


@pytest.mark.parametrize(
    "command",
    [("pinned", "--cma"), ("page-owner", "--limit", "5"), ("buddy",), ("cat", "page_owner")],
    ids=" ".join,
)
def test_other_commands_say_what_they_say_without_it(
    broken: Mmdump, mmdump: Mmdump, vmcore: Path, command: tuple[str, ...]
) -> None:
    name, *rest = command
    assert broken(name, vmcore, *rest).out == mmdump(name, vmcore, *rest).out != ""


def test_info_says_of_its_analyses_that_they_failed(broken: Mmdump, vmcore: Path) -> None:
    run = broken("info", vmcore, "-f", "json")
    assert run.status == 5
    assert "plugin broken" in run.err
    rows = {row["analysis"]: row for row in json.loads(run.out)["tables"]["analyses"]["rows"]}
    assert rows["needy"]["why_not"].startswith("failed: RuntimeError: on")
    assert rows["scanning"]["runs"]
    assert rows["pinned"]["runs"]


@pytest.mark.parametrize("command", ["needy", "scanning"])
def test_its_own_command_names_it(broken: Mmdump, vmcore: Path, command: str) -> None:
    run = broken(command, vmcore)
    assert run.status == 5
    assert "of plugin broken" in run.err


def test_pages_and_checks_name_it_and_show_the_rest(broken: Mmdump, mmdump: Mmdump, vmcore: Path) -> None:
    run = broken("page", vmcore, "0x1000")
    assert run.status == 5
    assert "broken" in run.err
    shown = mmdump("page", vmcore, "0x1000").out.splitlines()
    assert len(shown) > 10
    # One line more, which says that its notes are missing.
    assert len(set(shown) - set(run.out.splitlines())) == 0
    run = broken("check", vmcore, "-f", "json")
    assert run.status == 5
    assert "wrong" in run.err + run.out


def test_the_report_has_all_other_sections(broken: Mmdump, mmdump: Mmdump, vmcore: Path) -> None:
    run = broken("report", vmcore, "-f", "json")
    assert run.status == 5
    alone = json.loads(mmdump("report", vmcore, "-f", "json").out)
    ours = json.loads(run.out)
    assert {each["section"] for each in alone["sections"]} <= {each["section"] for each in ours["sections"]}
    assert ours["findings"][: len(alone["findings"])] == alone["findings"]
    assert "needy" in run.out


def test_its_format_and_scenarios_fail_alone(broken: Mmdump, vmcore: Path) -> None:
    run = broken("pinned", vmcore, "-f", "broken")
    assert run.status != 0
    assert run.err.startswith("mmdump: ")
    run = broken("snapshot", "list")
    assert run.status == 5
    assert "cma-failure" in run.out
    assert "plugin broken" in run.err
