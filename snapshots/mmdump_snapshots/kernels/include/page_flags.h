/*
 * Page flags and page types: include/linux/page-flags.h. Bits move from release to release: a decoder goes by name.
 */

#if KERNEL < 6.6
enum pageflags {
	PG_locked,
#if KERNEL < 4.20
	/* PG_workingset came in front of the rest, and PG_error moved (4.20). */
	PG_error,
#endif
	PG_referenced,
	PG_uptodate,
	PG_dirty,
	PG_lru,
	PG_active,
#if KERNEL >= 4.20
	PG_workingset,
#endif
	PG_waiters,
#if KERNEL >= 4.20
	PG_error,
#endif
	PG_slab,
	PG_owner_priv_1,
	PG_arch_1,
	PG_reserved,
	PG_private,
	PG_private_2,
	PG_writeback,
	PG_head,
	PG_mappedtodisk,
	PG_reclaim,
	PG_swapbacked,
	PG_unevictable,
	PG_mlocked,
#ifdef CONFIG_ARCH_USES_PG_UNCACHED
	PG_uncached,
#endif
#ifdef CONFIG_MEMORY_FAILURE
	PG_hwpoison,
#endif
#if defined(CONFIG_IDLE_PAGE_TRACKING) || defined(CONFIG_PAGE_IDLE_FLAG)
	PG_young,
	PG_idle,
#endif
#if KERNEL >= 5.10
	/* For arm64's memory tags, but on every machine of 64 bits (5.10). */
	PG_arch_2,
#endif
#if KERNEL >= 6.2 && defined(ARM64)
	PG_arch_3,
#endif
	__NR_PAGEFLAGS,
#if KERNEL >= 6.1
	PG_readahead = PG_reclaim,
	PG_anon_exclusive = PG_mappedtodisk,
#endif
	PG_checked = PG_owner_priv_1,
	PG_swapcache = PG_owner_priv_1,
	PG_fscache = PG_private_2,
	PG_pinned = PG_owner_priv_1,
	PG_savepinned = PG_dirty,
	PG_foreign = PG_owner_priv_1,
#if KERNEL >= 5.3
	PG_xen_remapped = PG_owner_priv_1,
#endif
#if KERNEL < 6.4
	PG_slob_free = PG_private,
#endif
#if KERNEL < 5.10
	PG_double_map = PG_private_2,
#elif KERNEL < 6.2
	/* Moved in 5.10; large folios count their PTE mappings otherwise since 6.2. */
	PG_double_map = PG_workingset,
#endif
#if KERNEL >= 5.15 && defined(CONFIG_MEMORY_FAILURE)
	PG_has_hwpoisoned = PG_error,
#endif
	PG_isolated = PG_reclaim,
#if KERNEL >= 5.7
	PG_reported = PG_uptodate,
#endif
#if KERNEL >= 6.1 && defined(CONFIG_MEMORY_HOTPLUG)
	PG_vmemmap_self_hosted = PG_owner_priv_1,
#endif
};
#else
/* In another order since 6.6: PG_writeback and PG_head are in the first byte. */
enum pageflags {
	PG_locked,
	PG_writeback,
	PG_referenced,
	PG_uptodate,
	PG_dirty,
	PG_lru,
	PG_head,
	PG_waiters,
	PG_active,
	PG_workingset,
#if KERNEL < 6.12
	/* No filesystem uses PG_error any more; slabs are a page type since 6.10. */
	PG_error,
	PG_slab,
#endif
	PG_owner_priv_1,
#if KERNEL >= 6.12
	PG_owner_2,
#endif
	PG_arch_1,
	PG_reserved,
	PG_private,
	PG_private_2,
#if KERNEL < 6.12
	PG_mappedtodisk,
#endif
	PG_reclaim,
	PG_swapbacked,
	PG_unevictable,
#if KERNEL >= 6.14
	PG_dropbehind,
#endif
	PG_mlocked,
#if KERNEL < 6.12 && defined(CONFIG_ARCH_USES_PG_UNCACHED)
	PG_uncached,
#endif
#ifdef CONFIG_MEMORY_FAILURE
	PG_hwpoison,
#endif
#ifdef CONFIG_PAGE_IDLE_FLAG
	PG_young,
	PG_idle,
#endif
#if KERNEL < 6.12
	PG_arch_2,
#if defined(CONFIG_ARCH_USES_PG_ARCH_X)
	PG_arch_3,
#endif
#else
#ifdef CONFIG_ARCH_USES_PG_ARCH_2
	PG_arch_2,
#endif
#ifdef CONFIG_ARCH_USES_PG_ARCH_3
	PG_arch_3,
#endif
#endif
	__NR_PAGEFLAGS,
	PG_readahead = PG_reclaim,
#if KERNEL < 6.12
	PG_anon_exclusive = PG_mappedtodisk,
#endif
	PG_swapcache = PG_owner_priv_1,
	PG_checked = PG_owner_priv_1,
#if KERNEL >= 6.12
	PG_anon_exclusive = PG_owner_2,
	PG_mappedtodisk = PG_owner_2,
#endif
	PG_fscache = PG_private_2,
	PG_pinned = PG_owner_priv_1,
	PG_savepinned = PG_dirty,
	PG_foreign = PG_owner_priv_1,
	PG_xen_remapped = PG_owner_priv_1,
#if KERNEL < 6.17
	PG_isolated = PG_reclaim,
#elif defined(CONFIG_MIGRATION)
	/* Movable pages that are not on the LRU have flags of their own (6.17). */
	PG_movable_ops_isolated = PG_reclaim,
	PG_movable_ops = PG_uptodate,
#endif
	PG_reported = PG_uptodate,
#ifdef CONFIG_MEMORY_HOTPLUG
	PG_vmemmap_self_hosted = PG_owner_priv_1,
#endif
#if KERNEL < 6.12
	PG_has_hwpoisoned = PG_error,
	PG_hugetlb = PG_active,
#else
	PG_has_hwpoisoned = PG_active,
#endif
	PG_large_rmappable = PG_workingset,
#if KERNEL >= 6.12
	PG_partially_mapped = PG_reclaim,
#endif
};
#endif

