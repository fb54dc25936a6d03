/* Memory: nodes, sections, counters, large pages. */

#ifdef CONFIG_NUMA
#if KERNEL >= 6.12
#pragma file mm/numa.c
#elif defined(ARM64) && KERNEL >= 5.12
#pragma file drivers/base/arch_numa.c
#elif defined(ARM64)
#pragma file arch/arm64/mm/numa.c
#else
#pragma file arch/x86/mm/numa.c
#endif
#pragma section .bss
struct pglist_data *node_data[MAX_NUMNODES];
#else
#pragma file mm/page_alloc.c
#pragma section .data
struct pglist_data contig_page_data;
#endif

#pragma file mm/page_alloc.c
#pragma section .data
nodemask_t node_states[NR_NODE_STATES];
#ifdef CONFIG_NUMA
#if KERNEL >= 5.0
unsigned int nr_node_ids;
unsigned int nr_online_nodes;
#else
int nr_node_ids;
int nr_online_nodes;
#endif
#endif
int page_group_by_mobility_disabled;
int movable_zone;

#if KERNEL >= 6.4
#pragma file mm/show_mem.c
#endif
#pragma section .data
#if KERNEL >= 5.0
/* 5.0: an atomic counter behind a function. */
atomic_long_t _totalram_pages;
#else
unsigned long totalram_pages;
#endif

#if KERNEL >= 4.20
#pragma file mm/memblock.c
#else
#pragma file mm/nobootmem.c
#endif
#pragma section .bss
unsigned long max_low_pfn;
unsigned long min_low_pfn;
unsigned long max_pfn;

#if KERNEL >= 6.15
#pragma file mm/mm_init.c
#else
#pragma file mm/memory.c
#endif
#pragma section .bss
void *high_memory;
#if KERNEL >= 7.1
#pragma file mm/mm_init.c
unsigned long zero_page_pfn;
#else
#pragma file mm/memory.c
unsigned long zero_pfn;
#endif

#pragma file mm/sparse.c
#pragma section .bss
struct mem_section **mem_section;
#if KERNEL >= 5.0
unsigned long __highest_present_section_nr;
#else
int __highest_present_section_nr;
#endif

#pragma file mm/vmstat.c
#pragma section .data
atomic_long_t vm_zone_stat[NR_VM_ZONE_STAT_ITEMS];
atomic_long_t vm_node_stat[NR_VM_NODE_STAT_ITEMS];
#ifdef CONFIG_NUMA
#if KERNEL >= 5.14
atomic_long_t vm_numa_event[NR_VM_NUMA_EVENT_ITEMS];
#else
atomic_long_t vm_numa_stat[NR_VM_NUMA_STAT_ITEMS];
#endif
#endif
#pragma section .data..percpu
struct vm_event_state vm_event_states;

#pragma file mm/slab_common.c
#pragma section .data
struct list_head slab_caches;

#pragma file mm/memcontrol.c
#pragma section .bss
struct mem_cgroup *root_mem_cgroup;

#pragma file mm/swapfile.c
#pragma section .bss
long total_swap_pages;

#ifdef CONFIG_HUGETLB_PAGE
#pragma file mm/hugetlb.c
#pragma section .bss
#ifdef ARM64
struct hstate hstates[4];
#else
struct hstate hstates[2];
#endif
unsigned int default_hstate_idx;
int hugetlb_max_hstate;
#endif

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#pragma file mm/huge_memory.c
#pragma section .data
#if KERNEL >= 6.10
struct folio *huge_zero_folio;
#else
struct page *huge_zero_page;
#endif
#if KERNEL >= 5.13
unsigned long huge_zero_pfn;
#endif
#endif

#pragma file mm/swap.c
#pragma section .data..percpu
#if KERNEL >= 5.19
static struct cpu_fbatches cpu_fbatches;
#elif KERNEL >= 5.8
static struct lru_pvecs lru_pvecs;
#else
static struct pagevec lru_add_pvec;
static struct pagevec lru_rotate_pvecs;
static struct pagevec lru_deactivate_file_pvecs;
#if KERNEL >= 5.4
static struct pagevec lru_deactivate_pvecs;
#endif
static struct pagevec lru_lazyfree_pvecs;
static struct pagevec activate_page_pvecs;
#endif
#if KERNEL >= 5.8 && KERNEL < 6.12
static struct lru_rotate lru_rotate;
#endif

#if KERNEL >= 5.18
#pragma file mm/mlock.c
#pragma section .data..percpu
#if KERNEL >= 6.3
static struct mlock_fbatch mlock_fbatch;
#else
static struct mlock_pvec mlock_pvec;
#endif
#endif
