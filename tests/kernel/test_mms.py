"""The list of tasks, whole and broken: it leads to address spaces, and always to an end."""

from __future__ import annotations

import drgn
import pytest

from mmdump.kernel import mms
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.model.machine import Machine
from mmdump_snapshots.writer.image import Image, build


@pytest.fixture(scope="module")
def image() -> Image:
    kernel = profile("6.12")
    machine = Machine(kernel.era, arch=kernel.arch, memory=128 << 20)
    for number in range(4):
        machine.task(f"worker/{number}", 100 + number)
    return build(machine, kernel, kaslr=5)


def spoilt_by(image: Image, words: dict[int, int]) -> drgn.Program:
    """A program whose memory differs from the image's in some words, by address."""
    prog = image.target().prog
    for address, word in words.items():

        def read(_: int, size: int, offset: int, __: bool, word: int = word) -> bytes:
            return word.to_bytes(8, "little")[offset : offset + size]

        prog.add_memory_segment(address, 8, read)
    return prog


def tasks(prog: drgn.Program) -> list[drgn.Object]:
    return list(mms.each_leader(prog))


def test_every_task_is_found_and_none_has_an_address_space_here(image: Image) -> None:
    prog = image.target().prog
    names = {task.comm.string_().decode() for task in tasks(prog)}
    assert {f"worker/{number}" for number in range(4)} <= names
    assert mms.read_address_spaces(prog) == mms.AddressSpaces(())


@pytest.mark.parametrize("leads", ["to itself", "nowhere", "to zero"])
def test_a_list_that_breaks_off_ends_there_and_says_so(image: Image, leads: str) -> None:
    prog = image.target().prog
    third = tasks(prog)[2]
    link = third.tasks.address_of_().value_()
    where = {"to itself": link, "nowhere": 0xDEAD000000000100, "to zero": 0}[leads]
    spoilt = spoilt_by(image, {link: where})
    assert not mms.read_address_spaces(spoilt).complete


def test_processes_of_one_address_space_are_together(image: Image) -> None:
    prog = image.target().prog
    first, second = tasks(prog)[:2]
    init_mm = prog["init_mm"].address_of_().value_()
    words = {task.mm.address_of_().value_(): init_mm for task in (first, second)}
    spoilt = spoilt_by(image, words)
    [space] = mms.read_address_spaces(spoilt).spaces
    assert space.address == init_mm
    assert space.pgd == prog["init_mm"].pgd.value_()
    assert [pid for pid, _ in space.processes] == [first.tgid.value_(), second.tgid.value_()]