/*
 * Page types, in page_type, which is _mapcount too: macros up to 6.9 and therefore not in debug info.
 * 4.18 to 6.10: a cleared bit of a word that is all ones.
 */
#if KERNEL < 6.10
#define PAGE_TYPE_BASE 0xf0000000
#define PAGE_MAPCOUNT_RESERVE -128
#define PG_buddy 0x00000080
#if KERNEL < 5.1
#define PG_balloon 0x00000100
#else
#define PG_offline 0x00000100
#endif
#if KERNEL < 5.11
#define PG_kmemcg 0x00000200
#define PG_table 0x00000400
#if KERNEL >= 5.3
#define PG_guard 0x00000800
#endif
#else
/* One bit down each, when the bit for kernel memory was given up (5.11). */
#define PG_table 0x00000200
#define PG_guard 0x00000400
#endif
#if KERNEL >= 6.9
#define PG_hugetlb 0x00000800
#endif
#elif KERNEL >= 6.12
/* The top byte is the type, and the rest is free for its use (6.12). */
enum pagetype {
	PGTY_buddy = 0xf0,
	PGTY_offline = 0xf1,
	PGTY_table = 0xf2,
	PGTY_guard = 0xf3,
	PGTY_hugetlb = 0xf4,
	PGTY_slab = 0xf5,
	PGTY_zsmalloc = 0xf6,
	PGTY_unaccepted = 0xf7,
#if KERNEL >= 6.15
	PGTY_large_kmalloc = 0xf8,
#endif
	PGTY_mapcount_underflow = 0xff,
};
#endif

/* The tags in the low bits of page->mapping. */
#define PAGE_MAPPING_ANON 0x1
#define PAGE_MAPPING_MOVABLE 0x2
#define PAGE_MAPPING_KSM 0x3
