"""Damaged CMA areas: whatever is in the dump, there is an answer, and what is missing is said."""

from __future__ import annotations

from random import Random

import pytest

from mmdump.errors import MmdumpError
from mmdump.kernel import Kernel
from mmdump.kernelfile import find_kernel_file
from mmdump.result import Severity
from mmdump.scan import Ranges, run_one
from mmdump_cma import FILES, Cma
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model import Boot, Machine
from mmdump_snapshots.writer.image import Image, build


def _image(name: str) -> Image:
    boot = Boot(cma=(("reserved", 16 << 20), ("other", 8 << 20)))
    machine = Machine(profile(name).era, arch=profile(name).arch, memory=96 << 20, boot=boot)
    return build(machine, profile(name), kaslr=1)


def _areas(image: Image) -> int:
    """Where cma_areas is in physical memory."""
    return image.addresses.kernel_phys(image.vmlinux.symbols["cma_areas"].address)


def _answers(kernel: Kernel) -> None:
    try:
        if Cma().why_not(kernel) is None:
            run_one(kernel, Cma())
    except MmdumpError:
        pass
    for file in FILES:
        for area in ("reserved", "other"):
            wanted = find_kernel_file([file], file.path.replace("ranges/*", "ranges/0").replace("*", area))
            try:
                if wanted.why_not(kernel) is None:
                    b"".join(wanted.read(kernel, Ranges(kernel)))
            except MmdumpError:
                pass


@pytest.mark.parametrize("name", ["5.10", "6.12", "7.1"])
def test_whatever_the_bytes_there_is_an_answer(name: str) -> None:
    image, random = _image(name), Random(name)
    phys, size = _areas(image), image.profile.types.sizeof("struct cma")
    whole = image.memory.read(phys, 2 * size)
    for _ in range(40):
        raw = bytearray(whole)
        for _ in range(random.randrange(1, 6)):
            at = random.randrange(0, len(raw), 8)
            raw[at : at + 8] = random.choice(
                [random.randbytes(8), b"\xff" * 8, bytes(8), random.randbytes(2) + bytes(6), whole[:8]]
            )
        image.memory.write(phys, raw)
        with image.target() as target:
            _answers(Kernel(target))


@pytest.mark.parametrize("name", ["5.10", "6.12", "7.1"])
def test_a_bitmap_that_is_not_in_the_dump_leaves_its_area_unknown(name: str) -> None:
    image = _image(name)
    types, phys = image.profile.types, _areas(image)
    path = "ranges[0].bitmap" if image.profile.version >= (6, 15) else "bitmap"
    offset = types.member("struct cma", path).offset
    image.memory.write(phys + offset, (0xDEAD0000_00000000).to_bytes(8, "little"))
    with image.target() as target:
        kernel = Kernel(target)
        result = run_one(kernel, Cma())
        file = find_kernel_file(FILES, "reserved/bitmap")
        assert file.why_not(kernel) is None
        with pytest.raises(MmdumpError, match="is not in the dump"):
            b"".join(file.read(kernel, Ranges(kernel)))
    first, second = result.tables["areas"].frame.to_dicts()
    assert [first[name] for name in ("used", "free", "longest_clear", "longest_now", "free_allocated")] == (
        [None] * 5
    )
    assert second["used"] == 0
    assert [each for each in result.incomplete if "reserved" in each]
    assert result.findings == []


def test_a_count_that_is_not_that_of_the_bitmap_is_a_warning() -> None:
    image = _image("7.1")
    offset = image.profile.types.member("struct cma", "available_count").offset
    image.memory.write(_areas(image) + offset, (5).to_bytes(8, "little"))
    with image.target() as target:
        [finding] = run_one(Kernel(target), Cma()).findings
    assert (finding.key, finding.severity) == ("cma-count", Severity.WARNING)
    assert "reserved" in finding.message


def test_areas_larger_than_memory_together_are_garbage() -> None:
    image = _image("6.12")
    types, phys = image.profile.types, _areas(image)
    for index in range(2):
        for member, value in (("base_pfn", 0), ("count", 20000)):
            at = phys + index * types.sizeof("struct cma") + types.member("struct cma", member).offset
            image.memory.write(at, value.to_bytes(8, "little"))
    with image.target() as target, pytest.raises(MmdumpError, match="garbage"):
        run_one(Kernel(target), Cma())
