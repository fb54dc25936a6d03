/* Why a page was migrated; destructors of compound pages: include/linux/migrate_mode.h, include/linux/mm.h. */

enum migrate_reason {
	MR_COMPACTION,
	MR_MEMORY_FAILURE,
	MR_MEMORY_HOTPLUG,
	MR_SYSCALL,
	MR_MEMPOLICY_MBIND,
	MR_NUMA_MISPLACED,
	MR_CONTIG_RANGE,
#if KERNEL >= 5.12
	MR_LONGTERM_PIN,
#endif
#if KERNEL >= 5.15
	MR_DEMOTION,
#endif
#if KERNEL >= 6.11
	MR_DAMON,
#endif
	MR_TYPES
};

#if KERNEL < 6.6
/* 6.6 told hugetlb by a flag, and 6.9 by a page type. */
enum compound_dtor_id {
	NULL_COMPOUND_DTOR,
	COMPOUND_PAGE_DTOR,
	HUGETLB_PAGE_DTOR,
	TRANSHUGE_PAGE_DTOR,
	NR_COMPOUND_DTORS
};
#endif
