/*
 * Nodes, zones, free lists: include/linux/mmzone.h and include/linux/pageblock-flags.h. Lists of CPUs are in pcp.h,
 * LRU lists in lruvec.h, sections in sparsemem.h; how many counters there are is in vmstat.h.
 */

/* Of x86-64 and arm64; INTERNODE_CACHE_BYTES are as many. */
#define SMP_CACHE_BYTES 64
#define INTERNODE_ALIGNED __attribute__((aligned(SMP_CACHE_BYTES)))

#if PAGE_SHIFT == 14
#define MAX_PAGE_ORDER 11
#else
#define MAX_PAGE_ORDER 10
#endif
#if KERNEL < 6.4
/* MAX_ORDER is one more than the largest order (up to 6.3). */
#define MAX_ORDER (MAX_PAGE_ORDER + 1)
#define NR_PAGE_ORDERS MAX_ORDER
#else
#define NR_PAGE_ORDERS (MAX_PAGE_ORDER + 1)
#endif

enum migratetype {
	MIGRATE_UNMOVABLE,
	MIGRATE_MOVABLE,
	MIGRATE_RECLAIMABLE,
#if PINNER >= PINNER_A0
	/* Android caches pages of CMA areas per CPU, as those of the types before. */
#ifdef CONFIG_CMA
	MIGRATE_CMA,
#endif
	MIGRATE_PCPTYPES,
	MIGRATE_HIGHATOMIC = MIGRATE_PCPTYPES,
#else
	MIGRATE_PCPTYPES,
	MIGRATE_HIGHATOMIC = MIGRATE_PCPTYPES,
#ifdef CONFIG_CMA
	MIGRATE_CMA,
#if KERNEL >= 6.17
	__MIGRATE_TYPE_END = MIGRATE_CMA,
#endif
#elif KERNEL >= 6.17
	__MIGRATE_TYPE_END = MIGRATE_HIGHATOMIC,
#endif
#endif
#ifdef CONFIG_MEMORY_ISOLATION
	MIGRATE_ISOLATE,
#endif
	MIGRATE_TYPES,
};

#if KERNEL < 6.17
enum pageblock_bits {
	PB_migrate,
	PB_migrate_end = PB_migrate + 3 - 1,
	PB_migrate_skip,
	NR_PAGEBLOCK_BITS,
};
#else
/* Isolation is a bit beside the migratetype (6.17). */
enum pageblock_bits {
	PB_migrate_0,
	PB_migrate_1,
	PB_migrate_2,
	PB_compact_skip,
#ifdef CONFIG_MEMORY_ISOLATION
	PB_migrate_isolate,
#endif
	__NR_PAGEBLOCK_BITS,
};
#ifdef CONFIG_MEMORY_ISOLATION
#define NR_PAGEBLOCK_BITS 8
#else
#define NR_PAGEBLOCK_BITS 4
#endif
#endif

enum node_states {
	N_POSSIBLE,
	N_ONLINE,
	N_NORMAL_MEMORY,
	N_HIGH_MEMORY = N_NORMAL_MEMORY,
	N_MEMORY,
	N_CPU,
#if KERNEL >= 5.10
	N_GENERIC_INITIATOR,
#endif
	NR_NODE_STATES,
};

enum zone_type {
#ifdef CONFIG_ZONE_DMA
	ZONE_DMA,
#endif
#ifdef CONFIG_ZONE_DMA32
	ZONE_DMA32,
#endif
	ZONE_NORMAL,
	ZONE_MOVABLE,
#ifdef CONFIG_ZONE_DEVICE
	ZONE_DEVICE,
#endif
	__MAX_NR_ZONES,
};
#define MAX_NR_ZONES __MAX_NR_ZONES

enum zone_watermarks {
	WMARK_MIN,
	WMARK_LOW,
	WMARK_HIGH,
#if KERNEL >= 5.18
	WMARK_PROMO,
#endif
	NR_WMARK,
};

enum pgdat_flags {
#if KERNEL < 5.10
	PGDAT_CONGESTED,
#endif
#if KERNEL < 7.1
	PGDAT_DIRTY,
#endif
	PGDAT_WRITEBACK,
	PGDAT_RECLAIM_LOCKED,
};

