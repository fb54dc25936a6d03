/* Sections of memory and what is kept for each: include/linux/mmzone.h, asm/sparsemem.h. */

#define SECTION_SIZE_BITS 27
#define PFN_SECTION_SHIFT (SECTION_SIZE_BITS - PAGE_SHIFT)
#define PAGES_PER_SECTION (1 << PFN_SECTION_SHIFT)

struct page_ext;

#if KERNEL >= 5.3
struct mem_section_usage {
#if KERNEL >= 6.1
	/* Freed after a grace period (6.8, and the stable releases of 6.1 and 6.6). */
	struct callback_head rcu;
#endif
#ifdef CONFIG_SPARSEMEM_VMEMMAP
	unsigned long subsection_map[(1 << (SECTION_SIZE_BITS - 21)) / 64];
#endif
	unsigned long pageblock_flags[0];
};
#endif

struct mem_section {
	unsigned long section_mem_map;
#if KERNEL < 5.3
	unsigned long *pageblock_flags;
#else
	/* What goes away with a part of a section (5.3). */
	struct mem_section_usage *usage;
#endif
#ifdef CONFIG_PAGE_EXTENSION
	struct page_ext *page_ext;
	unsigned long pad;
#endif
};
