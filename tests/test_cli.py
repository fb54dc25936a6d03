"""The command line: what it answers, what it refuses, and with which exit status."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import Run, Sample
from tests.report.dumps import dump_of

Mmdump = Callable[..., Run]
SCHEMA = json.loads((Path(__file__).parent / "render" / "result.schema.json").read_text())


def _fails(run: Run, status: int) -> str:
    """The error of a failed run: a sentence or two and a hint, and never a traceback."""
    assert run.status == status, run
    assert "Traceback" not in run.err
    assert run.err.startswith("mmdump: ")
    assert 1 <= len(run.err.splitlines()) <= 3
    return run.err


def test_help_lists_the_analyses_of_plugins(mmdump: Mmdump) -> None:
    run = mmdump("--help")
    assert run.status == 0
    for command in ("info", "page-owner", "pinned", "plugins"):
        assert f"  {command} " in run.out


def test_a_command_explains_its_options_without_a_dump(mmdump: Mmdump) -> None:
    run = mmdump("pinned", "--help")
    assert run.status == 0
    assert "--cma" in run.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pinned",), "no vmcore"),
        (("pinned", "core", "--live"), "both"),
        (("pinned", "core", "-f", "xml"), "there is no format xml"),
        (("pinned", "core", "-f", "html"), "mmdump report makes a document, html or md, of all there is."),
        (("report", "core", "-o", "x.csv"), "x.csv: no format of reports has the suffix .csv"),
        (("report", "core", "-o", "x.csv"), "Suffixes: .html, .htm, .md, .markdown, .txt, .text, .json; or "),
        (("report", "core", "-o", "x"), "x: its name does not say in which format"),
    ],
)
def test_usage_errors_are_explained(mmdump: Mmdump, arguments: tuple[str, ...], words: str) -> None:
    assert words in _fails(mmdump(*arguments), 2)


def test_formats_are_known_in_capitals_too(mmdump: Mmdump) -> None:
    assert mmdump("snapshot", "list", "-f", "CSV").out == mmdump("snapshot", "list", "-f", "csv").out
    assert "core: no such file" in _fails(mmdump("report", "core", "-f", "Markdown"), 3)


def test_an_unknown_command_or_option_is_a_usage_error(mmdump: Mmdump) -> None:
    assert mmdump("frobnicate").status == 2
    assert mmdump("pinned", "--frobnicate").status == 2


def test_a_command_that_is_nearly_one_is_suggested_a_plugins_too(mmdump: Mmdump) -> None:
    assert "Did you mean pinned?" in mmdump("pined", "vmcore").err
    assert "Did you mean snapshot?" in mmdump("snapshoot").err


def test_help_as_a_command_is_shown_the_option(mmdump: Mmdump) -> None:
    assert "No such command 'help'. Help is an option: mmdump --help." in mmdump("help").err
    assert "Help is an option: mmdump pinned --help." in mmdump("help", "pinned").err
    assert "Help is an option: mmdump --help." in mmdump("help", "-v").err


def test_info_without_debug_info_begins_with_what_to_do(mmdump: Mmdump, tmp_path: Path) -> None:
    dump = dump_of("cma-failure", tmp_path)
    (tmp_path / "vmlinux").unlink()
    run = mmdump("info", dump)
    assert run.status == 5
    second = run.out.splitlines()[1]
    assert "no debug info for kernel" in second
    assert "-s VMLINUX" in second
    assert run.out.index("\nAnalyses\n") < run.out.index("\nVMCOREINFO\n")
    assert "-s VMLINUX" in mmdump("info", dump, "-f", "csv").err


def test_a_column_of_another_table_is_found(mmdump: Mmdump, tmp_path: Path) -> None:
    dump = dump_of("cma-failure", tmp_path)
    hint = "owner is a column of groups and timelines: --table groups."
    assert hint in _fails(mmdump("pinned", dump, "--where", "owner = 'tar'"), 2)
    assert "--table stacks" in _fails(mmdump("pinned", dump, "--columns", "frames"), 2)
    assert "--table stacks" in _fails(mmdump("page-owner", dump, "-f", "csv", "--sort", "status"), 2)


def test_a_value_of_the_same_column_of_another_table_is_found(mmdump: Mmdump, tmp_path: Path) -> None:
    dump = dump_of("cma-failure", tmp_path)
    error = _fails(mmdump("pinned", dump, "--holders", "--where", "kind = 'pipe'"), 2)
    assert "kind is never 'pipe'" in error
    assert "holders and held_by have a kind of other values: --table holders or --table held_by." in error
    assert "Values of kind: " in error


@pytest.mark.parametrize(
    ("command", "table", "option"),
    [
        *(("pinned", table, "--holders") for table in ("holders", "held_by", "balance")),
        ("pinned", "cma", "--cma"),
        ("buddy", "want", "--want ORDER"),
    ],
)
def test_a_table_that_an_option_makes_is_told_with_the_option(
    mmdump: Mmdump, command: str, table: str, option: str
) -> None:
    error = _fails(mmdump(command, "no-such-dump", "--table", table), 2)
    assert f"{command} has table '{table}' only with {option.partition(' ')[0]}." in error
    assert f"mmdump {command} ... {option} --table {table}" in error


def test_the_option_makes_the_table(mmdump: Mmdump, tmp_path: Path) -> None:
    dump = dump_of("cma-failure", tmp_path)
    for table in ("holders", "held_by", "balance", "cma"):
        assert mmdump("pinned", dump, "--cma", "--holders", "--table", table).status == 0
    assert mmdump("buddy", dump, "--want", "3", "--table", "want").status == 0


def test_a_dump_where_a_command_belongs_is_told_from_one(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "out dir").mkdir()
    (tmp_path / "out dir" / "vmcore").write_bytes(b"")
    (tmp_path / "out dir" / "vmcore-dmesg.txt").write_bytes(b"")
    for word in ("out dir/vmcore", "out dir"):
        run = mmdump(word)
        assert run.status == 2
        assert "mmdump info 'out dir/vmcore'" in run.err
        assert "mmdump report 'out dir/vmcore' -o report.html" in run.err
    (tmp_path / "out dir" / "vmcore").unlink()
    assert "is a directory: mmdump COMMAND VMCORE" in mmdump("out dir").err
    assert "There is no file of that name either" in mmdump("no/vmcore").err


def test_an_option_that_belongs_before_the_command_is_said_to(mmdump: Mmdump) -> None:
    run = mmdump("info", "vmcore", "--plugin", "x.py")
    assert run.status == 2
    assert "--plugin goes before the command: mmdump --plugin FILE info ..." in run.err
    assert "mmdump --plugin FILE snapshot generate ..." in mmdump("snapshot", "generate", "--plugin=x").err


def test_a_plugin_file_that_does_not_exist_is_a_usage_error(mmdump: Mmdump) -> None:
    for word in ("nope.py", "name=nope.py"):
        assert "nope.py: no such file" in _fails(mmdump("--plugin", word, "info", "no-such-core"), 2)


def test_a_missing_file_is_named(mmdump: Mmdump) -> None:
    assert "no-such-core" in _fails(mmdump("pinned", "no-such-core"), 3)


def test_a_text_file_is_not_a_dump(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a dump\n" * 100)
    assert "notes.txt" in _fails(mmdump("pinned", "notes.txt"), 3)


def test_a_failed_run_leaves_no_output_file(mmdump: Mmdump, tmp_path: Path) -> None:
    _fails(mmdump("pinned", "no-such-core", "-o", "out.json"), 3)
    assert not (tmp_path / "out.json").exists()


def test_an_unknown_suffix_is_refused_before_anything_is_read_unless_a_format_is_named(
    mmdump: Mmdump, tmp_path: Path
) -> None:
    error = _fails(mmdump("plugins", "-o", "out.xls"), 2)
    assert "out.xls" in error
    assert ".csv" in error
    assert not (tmp_path / "out.xls").exists()
    assert mmdump("plugins", "-o", "out.xls", "-f", "csv").status == 0
    assert (tmp_path / "out.xls").read_text().startswith("plugin,")


def test_plugins_are_listed_with_what_failed(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('on purpose')\n")
    run = mmdump("--plugin", "broken.py", "plugins", "-f", "json")
    assert run.status == 5
    rows = {row["plugin"]: row for row in json.loads(run.out)["tables"]["plugins"]["rows"]}
    assert rows["page_owner"]["state"] == "on"
    assert rows["broken"]["state"] == "failed"
    assert "on purpose" in rows["broken"]["error"]
    assert "broken" in run.err


def test_a_plugin_from_a_file_adds_a_command(mmdump: Mmdump, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        "from dataclasses import dataclass\n"
        "from mmdump import hookimpl\n"
        "from mmdump.analysis import Analysis\n"
        "@dataclass(frozen=True)\n"
        "class Hello(Analysis):\n"
        "    '''Says hello.'''\n"
        "    name = 'hello'\n"
        "    summary = 'says hello'\n"
        "@hookimpl\n"
        "def mmdump_analyses():\n"
        "    return [Hello]\n"
    )
    assert "hello" in mmdump("--plugin", "hello.py", "--help").out


def test_a_plugin_can_be_switched_off(mmdump: Mmdump) -> None:
    assert "page-owner" not in mmdump("--disable-plugin", "page_owner", "--help").out
    assert "page-owner" not in mmdump("--help", MMDUMP_DISABLE_PLUGINS="page_owner").out


class TestOnTheRealVmcore:
    """The whole way, from the file to the bytes on standard output."""

    def test_pinned_finds_the_debug_info_beside_the_dump(self, mmdump: Mmdump, dump: Path) -> None:
        run = mmdump("pinned", dump)
        assert run.status == 0
        assert run.err == ""
        assert run.out.startswith(
            "73 folios held: 64 by FOLL_PIN (allocated by work 63), "
            "1 large folio by FOLL_PIN (allocated by work 64), "
            "8 by unexplained references (allocated by work 70)\n"
        )
        assert "8 more were marked by the page pinner and are released." in run.out
        assert "CMA reserved: 64 MiB; 8 pages block it" in run.out

    def test_info_tells_what_is_in_the_dump(self, mmdump: Mmdump, dump: Path) -> None:
        run = mmdump("info", dump)
        assert run.status == 0
        for words in ("6.12.117-mmdump", "70ae118e8b1e", "131072", "page_owner", "pinned"):
            assert words in run.out

    @pytest.mark.parametrize("command", ["pinned", "page-owner", "info"])
    def test_json_is_what_the_schema_says(self, mmdump: Mmdump, sample: Sample, command: str) -> None:
        run = mmdump(command, sample.kdump, "-f", "json")
        assert run.status == 0
        result = json.loads(run.out)
        jsonschema.validate(result, SCHEMA)
        assert result["analysis"] == command

    def test_json_lines_and_csv_read_back_equal(self, mmdump: Mmdump, sample: Sample) -> None:
        whole = json.loads(mmdump("pinned", sample.kdump, "-f", "json").out)["tables"]["pages"]["rows"]
        assert len(whole) == 81
        lines = mmdump("pinned", sample.kdump, "-f", "jsonl").out.splitlines()
        assert [json.loads(line) for line in lines] == whole
        rows = list(csv.DictReader(io.StringIO(mmdump("pinned", sample.kdump, "-f", "csv").out)))
        for row, expected in zip(rows, whole, strict=True):
            for key, value in expected.items():
                text = "|".join(value) if isinstance(value, list) else "" if value is None else str(value)
                assert row[key] == text

    @pytest.mark.parametrize(
        ("condition", "count"),
        [
            ("order >= 9", 1),
            ("pfn >= 0x1be00", 16),
            ("evidence = 'foll_pin'", 65),
            ("array_contains(evidence, 'page_pinner') AND state = 'held'", 6),
            ("owner_comm = 'work' AND owner_pid = 70 AND excess > 0", 8),
        ],
    )
    def test_conditions_choose_rows(self, mmdump: Mmdump, sample: Sample, condition: str, count: int) -> None:
        run = mmdump("pinned", sample.kdump, "--where", condition, "-f", "jsonl")
        assert run.status == 0
        assert len(run.out.splitlines()) == count

    def test_a_wrong_condition_is_a_usage_error(self, mmdump: Mmdump, sample: Sample) -> None:
        assert "nonsense" in _fails(mmdump("pinned", sample.kdump, "--where", "nonsense = 1"), 2)

    def test_rows_of_one_area_only(self, mmdump: Mmdump, sample: Sample) -> None:
        run = mmdump("pinned", sample.kdump, "--cma", "reserved", "-f", "json")
        result = json.loads(run.out)
        assert {row["cma_area"] for row in result["tables"]["pages"]["rows"]} == {"reserved"}
        assert result["tables"]["cma"]["rows"][0]["area"] == "reserved"

    def test_an_unknown_area_is_a_usage_error_that_names_those_there_are(
        self, mmdump: Mmdump, sample: Sample
    ) -> None:
        assert "reserved" in _fails(mmdump("pinned", sample.kdump, "--cma", "nope"), 2)

    def test_an_output_file_is_not_overwritten_unless_forced(
        self, mmdump: Mmdump, sample: Sample, tmp_path: Path
    ) -> None:
        (tmp_path / "out.csv").write_text("mine")
        assert "out.csv" in _fails(mmdump("pinned", sample.kdump, "-o", "out.csv"), 2)
        assert (tmp_path / "out.csv").read_text() == "mine"
        assert mmdump("pinned", sample.kdump, "-o", "out.csv", "--force").status == 0
        assert (tmp_path / "out.csv").read_text().startswith("pfn,")

    def test_a_dump_without_debug_info_says_how_to_give_it(
        self, mmdump: Mmdump, sample: Sample, tmp_path: Path
    ) -> None:
        shutil.copy(sample.kdump, tmp_path / "core")
        error = _fails(mmdump("pinned", "core"), 3)
        assert "70ae118e8b1e" in error
        assert "-s" in error

    def test_debug_info_of_another_kernel_is_refused_naming_both(
        self, mmdump: Mmdump, sample: Sample, tmp_path: Path
    ) -> None:
        other = bytearray(sample.vmlinux.read_bytes())
        build_id = bytes.fromhex("70ae118e8b1e126ce6fa013006c06724c39e42c3")
        at = other.find(build_id)
        assert at > 0
        other[at : at + 2] = b"\xde\xad"
        (tmp_path / "other.debug").write_bytes(other)
        error = _fails(mmdump("pinned", sample.kdump, "-s", "other.debug"), 3)
        assert "70ae118e8b1e" in error
        assert "dead118e" in error or "dead8e8b" in error
        assert mmdump("pinned", sample.kdump, "-s", "other.debug", "--force-symbols").status == 0

    @pytest.mark.parametrize("size", [0, 100, 5000, 70_000, 2_000_000, 12_000_000])
    def test_a_truncated_dump_gives_an_error_or_a_partial_result_that_says_so(
        self, mmdump: Mmdump, sample: Sample, tmp_path: Path, size: int
    ) -> None:
        (tmp_path / "core").write_bytes(sample.kdump.read_bytes()[:size])
        run = mmdump("pinned", "core", "-s", sample.vmlinux, "-f", "json")
        assert run.status in (3, 5)
        assert "Traceback" not in run.err
        assert run.err
        if run.status == 5 and run.out:
            coverage = json.loads(run.out)["coverage"]
            parts = ("read", "unreadable", "zero_filled", "erased")
            assert coverage["pages"] == sum(coverage[part] for part in parts)
            assert coverage["unreadable"] > 0