#if KERNEL >= 5.0
enum zone_flags {
	ZONE_BOOSTED_WATERMARK,
#if KERNEL >= 5.14
	ZONE_RECLAIM_ACTIVE,
#endif
#if KERNEL >= 6.7
	ZONE_BELOW_HIGH,
#endif
};
#endif

struct free_area {
	struct list_head free_list[MIGRATE_TYPES];
	unsigned long nr_free;
};

#if KERNEL < 6.1
struct zone_padding {
	char x[0];
} INTERNODE_ALIGNED;
#define PADDING struct zone_padding
#else
struct cacheline_padding {
	char x[0];
} INTERNODE_ALIGNED;
#define PADDING struct cacheline_padding
#endif

struct memory_tier;
struct pglist_data;
struct zone;

struct zone {
#if KERNEL < 5.0
	unsigned long watermark[NR_WMARK];
#else
	unsigned long _watermark[NR_WMARK];
	unsigned long watermark_boost;
#endif
	unsigned long nr_reserved_highatomic;
#if KERNEL >= 6.12
	/* 6.13, and the stable releases of 6.12. */
	unsigned long nr_free_highatomic;
#endif
	long lowmem_reserve[MAX_NR_ZONES];
#ifdef CONFIG_NUMA
	int node;
#endif
	struct pglist_data *zone_pgdat;
#if KERNEL < 5.14
	struct per_cpu_pageset *pageset;
#else
	struct per_cpu_pages *per_cpu_pageset;
	struct per_cpu_zonestat *per_cpu_zonestats;
#if KERNEL < 6.7
	int pageset_high;
#else
	int pageset_high_min;
	int pageset_high_max;
#endif
	int pageset_batch;
#endif
	unsigned long zone_start_pfn;
#if KERNEL < 5.0
	unsigned long managed_pages;
#else
	atomic_long_t managed_pages;
#endif
	unsigned long spanned_pages;
	unsigned long present_pages;
#if KERNEL >= 5.15 && defined(CONFIG_MEMORY_HOTPLUG)
	unsigned long present_early_pages;
#endif
#if KERNEL >= 5.12 && defined(CONFIG_CMA)
	unsigned long cma_pages;
#endif
	const char *name;
#ifdef CONFIG_MEMORY_ISOLATION
	unsigned long nr_isolate_pageblock;
#endif
#ifdef CONFIG_MEMORY_HOTPLUG
	seqlock_t span_seqlock;
#endif
	int initialized;
	PADDING _pad1_;
	struct free_area free_area[NR_PAGE_ORDERS];
#if KERNEL >= 6.5 && defined(CONFIG_UNACCEPTED_MEMORY)
	struct list_head unaccepted_pages;
#if KERNEL >= 6.15
	struct work_struct unaccepted_cleanup;
#endif
#endif
	unsigned long flags;
	spinlock_t lock;
#if KERNEL >= 6.15
	struct llist_head trylock_free_pages;
#endif
	PADDING _pad2_;
	unsigned long percpu_drift_mark;
	unsigned long compact_cached_free_pfn;
	unsigned long compact_cached_migrate_pfn[2];
#if KERNEL >= 5.1
	unsigned long compact_init_migrate_pfn;
	unsigned long compact_init_free_pfn;
#endif
#ifdef CONFIG_COMPACTION
	unsigned int compact_considered;
	unsigned int compact_defer_shift;
	int compact_order_failed;
#endif
	bool compact_blockskip_flush;
	bool contiguous;
	PADDING _pad3_;
	atomic_long_t vm_stat[NR_VM_ZONE_STAT_ITEMS];
#if KERNEL < 5.14
	atomic_long_t vm_numa_stat[NR_VM_NUMA_STAT_ITEMS];
#else
	atomic_long_t vm_numa_event[NR_VM_NUMA_EVENT_ITEMS];
#endif
#if KERNEL >= 7.1 && defined(CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP)
	/* Pages of tails that hugetlb's folios share, by order; with them compound_info is a mask (7.1). */
	struct page *vmemmap_tails[16];
#endif
} INTERNODE_ALIGNED;

#define MAX_ZONES_PER_ZONELIST (MAX_NUMNODES * MAX_NR_ZONES)

struct zoneref {
	struct zone *zone;
	int zone_idx;
};

struct zonelist {
	struct zoneref _zonerefs[MAX_ZONES_PER_ZONELIST + 1];
};

