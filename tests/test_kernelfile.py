"""Finding a kernel file by its path, by the end of it, and by a name that only the dump knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mmdump.errors import UsageError
from mmdump.kernelfile import KernelFile, find_kernel_file
from mmdump.plugins import load_plugins


def _read(_kernel: Any, _ranges: Any, *names: str) -> Iterator[bytes]:
    yield ",".join(names).encode()


def _why_not(_kernel: Any, *names: str) -> str | None:
    return f"no {names}" if "none" in names else None


FILES = [
    KernelFile(path, "", _read, why_not=_why_not)
    for path in ("/proc/used", "/d/cma/*/used", "/d/cma/*/ranges/*/bitmap", "/d/cma/*/bitmap", "/a/x", "/b/x")
]


def _found(wanted: str) -> tuple[str, str]:
    file = find_kernel_file(FILES, wanted)
    return file.path, b"".join(file.read(None, None)).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "path", "names"),
    [
        ("/proc/used", "/proc/used", ""),
        ("used", "/proc/used", ""),
        ("/d/cma/reserved/used", "/d/cma/reserved/used", "reserved"),
        ("reserved/used", "/d/cma/reserved/used", "reserved"),
        ("cma/it's 1/used", "/d/cma/it's 1/used", "it's 1"),
        ("a/ranges/7/bitmap", "/d/cma/a/ranges/7/bitmap", "a,7"),
        ("proc/used", "/proc/used", ""),
    ],
)
def test_a_file_is_found_and_knows_what_was_named(wanted: str, path: str, names: str) -> None:
    assert _found(wanted) == (path, names)
    assert find_kernel_file(FILES, wanted).why_not(None) is None  # type: ignore[arg-type]


def test_why_there_is_no_such_file_depends_on_the_name() -> None:
    assert find_kernel_file(FILES, "none/used").why_not(None) == "no ('none',)"  # type: ignore[arg-type]


def test_two_ways_to_one_file_are_one() -> None:
    twice = [*FILES, KernelFile("/also/proc/used", "", _read, same_as="/proc/used")]
    assert find_kernel_file(twice, "used").path == "/also/proc/used"
    assert find_kernel_file(twice, "/proc/used").path == "/proc/used"
    starred = [KernelFile("/d/*/y", "", _read), KernelFile("/e/*/y", "", _read, same_as="/d/*/y")]
    assert find_kernel_file(starred, "name/y").path == "/d/name/y"


@pytest.mark.parametrize(
    "wanted",
    ["bitmap", "x", "/d/cma//used", "/cma/a/used", "ranges/1/bitmap/", "/", "", "a/b/c/d/e/f/used"],
)
def test_what_names_no_file_or_several_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError):
        find_kernel_file(FILES, wanted)


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("pageowner", "Did you mean /sys/kernel/debug/page_owner?"),
        ("/proc/buddyinf", "Did you mean /proc/buddyinfo?"),
        ("page_owner_stacks", "show_stacks"),
        ("kpageflag", "/proc/kpageflags"),
        ("/proc/meminfo/x/y/z", ""),
        ("frobnicate", ""),
    ],
)
def test_a_wrong_name_brings_those_like_it_and_the_way_to_all(wanted: str, meant: str) -> None:
    files = load_plugins(disabled=["*"]).kernel_files()
    with pytest.raises(UsageError) as raised:
        find_kernel_file(files, wanted)
    hint = raised.value.hint or ""
    assert hint.endswith("mmdump cat --list shows all that there are.")
    assert meant in hint
    assert ("Did you mean" in hint) == bool(meant)
    assert len(hint) < 300
