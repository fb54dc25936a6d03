"""Output that cannot be written: a reader that is gone, a full disk. Neither is a bug of mmdump."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORMATS = ["text", "json", "jsonl", "csv", "parquet"]
LIST = [sys.executable, "-m", "mmdump", "snapshot", "list", "-f"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_one_sentence_and_a_status_of_its_own(name: str) -> None:
    with open("/dev/full", "wb") as full:
        run = subprocess.run([*LIST, name], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr) == (6, "mmdump: standard output: No space left on device.\n")


@pytest.mark.parametrize("name", FORMATS)
def test_a_reader_that_is_gone_is_no_error(name: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb") as pipe:
        run = subprocess.run([*LIST, name], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr) == (141, "")


#: Writes so many rows as Parquet where files may be so large.
WRITE = """
import resource, sys
import polars as pl
from mmdump.errors import OutputError
from mmdump.render import RenderOptions, open_output, open_renderer
from mmdump.result import Column, Kind, Result, Schema

rows, most = map(int, sys.argv[1:3])
schema = Schema("pages", (Column("pfn", Kind.PFN),))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    with open_output(sys.argv[3]) as out:
        renderer = open_renderer("parquet", out, RenderOptions(table="pages"))
        renderer.begin(schema)
        for start in range(0, rows, 1 << 16):
            renderer.rows(pl.DataFrame({"pfn": pl.int_range(start, start + (1 << 16), eager=True).shuffle()}))
        renderer.finish(Result("pages", primary="pages"))
except OutputError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    ("rows", "most", "where"),
    [
        pytest.param(1, 1 << 12, "mmdump-parquet-", id="a part"),
        pytest.param(10 << 16, 1 << 20, "mmdump-parquet-", id="the parts together"),
    ],
)
def test_parquet_says_which_file_has_no_room(tmp_path: Path, rows: int, most: int, where: str) -> None:
    given = [str(rows), str(most), str(tmp_path / "pages.parquet")]
    run = subprocess.run([sys.executable, "-c", WRITE, *given], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert where in run.stdout
    assert run.stdout.endswith(": File too large.\n")
    assert list(tmp_path.iterdir()) == []
