"""Pages that a page_pool keeps for a network device's next packets (net/core/page_pool.c)."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Object, sizeof

from mmdump.holders import Case, Counted, Hit, Holder, State
from mmdump.kernel.arrays import printable
from mmdump.kernel.layout import find_type, has_member

__all__ = ["find_page_pools"]

#: PP_SIGNATURE without the poison above it, and the bits that only say whether it was pinned.
_SIGNATURE, _PINNED = 0x40, 3
#: Entries of a pool's ring.
_MAX_RING = 1 << 16


def find_page_pools(case: Case) -> Iterator[Holder]:
    """The cache and the ring of the pool that a page says it belongs to."""
    if find_type(case.prog, "struct page_pool") is None or not has_member(
        case.prog.type("struct page"), "pp_magic"
    ):
        return
    pools: dict[int, Object | None] = {}
    for hit in case.hits:
        if hit.form != "page":
            continue
        try:
            page = Object(case.prog, "struct page *", case.kernel.memmap.address(hit.folio))
            magic = page.pp_magic.value_() & ~_PINNED & 0xFF
            address = page.pp.value_()
            if magic != _SIGNATURE or not address or page.pp_magic.value_() >> 48 == 0:
                continue
            if address not in pools:
                pools[address] = _checked(case, address)
            pool = pools[address]
            holder = _in_pool(hit, pool) if pool is not None else None
        except (FaultError, LookupError, AttributeError):
            continue
        if holder is not None:
            yield holder


def _checked(case: Case, address: int) -> Object | None:
    """A pool, if that is what stands there: an object that begins there."""
    place = case.place(address)
    if place is None or place.kind != "slab" or place.start != address or place.state is State.STALE:
        return None
    return Object(case.prog, "struct page_pool *", address)


def _in_pool(hit: Hit, pool: Object) -> Holder | None:
    cache = pool.alloc.cache
    start, name = cache.address_of_().value_(), _device(pool)
    slot = (hit.address - start) // 8
    if slot >= 0 and hit.address < start + sizeof(cache):
        used = slot < int(pool.alloc.count.value_())
        state = State.LIVE if used else State.STALE
        what = f"cache, slot {slot}" + ("" if used else ", not in use")
        return Holder(hit, "page_pool", state, what, name, pool.value_(), (), int(used), Counted.REFERENCE)
    queue, size = pool.ring.queue.value_(), min(int(pool.ring.size.value_()), _MAX_RING)
    if queue <= hit.address < queue + 8 * size:
        # A slot is cleared when its page is taken out.
        what = f"ring, slot {(hit.address - queue) // 8} of {size}"
        return Holder(hit, "page_pool", State.LIVE, what, name, pool.value_(), (), 1, Counted.REFERENCE)
    return None


def _device(pool: Object) -> str:
    """The network device, since 6.8; before, the device that the memory is mapped for."""
    struct = pool.type_.type
    if has_member(struct, "slow.netdev") and pool.slow.netdev:
        return printable(pool.slow.netdev.name.string_()[:16])
    device = pool.p.dev.read_() if has_member(struct, "p.dev") else None
    if not device or not device.kobj.name:
        return ""
    return printable(pool.prog_.read_c_string(device.kobj.name.value_(), max_size=64))