enum {
	ZONELIST_FALLBACK,
#ifdef CONFIG_NUMA
	ZONELIST_NOFALLBACK,
#endif
	MAX_ZONELISTS,
};

#if defined(CONFIG_TRANSPARENT_HUGEPAGE) && KERNEL >= 5.4 && KERNEL < 7.2
/* A list_lru keeps them since 7.2. */
struct deferred_split {
	spinlock_t split_queue_lock;
	struct list_head split_queue;
	unsigned long split_queue_len;
};
#endif

#if KERNEL >= 6.3 && defined(CONFIG_MEMORY_FAILURE)
struct memory_failure_stats {
	unsigned long total;
	unsigned long ignored;
	unsigned long failed;
	unsigned long delayed;
	unsigned long recovered;
};
#endif

typedef struct pglist_data {
	struct zone node_zones[MAX_NR_ZONES];
	struct zonelist node_zonelists[MAX_ZONELISTS];
	int nr_zones;
#if defined(CONFIG_MEMORY_HOTPLUG) || defined(CONFIG_DEFERRED_STRUCT_PAGE_INIT)
	spinlock_t node_size_lock;
#endif
	unsigned long node_start_pfn;
	unsigned long node_present_pages;
	unsigned long node_spanned_pages;
	int node_id;
	wait_queue_head_t kswapd_wait;
	wait_queue_head_t pfmemalloc_wait;
#if KERNEL >= 5.16
	/* Reclaim that waits, by reason (5.16). */
	wait_queue_head_t reclaim_wait[4];
	atomic_t nr_writeback_throttled;
	unsigned long nr_reclaim_start;
#endif
#if KERNEL >= 6.1 && defined(CONFIG_MEMORY_HOTPLUG)
	struct mutex kswapd_lock;
#endif
	struct task_struct *kswapd;
	int kswapd_order;
#if KERNEL < 5.8
	enum zone_type kswapd_classzone_idx;
#else
	enum zone_type kswapd_highest_zoneidx;
#endif
#if KERNEL < 6.18
	int kswapd_failures;
#else
	atomic_t kswapd_failures;
#endif
#ifdef CONFIG_COMPACTION
	int kcompactd_max_order;
#if KERNEL < 5.8
	enum zone_type kcompactd_classzone_idx;
#else
	enum zone_type kcompactd_highest_zoneidx;
#endif
	wait_queue_head_t kcompactd_wait;
	struct task_struct *kcompactd;
#if KERNEL >= 5.15
	bool proactive_compact_trigger;
#endif
#endif
	unsigned long totalreserve_pages;
#ifdef CONFIG_NUMA
	unsigned long min_unmapped_pages;
	unsigned long min_slab_pages;
#endif
	PADDING _pad1_;
#if KERNEL < 5.11
	/* A lock for each memory cgroup's lists since 5.11. */
	spinlock_t lru_lock;
#endif
#ifdef CONFIG_DEFERRED_STRUCT_PAGE_INIT
	unsigned long first_deferred_pfn;
#endif
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#if KERNEL < 5.4
	spinlock_t split_queue_lock;
	struct list_head split_queue;
	unsigned long split_queue_len;
#elif KERNEL < 7.2
	struct deferred_split deferred_split_queue;
#endif
#endif
#if KERNEL >= 6.1 && defined(CONFIG_NUMA_BALANCING)
	unsigned int nbp_rl_start;
	unsigned long nbp_rl_nr_cand;
	unsigned int nbp_threshold;
	unsigned int nbp_th_start;
	unsigned long nbp_th_nr_cand;
#endif
#if KERNEL < 5.7
	struct lruvec lruvec;
#else
	struct lruvec __lruvec;
#endif
	unsigned long flags;
#if KERNEL >= 6.1 && defined(CONFIG_LRU_GEN)
	struct lru_gen_mm_walk mm_walk;
#if KERNEL >= 6.3
	struct lru_gen_memcg memcg_lru;
#endif
#endif
	PADDING _pad2_;
	struct per_cpu_nodestat *per_cpu_nodestats;
	atomic_long_t vm_stat[NR_VM_NODE_STAT_ITEMS];
#if KERNEL >= 6.1 && defined(CONFIG_NUMA)
	struct memory_tier *memtier;
#endif
#if KERNEL >= 6.3 && defined(CONFIG_MEMORY_FAILURE)
	struct memory_failure_stats mf_stats;
#endif
} pg_data_t;
