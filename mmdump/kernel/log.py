"""The kernel's log, as ``dmesg`` prints it, newest message first (kernel: kernel/printk/printk.c).

Not :func:`drgn.helpers.linux.printk.get_printk_records`: it follows the rings of a damaged dump without end,
and takes the text of a message that wraps around the end of the ring from the wrong place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import FaultError

from mmdump.kernel.layout import find_object, find_type, struct_dtype

if TYPE_CHECKING:
    from drgn import Object

    from mmdump.kernel.arrays import Struct
    from mmdump.target import Target

__all__ = ["Message", "log_seconds", "read_log"]

#: How many messages are looked at, the newest: a log of 2 MiB holds no more.
_MOST = 1 << 15
#: Of a log; ``log_buf_len=`` may be up to 2 GiB, and only messages close to the end matter.
_MOST_BYTES = 64 << 20
#: log2 of the number of descriptors in a ring of 2 GiB.
_MOST_BITS = 26


class Message(NamedTuple):
    """A message: nanoseconds of ``local_clock()``, and its text as it is in the dump."""

    nsec: int
    text: bytes


def read_log(target: Target, lost: list[str] | None = None) -> Iterator[Message]:
    """The messages, newest first, at most 2**15; those that are overwritten, damaged or lost are left out.

    Nothing comes where the log is not in the dump, or not set up.

    :param lost: What could not be read is appended to it, as the pieces are come to.
    :raises drgn.FaultError: What leads to it is not in the dump.
    :raises UnsupportedError: Its structures have other members.
    """
    lost = [] if lost is None else lost
    # 5.10 replaced the one buffer of variable records with rings of descriptors and text.
    ring = find_object(target.prog, "prb")
    if ring is not None:
        if ring.value_():
            yield from _rings(target, ring, lost)
        return
    # drivers and the BPF verifier have had variables named log_buf too.
    buffer = find_object(target.prog, "log_buf", "printk.c")
    if buffer is not None and buffer.value_():
        yield from reversed(list(_buffer(target, buffer.value_(), lost)))


def _rings(target: Target, prb: Object, lost: list[str]) -> Iterator[Message]:
    """Linux 5.10 and later (kernel: kernel/printk/printk_ringbuffer.c: prb_read)."""
    prog = target.prog
    ring, text = prb.desc_ring, prb.text_data_ring
    bits, text_bits = ring.count_bits.value_(), text.size_bits.value_()
    if not 0 < bits <= _MOST_BITS or not 0 < text_bits < 32:
        return
    long = prog.type("unsigned long").size or 8
    # DESC_ID_MASK: the state is in the two highest bits.
    long_mask, id_mask = (1 << 8 * long) - 1, (1 << 8 * long - 2) - 1
    head, tail = (each.counter.value_() & id_mask for each in (ring.head_id, ring.tail_id))
    count = min(((head - tail) & id_mask) + 1, 1 << bits, _MOST)
    ids = (head - np.arange(count)) & id_mask
    descs = _newest(
        target,
        ring.descs,
        struct_dtype(
            prog,
            prog.type("struct prb_desc"),
            {
                "state": ["state_var"],
                "begin": ["text_blk_lpos.begin"],
                "next": ["text_blk_lpos.next"],
            },
        ),
        ids,
        bits,
        lost,
    )
    infos = _newest(
        target,
        ring.infos,
        struct_dtype(prog, prog.type("struct printk_info"), {"nsec": ["ts_nsec"], "length": ["text_len"]}),
        ids,
        bits,
        lost,
    )
    state = descs["state"].astype(np.uint64)
    whole = state & np.uint64(id_mask) == ids.astype(np.uint64)
    whole &= np.isin(
        state >> np.uint64(8 * long - 2),
        [np.uint64(prog[name].value_()) for name in ("desc_committed", "desc_finalized")],
    )
    size, data = 1 << text_bits, text.data.value_()
    for row in np.flatnonzero(whole).tolist():
        begin, after = int(descs["begin"][row]), int(descs["next"][row])
        # BLK_DATALESS(): an empty message. Positions begin one round before zero, and go on at zero.
        if begin & 1 or not 0 < after - begin & long_mask <= 2 * size:
            continue
        rounds = ((after - 1 & long_mask) >> text_bits) - (begin >> text_bits) & long_mask >> text_bits
        if not rounds:
            start, room = begin % size, after - begin & long_mask
        elif rounds == 1:
            # What does not fit before the end of the ring is at its beginning.
            start, room = 0, after % size
        else:
            continue
        # An ID precedes the text.
        length = min(int(infos["length"][row]), room - long)
        if length <= 0:
            continue
        try:
            yield Message(int(infos["nsec"][row]), prog.read(data + start + long, length))
        except (FaultError, OverflowError):
            lost.append("text")


def _newest(
    target: Target, array: Object, dtype: np.dtype[np.void], ids: Struct, bits: int, lost: list[str]
) -> Struct:
    """The elements of a ring with these consecutive descending IDs; zeros where they cannot be read."""
    size, slots = 1 << bits, ids & ((1 << bits) - 1)
    rows = np.zeros(len(ids), dtype)
    # In one piece, or two where they go around the end of the ring.
    cut = int(slots[0]) + 1
    for piece in (slice(0, cut), slice(cut, len(ids))):
        wanted = slots[piece]
        if len(wanted):
            first = int(wanted[-1]) % size
            chunk = target.reader.read(array.value_() + first * dtype.itemsize, len(wanted) * dtype.itemsize)
            if not chunk.complete:
                lost.append("descriptors")
            if len(chunk.data) == len(wanted) * dtype.itemsize:
                rows[piece] = np.frombuffer(chunk.data.tobytes(), dtype)[::-1]
    return rows


def _buffer(target: Target, start: int, lost: list[str]) -> Iterator[Message]:
    """Up to Linux 5.9: records of ``struct printk_log`` one after the other (kernel: msg_print_text())."""
    prog = target.prog
    struct = find_type(prog, "struct printk_log")
    if struct is None:
        return
    length, first, after = (
        prog.object(name, filename="printk.c").value_()
        for name in ("log_buf_len", "log_first_idx", "log_next_idx")
    )
    if not 0 < length <= _MOST_BYTES or not (0 <= first < length and 0 <= after <= length):
        return
    dtype = struct_dtype(
        prog, struct, {"nsec": ["ts_nsec"], "length": ["len"], "text": ["text_len"]}, itemsize=struct.size
    )
    chunk = target.reader.read(start, length)
    if not chunk.complete:
        lost.append("records")
    raw = chunk.data.tobytes()
    where, wrapped, header = first, first < after, dtype.itemsize
    while where != after and where + header <= len(raw):
        [record] = np.frombuffer(raw, dtype, 1, where)
        step, text = int(record["length"]), int(record["text"])
        if step:
            if step < header or (wrapped and where > after):
                return
            yield Message(int(record["nsec"]), raw[where + header : where + min(step, header + text)])
            where += step
        elif wrapped:
            return
        else:
            # No length: the next record is at the beginning.
            where, wrapped = 0, True


def log_seconds(nsec: int) -> str:
    """A message's time as the log has it: cut to microseconds (kernel/printk/printk.c, print_time())."""
    return f"{nsec // 10**9}.{nsec % 10**9 // 1000:06}"
