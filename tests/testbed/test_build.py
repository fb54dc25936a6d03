"""What decides a kernel's build, without building one: fragments and their check, patches, hash, cache."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from testbed import build, cache, configuration, kernels, running, sources
from testbed.configuration import Setting
from testbed.errors import BuildError
from testbed.kernels import KERNELS, Kernel
from testbed.sources import Tarball

FRAGMENTS = sorted(kernels.FRAGMENTS.glob("*.config"))
PATCHES = sorted(kernels.PATCHES.glob("*.patch"))
README = (kernels.HERE.parent / "README.md").read_text()


def settings(text: str) -> list[Setting]:
    return configuration.parse_fragment(text, "a.config")


# ---- fragments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_every_line_of_a_fragment_has_a_reason_of_its_own(path: Path) -> None:
    found = configuration.parse_fragment(path.read_text(), path.name)
    assert found
    assert [setting.where for setting in found if len(setting.reason) < 5] == []


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_a_reason_names_no_symbol_with_its_prefix(path: Path) -> None:
    # merge_config.sh takes any line with CONFIG_X in it for a setting of X.
    found = configuration.parse_fragment(path.read_text(), path.name)
    assert [setting.where for setting in found if "CONFIG_" in setting.reason] == []


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_no_fragment_says_a_thing_twice(path: Path) -> None:
    symbols = [setting.symbol for setting in configuration.parse_fragment(path.read_text(), path.name)]
    assert len(symbols) == len(set(symbols))


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_readme_tells_of_every_fragment(path: Path) -> None:
    assert f"`{path.name}`" in README


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda kernel: kernel.name)
def test_the_fragments_of_a_kernel_agree(kernel: Kernel) -> None:
    values: dict[str, str] = {}
    for path in kernel.fragment_files():
        for setting in configuration.parse_fragment(path.read_text(), path.name):
            assert values.setdefault(setting.symbol, setting.value) == setting.value, setting.where


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda kernel: kernel.name)
def test_what_the_catalogue_names_exists(kernel: Kernel) -> None:
    assert all(path.is_file() for path in [*kernel.fragment_files(), *kernel.patch_files()])


def test_a_fragment_is_read_as_merge_config_reads_it() -> None:
    a, b, c = settings(
        "# Heading.\n\n# Why a.\nCONFIG_A=y\n#? Why b,\n# in two lines.\n# CONFIG_B is not set\n"
        '# Why c.\nCONFIG_C="x y"\n'
    )
    assert a == Setting("CONFIG_A", "y", optional=False, reason="Why a.", where="a.config:4")
    assert b == Setting("CONFIG_B", "n", optional=True, reason="Why b, in two lines.", where="a.config:7")
    assert (c.value, c.optional) == ('"x y"', False)


def test_a_comment_belongs_to_the_next_line_only() -> None:
    first, second, third = settings("# Why.\nCONFIG_A=y\nCONFIG_B=y\n# A heading.\n\nCONFIG_C=y\n")
    assert (first.reason, second.reason, third.reason) == ("Why.", "", "")


@pytest.mark.parametrize("line", ["CONFIG_A = y", "A=y", "CONFIG_A=y # why", " CONFIG_A=y"])
def test_a_line_that_is_no_setting_is_named(line: str) -> None:
    if line.startswith("CONFIG_A=y"):
        # It is one, but its value is not what was meant: the check will say so.
        assert settings(line)[0].value == "y # why"
        return
    with pytest.raises(BuildError, match=r"a\.config:2"):
        settings(f"# Why.\n{line}\n")


# ---- the check ---------------------------------------------------------------------------------------


def wrong(fragment: str, config: str, known: str = "A B C") -> list[str]:
    symbols = {f"CONFIG_{name}" for name in known.split()}
    return configuration.check_config(settings(fragment), configuration.parse_config(config), symbols)


def test_a_configuration_with_every_line_is_right() -> None:
    config = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x"\nCONFIG_MORE=y\n'
    assert wrong('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x"\n', config) == []


def test_a_line_that_kconfig_dropped_is_named_with_its_place() -> None:
    assert wrong("CONFIG_A=y\nCONFIG_B=8\n", "CONFIG_A=y\n") == ["a.config:2: CONFIG_B is n, wanted 8"]
    assert wrong("CONFIG_B=8\n", "CONFIG_B=64\n") == ["a.config:1: CONFIG_B is 64, wanted 8"]
    assert wrong("CONFIG_A=y\n", "CONFIG_A=m\n") == ["a.config:1: CONFIG_A is m, wanted y"]


def test_a_line_that_something_else_selected_is_named() -> None:
    assert wrong("# CONFIG_A is not set\n", "CONFIG_A=y\n") == ["a.config:1: CONFIG_A is y, wanted n"]


def test_a_symbol_that_the_kernel_does_not_have_is_named_unless_marked() -> None:
    assert wrong("CONFIG_NEW=y\n", "") == ["a.config:1: CONFIG_NEW does not exist in this kernel"]
    assert wrong("#? Newer kernels.\nCONFIG_NEW=y\n", "") == []


def test_the_mark_does_not_excuse_a_symbol_that_exists() -> None:
    assert wrong("#? Newer kernels.\nCONFIG_A=y\n", "") == ["a.config:2: CONFIG_A is n, wanted y"]


def test_a_symbol_that_does_not_exist_is_as_good_as_unset() -> None:
    assert wrong("# CONFIG_OLD is not set\n", "") == []


def test_the_last_of_several_settings_counts() -> None:
    assert wrong("CONFIG_A=y\n# CONFIG_A is not set\n", "") == []
    assert wrong("# CONFIG_A is not set\nCONFIG_A=y\n", "") == ["a.config:2: CONFIG_A is n, wanted y"]


def test_symbols_are_those_of_the_architecture(tmp_path: Path) -> None:
    for place, symbol in (
        ("Kconfig", "ROOT"), ("mm/Kconfig.debug", "PAGES"), ("drivers/a/Kconfig", "DRIVER"),
        ("arch/Kconfig", "ALL_ARCHES"), ("arch/x86/Kconfig.cpu", "X86_ONLY"),
        ("arch/arm64/Kconfig", "ARM_ONLY"), ("tools/x/Kconfig", "NOT_THE_KERNEL"),
    ):  # fmt: skip
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"config {symbol}\n\tbool\n\tdepends on config\nif Y\n  menuconfig {symbol}_2\nendif\n"
        )
    common = {"ROOT", "PAGES", "DRIVER", "ALL_ARCHES"}
    for arch, own in (("x86_64", "X86_ONLY"), ("arm64", "ARM_ONLY")):
        names = {name.removeprefix("CONFIG_") for name in configuration.known_symbols(tmp_path, arch)}
        assert names == {f"{name}{suffix}" for name in {*common, own} for suffix in ("", "_2")}


# ---- patches -----------------------------------------------------------------------------------------


def pristine(package: str, names: list[str], work: Path) -> Path:
    """Return a directory with those files of a kernel source, unpatched; skip where no source is at hand."""
    downloads = cache.cache_root() / "downloads"
    at_hand = [sources.INSTALLED / f"{package}.tar.xz", *downloads.glob(f"{package}_*.tar.xz")]
    tarball = next((path for path in at_hand if path.is_file()), None)
    if tarball is None:
        pytest.skip(f"{package} is neither installed nor in the test bed's cache")
    # Decompressing takes many seconds: done once where there is a place to keep the result.
    kept = Path(os.environ.get("MMDUMP_TEST_CACHE") or work) / "kernel-source"
    names_hash = hashlib.sha256(" ".join(names).encode()).hexdigest()[:8]
    target = kept / f"{package}-{tarball.stat().st_size}-{names_hash}"
    if not target.exists():
        members = [f"{package}/{name}" for name in names]
        options = ["--strip-components=1", "--occurrence=1"]
        with cache.published(target) as out:
            subprocess.run(["tar", "-xf", tarball, "-C", out, *options, *members], check=True)
    return target


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_patch_applies_exactly(patch: Path, tmp_path: Path) -> None:
    changed = re.findall(r"^--- a/(\S+)", patch.read_text(), re.MULTILINE)
    source = pristine("linux-source-" + patch.stem.rsplit("-", 1)[1], changed, tmp_path)
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    sources.apply_patch(patch, tree)
    assert "PAGE_EXT_PINNER" in (tree / "include/linux/page_ext.h").read_text()
    with pytest.raises(BuildError, match=re.escape(patch.name)):
        sources.apply_patch(patch, tree)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_the_events_are_those_of_the_rfc(patch: Path) -> None:
    text = patch.read_text()
    fields = re.findall(r"^\+\t\t__field\((.*), (\w+)\)$", text, re.MULTILINE)
    assert fields == [
        ("unsigned long", "pfn"), ("unsigned long", "flags"), ("int", "count"), ("int", "mapcount"),
        ("void *", "mapping"), ("int", "mt"),
    ]  # fmt: skip
    assert '"pfn=0x%lx flags=%s count=%d mapcount=%d mapping=%p mt=%d"' in text


# ---- the hash ----------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel of one fragment and one patch, which tests may change."""
    monkeypatch.setattr(kernels, "FRAGMENTS", tmp_path)
    monkeypatch.setattr(kernels, "PATCHES", tmp_path)
    (tmp_path / "a.config").write_text("# Why.\nCONFIG_A=y\n")
    (tmp_path / "b.config").write_text("# Why.\nCONFIG_B=y\n")
    (tmp_path / "p.patch").write_text("About it.\n---\ndiff --git a/x b/x\n+new\n")
    return dataclasses.replace(KERNELS["6.12"], fragments=("a", "b"), patches=("p",))


