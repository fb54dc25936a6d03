"""The plugin as its users have it: installed, found by mmdump, and run as a command."""

import json
import subprocess
import sys

import pytest


def mmdump(*arguments, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "mmdump", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    mmdump("snapshot", "generate", "mapped-while-free", "-o", out)
    return out / "vmcore"


def test_mmdump_finds_it():
    result = json.loads(mmdump("plugins", "-f", "json").stdout)
    [row] = [row for row in result["tables"]["plugins"]["rows"] if row["plugin"] == "table_check"]
    assert (row["state"], row["source"]) == ("on", "mmdump-table-check 1.0")
    assert len(row["hooks"]) == 4


def test_its_command_counts_mappings_and_finds_the_page(vmcore):
    result = json.loads(mmdump("table-check", vmcore, "-f", "json").stdout)
    states = {row["state"]: row for row in result["tables"]["states"]["rows"]}
    assert states["anonymous"] == {"state": "anonymous", "pages": 100, "mappings": 100}
    [suspect] = result["tables"]["suspects"]["rows"]
    assert (suspect["state"], suspect["anon"], suspect["file"]) == ("free", 1, 0)
    [finding] = result["findings"]
    assert finding["key"] == "table-check-free"
    rows = mmdump("table-check", vmcore, "--where", finding["where"], "-f", "jsonl").stdout
    assert json.loads(rows) == suspect


def test_its_option_works(vmcore):
    result = json.loads(mmdump("table-check", vmcore, "--least", 2, "-f", "json").stdout)
    assert result["tables"]["states"]["rows"] == []


def test_it_has_a_note_on_single_pages(vmcore):
    [row] = mmdump("table-check", vmcore, "-f", "jsonl").stdout.splitlines()
    text = mmdump("page", vmcore, json.loads(row)["pfn"]).stdout
    assert "the first page of a free block" in text
    assert any(
        line.split() == ["table", "check", "mapped", "as", "anonymous", "1", "-"]
        for line in text.splitlines()
    ), text


def test_it_has_a_section_and_a_finding_in_the_report(vmcore):
    text = mmdump("report", vmcore, "-f", "md").stdout
    assert "table-check" in text
    assert "1 page(s) are free, and page tables map them" in " ".join(text.split())


def test_a_kernel_that_does_not_count_says_how_to_make_it(tmp_path):
    mmdump("snapshot", "generate", "idle", "-o", tmp_path)
    done = mmdump("table-check", tmp_path / "vmcore", status=4)
    assert "page_table_check was built in but is off: boot with page_table_check=on" in done.stderr
    # And what others keep in page_ext is where it was.
    assert "allocated" in mmdump("page-owner", tmp_path / "vmcore").stdout


def test_it_is_left_out_when_told():
    done = mmdump("--disable-plugin", "table_check", "table-check", status=2)
    assert "No such command" in done.stderr
