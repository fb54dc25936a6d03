"""What the profiles say of each kernel, held against what is known of the releases."""

from __future__ import annotations

import time

import pytest

from mmdump_snapshots.kernels import Profile, profile, profiles
from mmdump_snapshots.model.era import Pinner

NAMES = [
    "4.19", "5.4", "5.10", "5.15", "6.1", "6.6", "6.12", "6.18", "7.1", "6.12-arm64", "6.12-arm64-16k",
    "android12-5.10", "android13-5.10", "android14-6.1", "android14-6.1-arm64",
]  # fmt: skip


@pytest.fixture(params=[*NAMES, "7.2"])
def kernel(request: pytest.FixtureRequest) -> Profile:
    return profile(request.param)


def test_there_is_a_profile_for_each_release() -> None:
    assert list(profiles()) == NAMES
    with pytest.raises(KeyError):
        profile("5.11")


def test_a_profile_says_what_kernel_it_is() -> None:
    arm = profile("6.12-arm64-16k")
    assert (arm.version, arm.arch, arm.page_size) == ((6, 12), "aarch64", 16384)
    assert arm.era.max_order == arm.types.constant("MAX_PAGE_ORDER")
    assert profile("5.4").arch == "x86_64"


def test_a_profile_is_read_at_once_and_only_once() -> None:
    fresh = profile("6.12").with_config("CONFIG_NR_CPUS=128")
    start = time.process_time()
    types = fresh.types
    assert time.process_time() - start < 0.7
    assert fresh.types is types


def test_a_page_is_64_bytes(kernel: Profile) -> None:
    types = kernel.types
    assert types.sizeof("struct page") == 64
    offsets = {"flags": 0, "lru": 8, "private": 40, "_mapcount": 48, "_refcount": 52}
    assert {name: types.offset("struct page", name) for name in offsets} == offsets
    assert types.has("struct folio") == (kernel.version >= (5, 16))


def test_flags_have_the_bits_of_their_release(kernel: Profile) -> None:
    constant, version = kernel.types.constant, kernel.version
    assert constant("PG_uptodate") == (3 if version < (4, 20) or version >= (6, 6) else 2)
    assert constant("PG_head") == (15 if version < (4, 20) else 16 if version < (6, 6) else 6)
    assert kernel.types.has("enum pagetype") == (version >= (6, 10))
    assert ("PG_slab" in kernel.types.enumerators("enum pageflags")) == (version < (6, 10))
    if version < (6, 10):
        assert constant("PG_buddy") == 0x80
        assert constant("PG_table") == (0x400 if version < (5, 11) else 0x200)
    else:
        assert constant("PGTY_buddy") == 0xF0


@pytest.mark.parametrize(
    ("name", "there", "gone"),
    [
        ("4.19", ["struct page.compound_mapcount", "struct page.mem_cgroup"], ["struct page.compound_nr"]),
        (
            "5.4",
            ["struct page.compound_order"],
            ["struct page.hpage_pinned_refcount", "struct page.compound_nr"],
        ),
        (
            "5.10",
            ["struct page.hpage_pinned_refcount", "struct page.obj_cgroups"],
            ["struct page.memcg_data"],
        ),
        (
            "5.15",
            ["struct page.hpage_pinned_refcount", "struct page.memcg_data"],
            ["struct page.compound_pincount"],
        ),
        (
            "6.1",
            ["struct page.compound_pincount", "struct folio._pincount"],
            ["struct folio._entire_mapcount"],
        ),
        (
            "6.6",
            ["struct folio._entire_mapcount", "struct folio._nr_pages_mapped"],
            ["struct folio._folio_order"],
        ),
        ("6.12", ["struct folio._large_mapcount", "struct page.compound_head"], ["struct folio._mm_ids"]),
        (
            "6.18",
            ["struct folio._mm_id", "struct page.flags.f", "struct page.__folio_index"],
            ["struct page.index"],
        ),
        ("7.1", ["struct page.compound_info", "struct zone.vmemmap_tails"], ["struct page.compound_head"]),
    ],
)
def test_members_are_where_a_decoder_looks_for_them(name: str, there: list[str], gone: list[str]) -> None:
    types = profile(name).types
    for path in there:
        assert types.has(*path.split(".", 1)), path
    for path in gone:
        assert not types.has(*path.split(".", 1)), path


@pytest.mark.parametrize(
    ("name", "lists"),
    [("4.19", 3), ("5.4", 3), ("5.10", 3), ("5.15", 15), ("6.1", 14), ("6.6", 13), ("6.12", 14), ("7.1", 14)],
)
def test_a_cpu_has_lists_of_pages(name: str, lists: int) -> None:
    assert profile(name).types.member("struct per_cpu_pages", "lists").type.length == lists


