"""Kernels before 5.9 do not say their build ID: what a vmlinux of another one is known by."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mmdump.cli import cli
from mmdump.errors import OpenError
from mmdump.target import open_target

OLD = ("4.19", "5.4")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a dump of each of some kernels, in directories of their names."""
    base = tmp_path_factory.mktemp("machines")
    for kernel in (*OLD, "6.12"):
        arguments = ["snapshot", "generate", "idle", "--kernel", kernel, "-o", str(base / kernel)]
        cli.main(arguments, standalone_mode=False)
    return base


@pytest.mark.parametrize("kernel", OLD)
def test_the_right_vmlinux_is_taken_and_its_build_id_is_not_the_dumps(machines: Path, kernel: str) -> None:
    with open_target(machines / kernel / "vmcore") as target:
        assert target.debug_info is not None
        assert not target.debug_info.forced
        assert target.debug_info.build_id
        assert target.build_id is None


@pytest.mark.parametrize(("kernel", "other"), [("5.4", "6.12"), ("5.4", "4.19"), ("4.19", "5.4")])
def test_anothers_vmlinux_takes_force(machines: Path, kernel: str, other: str) -> None:
    dump, vmlinux = machines / kernel / "vmcore", machines / other / "vmlinux"
    with pytest.raises(OpenError) as caught:
        open_target(dump, symbols=[vmlinux])
    assert f"it is of Linux {other}.0" in caught.value.message
    assert f"is of Linux {kernel}.0" in caught.value.message
    with open_target(dump, symbols=[vmlinux], force=True) as target:
        assert target.debug_info is not None
        assert target.debug_info.forced


def test_files_without_contents_are_known_by_where_things_are(machines: Path, tmp_path: Path) -> None:
    for kernel in ("4.19", "5.4", "6.12"):
        stripped = ["objcopy", "--only-keep-debug", machines / kernel / "vmlinux", tmp_path / kernel]
        subprocess.run(stripped, check=True)
    dump = machines / "5.4" / "vmcore"
    with open_target(dump, symbols=[tmp_path / "5.4"]) as target:
        assert target.debug_info is not None
        assert not target.debug_info.forced
    with pytest.raises(OpenError, match=r"it has init_uts_ns at another place, .* is of Linux 5\.4\.0"):
        open_target(dump, symbols=[tmp_path / "6.12"])
    # All is at the same places, and something is of another size.
    with pytest.raises(OpenError, match=r"its size of pglist_data is 15\d+, not 15\d+"):
        open_target(dump, symbols=[tmp_path / "4.19"])


def test_one_of_another_kernel_beside_the_dump_is_passed_over(machines: Path, tmp_path: Path) -> None:
    (tmp_path / "vmcore").hardlink_to(machines / "5.4" / "vmcore")
    (tmp_path / "vmlinux").symlink_to(machines / "6.12" / "vmlinux")
    with pytest.raises(OpenError, match=r"Not used: .*vmlinux belongs to another kernel: it is of Linux 6"):
        open_target(tmp_path / "vmcore")
    (tmp_path / "vmlinux-5.4.0").symlink_to(machines / "5.4" / "vmlinux")
    assert open_target(tmp_path / "vmcore").debug_info.path.name == "vmlinux-5.4.0"  # type: ignore[union-attr]


def test_a_dump_that_is_a_link_has_debug_info_beside_the_link_or_beside_the_file(
    machines: Path, tmp_path: Path
) -> None:
    link = tmp_path / "vmcore"
    link.symlink_to(machines / "6.12" / "vmcore")
    with open_target(link) as target:
        assert target.debug_info is not None
        assert target.debug_info.path.parent == machines / "6.12"
        assert target.debug_info.source == "beside the dump"
    # What lies beside the link comes first, and where that is of another kernel the other is still found.
    (tmp_path / "vmlinux").symlink_to(machines / "6.12" / "vmlinux")
    with open_target(link) as target:
        assert target.debug_info is not None
        assert target.debug_info.path.parent == tmp_path
    (tmp_path / "vmlinux").unlink()
    (tmp_path / "vmlinux").symlink_to(machines / "5.4" / "vmlinux")
    with open_target(link) as target:
        assert target.debug_info is not None
        assert target.debug_info.path.parent == machines / "6.12"


@pytest.mark.parametrize("given", [True, False])
def test_a_vmlinux_that_is_cut_short_is_not_called_stripped(
    machines: Path, tmp_path: Path, given: bool
) -> None:
    whole = (machines / "6.12" / "vmlinux").read_bytes()
    cut = tmp_path / "vmlinux"
    dump = tmp_path / "vmcore"
    dump.symlink_to(machines / "6.12" / "vmcore") if given else shutil.copy(machines / "6.12/vmcore", dump)
    for size in (len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(OpenError) as caught:
            open_target(dump, symbols=[cut] if given else [])
        said = f"{caught.value.message} {caught.value.hint}"
        assert f"{cut} is cut short: " in said
        assert f"the file at {size}" in said
        assert "stripped" not in said
