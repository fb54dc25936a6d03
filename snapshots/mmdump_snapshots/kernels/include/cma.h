/* The contiguous memory allocator: mm/cma.h. */

struct cma_kobject;

struct debugfs_u32_array {
	u32 *array;
	u32 n_elements;
};

#if KERNEL >= 6.15
/* 6.15: an area may consist of several ranges. */
struct cma_memrange {
	unsigned long base_pfn;
	unsigned long count;
	union {
		unsigned long early_pfn;
		unsigned long *bitmap;
	};
#ifdef CONFIG_CMA_DEBUGFS
	struct debugfs_u32_array dfs_bitmap;
#endif
};
#endif

struct cma {
#if KERNEL >= 6.15
	unsigned long count;
	unsigned long available_count;
#else
	unsigned long base_pfn;
	unsigned long count;
	unsigned long *bitmap;
#endif
	unsigned int order_per_bit;
#if KERNEL >= 5.13
	spinlock_t lock;
#else
	struct mutex lock;
#endif
#if KERNEL >= 6.15
	struct mutex alloc_mutex;
#endif
#ifdef CONFIG_CMA_DEBUGFS
	struct hlist_head mem_head;
	spinlock_t mem_head_lock;
#if KERNEL >= 5.10 && KERNEL < 6.15
	/* 5.10; with the ranges it moved into each. */
	struct debugfs_u32_array dfs_bitmap;
#endif
#endif
#if KERNEL >= 5.10
	char name[64];
#else
	const char *name;
#endif
#if KERNEL >= 6.15
	int nranges;
	struct cma_memrange ranges[8];
#endif
#if defined(CONFIG_CMA_SYSFS) && KERNEL >= 5.13
	atomic64_t nr_pages_succeeded;
	atomic64_t nr_pages_failed;
#if KERNEL >= 6.9
	atomic64_t nr_pages_released;
#endif
	struct cma_kobject *cma_kobj;
#endif
#if KERNEL >= 6.15
	unsigned long flags;
	int nid;
#elif KERNEL >= 5.18
	bool reserve_pages_on_error;
#endif
};