def hash_of(kernel: Kernel, version: str = "6.12.1-1", compiler: str = "gcc 12") -> str:
    tarball = Tarball("linux-source-6.12", version, Path("anywhere.tar.xz"))
    return build.hash_of(build.inputs_of(kernel, tarball, compiler))


def test_the_hash_changes_with_every_input(
    small: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = [hash_of(small), hash_of(small, version="6.12.2-1"), hash_of(small, compiler="gcc 13")]
    hashes.append(hash_of(dataclasses.replace(small, arch="arm64")))
    hashes.append(hash_of(dataclasses.replace(small, fragments=("b", "a"))))
    hashes.append(hash_of(dataclasses.replace(small, patches=())))
    (tmp_path / "a.config").write_text("# Why.\n# CONFIG_A is not set\n")
    hashes.append(hash_of(small))
    (tmp_path / "p.patch").write_text("About it.\n---\ndiff --git a/x b/x\n+newer\n")
    hashes.append(hash_of(small))
    monkeypatch.setattr(build, "RECIPE", build.RECIPE + 1)
    hashes.append(hash_of(small))
    assert len(set(hashes)) == len(hashes)


def test_the_hash_does_not_change_with_words_and_places(small: Kernel, tmp_path: Path) -> None:
    before = hash_of(small)
    (tmp_path / "a.config").write_text("# A better reason.\nCONFIG_A=y\n")
    (tmp_path / "p.patch").write_text("Better words.\n---\ndiff --git a/x b/x\n+new\n")
    assert hash_of(small) == before
    inputs = build.inputs_of(small, Tarball("linux-source-6.12", "1", tmp_path / "x.tar.xz"), "gcc")
    assert str(tmp_path) not in json.dumps(inputs)


# ---- sources -----------------------------------------------------------------------------------------


def test_the_newest_source_package_is_by_number() -> None:
    names = [
        "linux-source-7.9",
        "linux-source-7.10",
        "linux-source-6.12",
        "linux-source",
        "linux-source-7.10-rt",
    ]
    assert sources._newest_name(names, "linux-source-7.*") == "linux-source-7.10"
    assert sources._newest_name(names, "linux-source-6.1") is None
    assert sources._newest_name(names, "linux-source-6.12") == "linux-source-6.12"


def test_a_source_fetched_before_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMDUMP_TESTBED_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "INSTALLED", tmp_path / "none")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in ("linux-source-7.1_7.1.9-1", "linux-source-7.2_7.2.2-1", "linux-source-7.2_7.2.13-1"):
        (downloads / f"{name}.tar.xz").touch()
    found = sources.find_source(kernels.Source("linux-source-7.*", "sid"), log=pytest.fail)
    assert (found.package, found.version) == ("linux-source-7.2", "7.2.13-1")


