"""The kernel's log: both forms of its buffer, messages that wrap around, and rings that are garbage."""

from __future__ import annotations

import struct

import pytest
from drgn import Object

from mmdump.kernel.log import Message, read_log
from mmdump.kernel.machine import LastWords, read_last_words
from tests.kernel.builders import Kernelish

PRB, DESCS, INFOS, TEXT, BUFFER = (0xFFFF888000010000 + 0x10000 * each for each in range(5))
COMMITTED, FINALIZED, REUSABLE = 1, 2, 3
BITS, TEXT_BITS = 3, 8
#: The first descriptor of a kernel has an ID close to where 32 bits end.
FIRST = 0xFFFFFFFE
MASK = (1 << 64) - 1


def rings(
    *texts: bytes,
    states: dict[int, int] | None = None,
    at: int = 0,
    bits: int = BITS,
    tail: int = FIRST,
    holes: tuple[int, ...] = (),
) -> Kernelish:
    """A log of Linux 5.10 and later: descriptors in a ring of 8, text in one of 256 bytes.

    :param states: Of messages that are not finalized, by their number.
    :param at: Logical position of the first text.
    """
    descs, infos = bytearray(24 << BITS), bytearray(16 << BITS)
    text, where = bytearray(1 << TEXT_BITS), at
    for number, words in enumerate(texts):
        slot = (FIRST + number) % (1 << BITS)
        need = 8 + -(-len(words) // 8) * 8
        start = where % len(text)
        begin = where
        if start + need > len(text):
            # It goes to the beginning of the ring, after what is left of this round.
            where, start = (where >> TEXT_BITS) + 1 << TEXT_BITS, 0
        where += need
        text[start + 8 : start + 8 + len(words)] = words
        state = (states or {}).get(number, FINALIZED)
        struct.pack_into("<QQQ", descs, 24 * slot, state << 62 | FIRST + number, begin & MASK, where & MASK)
        struct.pack_into("<QH", infos, 16 * slot, 1000 * number, len(words))
    ring = struct.pack("<IIQQQQIIQ", bits, 0, DESCS, INFOS, FIRST + len(texts) - 1, tail, TEXT_BITS, 0, TEXT)
    made = Kernelish({PRB: ring, DESCS: bytes(descs), INFOS: bytes(infos), TEXT: bytes(text)}, holes)
    prog, u16, u32, u64 = made.prog, made.integer(2), made.integer(4), made.integer(8)
    made.types["unsigned long"] = prog.int_type("unsigned long", 8, False)
    atomic = made.struct("atomic_long", 8, {"counter": (made.integer(8, signed=True), 0)})
    position = made.struct("prb_data_blk_lpos", 16, {"begin": (u64, 0), "next": (u64, 8)})
    desc = made.struct("prb_desc", 24, {"state_var": (atomic, 0), "text_blk_lpos": (position, 8)})
    info = made.struct("printk_info", 16, {"ts_nsec": (u64, 0), "text_len": (u16, 8)})
    desc_ring = made.struct(
        "prb_desc_ring",
        40,
        {
            "count_bits": (u32, 0),
            "descs": (prog.pointer_type(desc), 8),
            "infos": (prog.pointer_type(info), 16),
            "head_id": (atomic, 24),
            "tail_id": (atomic, 32),
        },
    )
    data = made.struct(
        "prb_data_ring", 16, {"size_bits": (u32, 0), "data": (prog.pointer_type(made.integer(1)), 8)}
    )
    both = made.struct("printk_ringbuffer", 56, {"desc_ring": (desc_ring, 0), "text_data_ring": (data, 40)})
    made.objects["prb"] = Object(prog, prog.pointer_type(both), value=PRB)
    made.constant("desc_committed", COMMITTED)
    made.constant("desc_finalized", FINALIZED)
    return made


def buffer(data: bytes, first: int, after: int) -> Kernelish:
    """A log of Linux 5.9 and earlier."""
    made = Kernelish({BUFFER: data})
    prog, u16 = made.prog, made.integer(2)
    made.struct("printk_log", 16, {"ts_nsec": (made.integer(8), 0), "len": (u16, 8), "text_len": (u16, 10)})
    made.objects["log_buf"] = Object(prog, prog.pointer_type(made.integer(1)), value=BUFFER)
    for name, value in (("log_buf_len", len(data)), ("log_first_idx", first), ("log_next_idx", after)):
        made.constant(name, value, 4)
    return made


def record(nsec: int, text: bytes) -> bytes:
    return struct.pack("<QHHHBB", nsec, 16 + -(-len(text) // 8) * 8, len(text), 0, 0, 0) + text.ljust(
        -(-len(text) // 8) * 8, b"\0"
    )


def texts(made: Kernelish) -> list[bytes]:
    return [each.text for each in read_log(made.target)]


def test_the_newest_message_comes_first_with_its_time() -> None:
    made = rings(b"one", b"two", b"three")
    assert list(read_log(made.target)) == [Message(2000, b"three"), Message(1000, b"two"), Message(0, b"one")]


@pytest.mark.parametrize("at", [0, 40, 200, 216, 232, 240, MASK + 1 - 256 + 216])
def test_a_message_that_does_not_fit_before_the_end_of_the_ring_is_at_its_beginning(at: int) -> None:
    # Each takes 32 bytes; where 8 more are left than that, and less, the ring goes around.
    words = [b"a" * 24, b"b" * 20, b"c" * 17]
    assert texts(rings(*words, at=at)) == words[::-1]


def test_what_is_being_written_or_is_reused_is_no_message() -> None:
    made = rings(b"old", b"reserved", b"committed", b"new", states={0: REUSABLE, 1: 0, 2: COMMITTED})
    assert texts(made) == [b"new", b"committed"]


def test_a_tail_that_is_garbage_has_an_end() -> None:
    assert texts(rings(b"one", b"two", tail=12345)) == [b"two", b"one"]


@pytest.mark.parametrize("bits", [0, 27, 0xFFFFFFFF])
def test_a_ring_of_an_impossible_size_has_no_messages(bits: int) -> None:
    assert texts(rings(b"one", bits=bits)) == []


@pytest.mark.parametrize("hole", [DESCS, INFOS, TEXT])
def test_what_is_not_in_the_dump_is_left_out(hole: int) -> None:
    made = rings(b"one", b"two", holes=(hole,))
    assert texts(made) == []
    assert read_last_words(made.target).lost


def test_records_of_older_kernels_wrap_where_one_has_no_length() -> None:
    one, two, three = record(1, b"first"), record(2, b"second"), record(3, b"third")
    data = (three + bytes(72 - len(three))) + one + two + bytes(16)
    assert texts(buffer(data, 72, len(three))) == [b"third", b"second", b"first"]


@pytest.mark.parametrize(
    "data",
    [
        record(1, b"only") + struct.pack("<QHH", 2, 8, 4) + bytes(52),
        record(1, b"only") + bytes(64),
        record(1, b"only") + b"\xff" * 64,
    ],
)
def test_records_that_are_garbage_have_an_end(data: bytes) -> None:
    assert b"only" in texts(buffer(data, 0, len(data)))


def test_a_kernel_without_a_log_says_nothing() -> None:
    assert read_last_words(Kernelish().target) == LastWords()


def test_the_last_words_are_the_panic_and_the_bug_before_it() -> None:
    made = rings(
        b"BUG: Bad page state in process a",
        b"BUG: kernel NULL pointer dereference",
        b"Oops: 0002",
        b"Kernel panic - not syncing: \x1b[31mx",
    )
    words = read_last_words(made.target)
    assert words.panic == "Kernel panic - not syncing: \\x1b[31mx"
    assert words.bug == "Oops: 0002"
    assert not words.lost
