"""Pages in the queues of sockets: fragments of socket buffers, and what is kept for the next of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import FaultError, Object, TypeKind, cast, container_of, offsetof, sizeof

from mmdump.holders import Case, Counted, Hit, Holder, Owner, State
from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import c_string, find_type, has_member

if TYPE_CHECKING:
    from drgn import Program

__all__ = ["find_lost_buffers", "find_sockets"]

#: Socket buffers in one queue, and in all, that are followed.
_MAX_QUEUE = 1 << 16
_MAX_BUFFERS = 1 << 18
#: Buffers chained to one buffer.
_MAX_CHAINED = 1 << 10
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
#: SKBFL_MANAGED_FRAG_REFS (5.20): somebody else drops the references of the fragments.
_MANAGED = 1 << 4


@dataclass(frozen=True)
class _Queue:
    """Where a socket buffer was found."""

    socket: int
    name: str
    where: str
    owners: Sequence[Owner]


def find_sockets(case: Case) -> Iterator[Holder]:
    """What lies in the queues of all sockets that a task has open."""
    if not _known(case.prog) or not case.hits:
        return
    left = iter(range(_MAX_BUFFERS))
    for file in case.files.with_operations("socket_file_ops"):
        try:
            sock = Object(case.prog, "struct socket *", file.private_data).sk.read_()
            if not sock:
                continue
            name, owners = _name(sock), case.owners(file)
        except (FaultError, LookupError, AttributeError):
            continue
        yield from _kept(case, sock, name, owners)
        for where, buffers in _queues(sock):
            queue = _Queue(sock.value_(), name, where, owners)
            try:
                for number, buffer in enumerate(buffers):
                    yield from _fragments(case, buffer, queue, f"buffer {number}", left)
            except (FaultError, LookupError, AttributeError):
                continue


def _known(prog: Program) -> bool:
    return (
        find_type(prog, "struct skb_shared_info") is not None and find_type(prog, "struct sock") is not None
    )


def _kept(case: Case, sock: Object, name: str, owners: Sequence[Owner]) -> Iterator[Holder]:
    """``sk_frag``: the page that the next bytes sent go to."""
    try:
        start = sock.sk_frag.page.address_of_().value_()
    except (FaultError, LookupError, AttributeError):
        return
    for hit in case.within(start, 8):
        yield Holder(hit, "socket", State.LIVE, "kept for the next bytes", name, sock.value_(), owners, 1)


def _queues(sock: Object) -> Iterator[tuple[str, Iterator[Object]]]:
    """The queues of a socket: what they are called, and the ``struct sk_buff *`` in them."""
    struct = sock.type_.type
    yield "receive queue", _list(sock.sk_receive_queue)
    yield "send queue", _list(sock.sk_write_queue)
    yield "error queue", _list(sock.sk_error_queue)
    if has_member(struct, "sk_backlog"):
        yield "backlog", _chain(sock.sk_backlog.head)
    kind = _protocol(sock)
    if kind in ("TCP", "TCPv6", "MPTCP"):
        if has_member(struct, "tcp_rtx_queue"):
            # 4.15.
            yield "sent and not acknowledged", _tree(sock.tcp_rtx_queue)
        tcp = cast("struct tcp_sock *", sock)
        yield "received out of order", _tree(tcp.out_of_order_queue)
    elif kind.startswith("UDP"):
        udp = cast("struct udp_sock *", sock)
        if has_member(udp.type_.type, "reader_queue"):
            yield "receive queue", _list(udp.reader_queue)


def _protocol(sock: Object) -> str:
    return c_string(sock.member_("__sk_common").skc_prot.name, 32)


def _list(head: Object) -> Iterator[Object]:
    """A ``struct sk_buff_head``: a ring through the buffers and itself."""
    end = head.address_of_().value_()
    buffer = head.next.read_()
    seen = 0
    while buffer.value_() not in (0, end) and seen < _MAX_QUEUE:
        buffer = cast("struct sk_buff *", buffer)
        yield buffer
        seen += 1
        buffer = buffer.next.read_()


def _chain(first: Object) -> Iterator[Object]:
    buffer, seen = first.read_(), 0
    while buffer and seen < _MAX_QUEUE:
        yield buffer
        seen += 1
        buffer = buffer.next.read_()


def _tree(root: Object) -> Iterator[Object]:
    """Socket buffers in a red-black tree, in no order."""
    waiting, seen = [root.rb_node.read_()], 0
    while waiting and seen < _MAX_QUEUE:
        node = waiting.pop()
        if node:
            seen += 1
            yield container_of(node, "struct sk_buff", "rbnode")
            waiting += [node.rb_left.read_(), node.rb_right.read_()]


def _fragments(
    case: Case, buffer: Object, queue: _Queue, which: str, left: Iterator[int]
) -> Iterator[Holder]:
    """The fragments of a buffer and of those chained to it.

    :param left: Has one element for each buffer that may still be looked at.
    """
    waiting = [(buffer, which)]
    while waiting and next(left, None) is not None:
        one, name = waiting.pop()
        shared = _shared(one)
        yield from _in_shared(case, one, shared, queue, name)
        # What is chained to it hangs on frag_list, one after the other.
        chained = shared.frag_list.read_()
        for number, other in enumerate(_chain(chained) if chained else ()):
            if number >= _MAX_CHAINED:
                break
            waiting.append((other, f"{name}, chained {number}"))


def _shared(buffer: Object) -> Object:
    """``skb_shinfo()``: behind the data; ``end`` is an offset on 64-bit machines."""
    end = buffer.end.value_()
    if buffer.end.type_.unaliased().kind != TypeKind.POINTER:
        end += buffer.head.value_()
    return Object(buffer.prog_, "struct skb_shared_info *", end)


def _in_shared(case: Case, buffer: Object, shared: Object, queue: _Queue, which: str) -> Iterator[Holder]:
    element = shared.frags.type_.type
    most = shared.frags.type_.length or 17
    count = min(int(shared.nr_frags.value_()), most)
    start, step = shared.frags.address_of_().value_(), sizeof(element)
    flags = int(shared.flags.value_()) if has_member(shared.type_.type, "flags") else 0
    # Pages of a page_pool count their users apart from their references.
    pooled = has_member(buffer.type_.type, "pp_recycle") and bool(buffer.pp_recycle)
    for hit in case.within(start, most * step):
        index, inside = divmod(hit.address - start, step)
        # A netmem with bit 0 set is no page; nor is anything else that is tagged.
        if inside or hit.tag:
            continue
        if index >= count:
            yield Holder(
                hit, "socket", State.STALE, f"{queue.where}, {which}, a fragment not in use", queue.name
            )
            continue
        own = not (flags & _MANAGED) and not pooled
        yield Holder(
            hit,
            "socket",
            State.LIVE,
            f"{queue.where}, {which}, fragment {index} of {count}",
            queue.name,
            queue.socket,
            queue.owners,
            references=int(own),
            counted=Counted.REFERENCE if own else Counted.NONE,
        )


def find_lost_buffers(case: Case) -> Iterator[Holder]:
    """Fragments of buffers that are in no open socket's queue: on their way, or of a socket that was closed.

    The fragments stand behind the data, which the buffer's ``head`` points to the beginning of.
    """
    if not _known(case.prog):
        return
    head = offsetof(case.prog.type("struct sk_buff"), "head")
    fragments = offsetof(case.prog.type("struct skb_shared_info"), "frags")
    for hit in case.hits:
        if hit.form != "page" or hit.tag or not hit.place.start or not _maybe_data(hit, fragments):
            continue
        for at, _value in case.pointers(hit.place.start):
            try:
                buffer = Object(case.prog, "struct sk_buff *", at - head)
                # skbuff_head_cache, skbuff_fclone_cache.
                place = case.place(at - head)
                if (
                    place is None
                    or not place.name.startswith("skbuff_")
                    or not buffer.users.refs.counter.value_()
                ):
                    continue
                shared = _shared(buffer)
                if not 0 <= hit.address - shared.value_() - fragments < 1 << 10:
                    continue
                queue = _of_buffer(case, buffer)
                found = [
                    each for each in _in_shared(case, buffer, shared, queue, "a buffer") if each.hit is hit
                ]
            except (FaultError, LookupError, AttributeError):
                continue
            if found:
                yield from found
                break


def _maybe_data(hit: Hit, fragments: int) -> bool:
    place = hit.place
    named = place.kind == "pages" or place.name.startswith(("skbuff_small_head", "kmalloc-"))
    return named and hit.address - place.start >= fragments


def _of_buffer(case: Case, buffer: Object) -> _Queue:
    """Whose a buffer is that is in no queue: of the socket that it is charged to."""
    sock = buffer.sk.read_()
    if not sock:
        return _Queue(0, "", "in flight", ())
    owners: Sequence[Owner] = ()
    try:
        name = _name(sock)
        holder = sock.sk_socket.read_()
        if holder and holder.file:
            owners = case.owners(holder.file.value_())
    except (FaultError, LookupError, AttributeError):
        name = ""
    return _Queue(sock.value_(), name, "in flight", owners)


def _name(sock: Object) -> str:
    """``TCP 127.0.0.1:80 - 127.0.0.1:51234``."""
    common = sock.member_("__sk_common")
    family, kind = int(common.skc_family.value_()), _protocol(sock)
    if family == _AF_UNIX:
        return f"{kind} {_unix_path(sock)}".rstrip()
    if family not in (_AF_INET, _AF_INET6):
        return kind
    own, other = (
        int(common.skc_num.value_()),
        int.from_bytes(int(common.skc_dport.value_()).to_bytes(2, "little"), "big"),
    )
    if family == _AF_INET:
        # In the order of the wire.
        here, there = (
            str(ipaddress.ip_address(int(common.member_(name).value_()).to_bytes(4, "little")))
            for name in ("skc_rcv_saddr", "skc_daddr")
        )
    else:
        here, there = (
            f"[{ipaddress.ip_address(bytes(common.member_(name).in6_u.u6_addr8.value_()))}]"
            for name in ("skc_v6_rcv_saddr", "skc_v6_daddr")
        )
    return f"{kind} {here}:{own} - {there}:{other}"


def _unix_path(sock: Object) -> str:
    address = cast("struct unix_sock *", sock).addr.read_()
    if not address:
        return ""
    length = min(max(int(address.len.value_()) - 2, 0), 108)
    start = address.name.address_of_().value_() + 2
    raw = sock.prog_.read(start, length) if length else b""
    # An abstract name begins with a zero byte.
    return "@" + printable(raw[1:]) if raw[:1] == b"\0" else printable(raw.split(b"\0", 1)[0])