# ---- running -----------------------------------------------------------------------------------------


def test_a_failed_step_says_its_last_words() -> None:
    with pytest.raises(BuildError, match=r"(?s)^Trying failed \(exit status 3\):\n    one\n    two$"):
        running.run_step(["sh", "-c", "echo one; echo two; exit 3"], "Trying")


def test_a_failed_step_says_errors_far_above_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(BuildError) as failure:
        running.run_logged(
            ["sh", "-c", "echo x.c:1: $WHAT: bad; seq 100; exit 1"], "Trying", log, {"WHAT": "error"}
        )
    lines = str(failure.value).splitlines()
    assert lines[0] == f"Trying failed (exit status 1), see {log}:"
    assert "    x.c:1: error: bad" in lines
    assert lines[-1].strip() == "100"
    assert "50" in log.read_text()


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(BuildError, match=r"Trying: no-such-program: No such file"):
        running.run_step(["no-such-program"], "Trying")


# ---- the cache ---------------------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MMDUMP_TESTBED_CACHE", raising=False)
    assert cache.cache_root() == tmp_path / "xdg/mmdump-testbed"
    monkeypatch.setenv("MMDUMP_TESTBED_CACHE", str(tmp_path / "own"))
    assert cache.cache_root() == tmp_path / "own"
    assert cache.cache_root().is_dir()


def test_what_is_published_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "kernels/a"

    def fail() -> None:
        with cache.published(target) as work:
            (work / "image").touch()
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert list(target.parent.iterdir()) == []
    with cache.published(target) as work:
        (work / "image").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["image"]


def test_a_name_points_to_the_newest(tmp_path: Path) -> None:
    for name in ("6.12-aaa", "6.12-bbb"):
        (tmp_path / name).mkdir()
        cache.point(tmp_path / "6.12", tmp_path / name)
        assert (tmp_path / "6.12").resolve() == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6.12", "6.12-aaa", "6.12-bbb"]


def test_two_builds_of_one_kernel_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMDUMP_TESTBED_CACHE", str(tmp_path))
    order = []

    def second() -> None:
        with cache.locked("6.12"):
            order.append("second")

    with cache.locked("6.12"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.2)
        order.append("first")
        with cache.locked("6.1"):
            pass  # another kernel's lock is free
    thread.join(timeout=10)
    assert order == ["first", "second"]