def test_free_lists_are_for_all_orders_and_migratetypes(kernel: Profile) -> None:
    types = kernel.types
    assert types.member("struct zone", "free_area").type.length == kernel.era.max_order + 1
    assert types.member("struct zone", "free_area[0].free_list").type.length == 6
    assert types.enumerators("enum migratetype")["MIGRATE_ISOLATE"] == 5
    assert ("PB_migrate_isolate" in types.enumerators("enum pageblock_bits")) == kernel.era.isolate_is_a_bit


def test_the_map_of_a_sections_pageblocks_moved_in_5_3(kernel: Profile) -> None:
    assert kernel.types.has("struct mem_section", "pageblock_flags") == (kernel.version < (5, 3))
    assert kernel.types.has("struct mem_section_usage") == (kernel.version >= (5, 3))


def test_configuration_changes_what_is_laid_out() -> None:
    plain = profile("6.12")
    more = plain.with_config("CONFIG_ZONE_DEVICE", "CONFIG_NODES_SHIFT=10", without=("CONFIG_MEMCG",))
    assert (plain.number("CONFIG_NODES_SHIFT"), more.number("CONFIG_NODES_SHIFT")) == (6, 10)
    assert more.types.constant("__MAX_NR_ZONES") == plain.types.constant("__MAX_NR_ZONES") + 1
    assert more.types.member("struct zonelist", "_zonerefs").type.length == 5 * 1024 + 1
    assert plain.types.has("struct page", "memcg_data")
    assert not more.types.has("struct page", "memcg_data")


def test_configuration_is_read_from_a_file() -> None:
    text = 'CONFIG_CMA=y\nCONFIG_X=m\n# CONFIG_Y is not set\nCONFIG_NODES_SHIFT=0x6\nCONFIG_S="y"\n'
    configured = profile("6.1").configured(text)
    assert configured.config == {"CONFIG_CMA", "CONFIG_NODES_SHIFT=0x6"}
    assert configured.number("CONFIG_NODES_SHIFT") == 6
    assert configured.has("CONFIG_NODES_SHIFT")
    with pytest.raises(KeyError):
        configured.number("CONFIG_CMA")


@pytest.mark.parametrize(
    ("pinner", "captured", "flags"),
    [
        (Pinner.A0, 40, {"PAGE_EXT_GET": 2}),
        (Pinner.A1, 40, {"PAGE_EXT_GET": 2, "PAGE_EXT_PINNER_MIGRATION_FAILED": 3}),
        (Pinner.A2, 48, {"PAGE_EXT_GET": 2, "PAGE_EXT_PINNER_MIGRATION_FAILED": 3}),
        (Pinner.B0, 56, {"PAGE_EXT_GET": 2, "PAGE_EXT_PINNER_MIGRATION_FAILED": 3}),
        (Pinner.B1, 56, {"PAGE_EXT_PINNER_MIGRATION_FAILED": 2}),
        (Pinner.B2, 56, {"PAGE_EXT_PINNER_MIGRATION_FAILED": 2}),
    ],
)
def test_androids_page_pinners_have_the_structures_of_their_generation(pinner, captured, flags) -> None:
    kernel = profile("5.10").with_pinner(pinner)
    types = kernel.types
    assert types.sizeof("struct page_pinner") == 24
    assert types.sizeof("struct captured_pinner") == captured
    mine = types.enumerators("enum page_ext_flags")
    assert {name: bit for name, bit in mine.items() if "OWNER" not in name} == flags
    names = {each.name for each in kernel.variables if each.file == "mm/page_pinner.c"}
    rings = {
        Pinner.A0: {"lt_pinner"},
        Pinner.A1: {"lt_pinner", "acf_pinner"},
        Pinner.A2: {"lt_pinner", "acf_pinner"},
        Pinner.B0: {"lt_buffer", "acf_buffer"},
    }
    assert {name for name in names if name[:3] in ("lt_", "acf", "pp_")} == rings.get(
        pinner, {"pp_buffer", "pp_buf_size"}
    )


def test_android_has_cma_before_highatomic() -> None:
    numbers = profile("android14-6.1").types.enumerators("enum migratetype")
    assert (numbers["MIGRATE_CMA"], numbers["MIGRATE_PCPTYPES"], numbers["MIGRATE_HIGHATOMIC"]) == (3, 4, 4)
    assert numbers["MIGRATE_ISOLATE"] == 5
    lists = profile("android14-6.1").types.member("struct per_cpu_pages", "lists").type.length
    assert lists == 4 * 4 + 2
    mainline = profile("6.1").types.enumerators("enum migratetype")
    assert (mainline["MIGRATE_HIGHATOMIC"], mainline["MIGRATE_CMA"]) == (3, 4)
