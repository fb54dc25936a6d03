/* Functions whose parameters, or whose mere presence, tell a decoder something. All others: kernels/functions.py. */

struct vmem_altmap;

#pragma file arch/x86/mm/init_64.c
int vmemmap_populate(unsigned long start, unsigned long end, int node, struct vmem_altmap *altmap);

#pragma file mm/page_alloc.c
#if KERNEL < 5.9
/* Bits were counted from the top, and the function told where they end. */
unsigned long get_pfnblock_flags_mask(struct page *page, unsigned long pfn, unsigned long end_bitidx, unsigned long mask);
#elif KERNEL < 5.16
unsigned long get_pfnblock_flags_mask(struct page *page, unsigned long pfn, unsigned long mask);
#elif KERNEL < 6.17
unsigned long get_pfnblock_flags_mask(const struct page *page, unsigned long pfn, unsigned long mask);
#else
/* 6.17: isolation is a bit of its own. */
bool get_pfnblock_bit(const struct page *page, unsigned long pfn, enum pageblock_bits pb_bit);
#endif

#pragma file fs/proc/page.c
#if KERNEL >= 6.10
/* 6.10: by folio, for a page that is only read. */
u64 stable_page_flags(const struct page *page);
#else
u64 stable_page_flags(struct page *page);
#endif
