/*
 * Address spaces, modules, and what else mm code has: include/linux/mm_types.h, include/linux/module.h, mm/internal.h.
 * All shortened; struct mm_struct here is that of init_mm, for its page tables.
 */

typedef struct {
	unsigned long pgd;
} pgd_t;

struct mm_struct {
#if KERNEL >= 6.8
	/* 6.8 gave the most used count a cache line of its own. */
	atomic_t mm_count;
	unsigned long __left_out_cacheline[7];
	unsigned long __left_out_maple_tree[2];
	unsigned long mmap_base;
	unsigned long __left_out_compat[1];
	unsigned long task_size;
	pgd_t *pgd;
	atomic_t membarrier_state;
	atomic_t mm_users;
#else
	unsigned long __left_out_vmas[4];
	unsigned long mmap_base;
	unsigned long __left_out_compat[1];
	unsigned long task_size;
	pgd_t *pgd;
	atomic_t membarrier_state;
	atomic_t mm_users;
	atomic_t mm_count;
#endif
	atomic_long_t pgtables_bytes;
	int map_count;
	spinlock_t page_table_lock;
#if KERNEL >= 5.8
	struct rw_semaphore mmap_lock;
#else
	struct rw_semaphore mmap_sem;
#endif
	struct list_head mmlist;
	unsigned long hiwater_rss;
	unsigned long hiwater_vm;
	unsigned long total_vm;
	unsigned long __left_out_to_the_end[90];
};

enum module_state {
	MODULE_STATE_LIVE,
	MODULE_STATE_COMING,
	MODULE_STATE_GOING,
	MODULE_STATE_UNFORMED,
};

struct module {
	enum module_state state;
	struct list_head list;
	char name[56];
	unsigned long __left_out_to_the_end[0];
};

#if KERNEL >= 6.17
/* 6.17: a page and its folio as they were at one moment, for /proc/kpageflags. */
struct page_snapshot {
	struct folio folio_snapshot;
	struct page page_snapshot;
	unsigned long pfn;
	unsigned long idx;
	unsigned long flags;
};
#endif

struct vm_event_state {
	unsigned long event[NR_VM_EVENT_ITEMS];
};
