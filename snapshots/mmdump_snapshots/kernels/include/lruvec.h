/* LRU lists, those of the multi-generational LRU too: include/linux/mmzone.h. */

#if KERNEL < 5.9
struct zone_reclaim_stat {
	unsigned long recent_rotated[2];
	unsigned long recent_scanned[2];
};
#endif

#ifdef CONFIG_LRU_GEN
#if KERNEL < 6.2
#define LRU_GEN_MM_STATS 6
struct lru_gen_struct {
#else
#define LRU_GEN_MM_STATS 4
struct lru_gen_folio {
#endif
	unsigned long max_seq;
	unsigned long min_seq[2];
	unsigned long timestamps[4];
	struct list_head folios[4][2][MAX_NR_ZONES];
	long nr_pages[4][2][MAX_NR_ZONES];
	unsigned long avg_refaulted[2][4];
	unsigned long avg_total[2][4];
#if KERNEL < 6.18
	unsigned long protected[1][2][3];
#else
	unsigned long protected[1][2][4];
#endif
	atomic_long_t evicted[1][2][4];
	atomic_long_t refaulted[1][2][4];
	bool enabled;
#if KERNEL >= 6.3
	u8 gen;
	u8 seg;
	struct hlist_nulls_node list;
#endif
};

struct lruvec;

struct lru_gen_mm_state {
	unsigned long seq;
	struct list_head *head;
	struct list_head *tail;
#if KERNEL < 6.2
	struct wait_queue_head wait;
#endif
	unsigned long *filters[2];
	unsigned long stats[1][LRU_GEN_MM_STATS];
#if KERNEL < 6.2
	int nr_walkers;
#endif
};

struct lru_gen_mm_walk {
	struct lruvec *lruvec;
#if KERNEL < 6.9
	unsigned long max_seq;
#else
	unsigned long seq;
#endif
	unsigned long next_addr;
	int nr_pages[4][2][MAX_NR_ZONES];
	int mm_stats[LRU_GEN_MM_STATS];
	int batched;
#if KERNEL < 6.15
	bool can_swap;
#else
	int swappiness;
#endif
	bool force_scan;
};

#if KERNEL >= 6.3
struct lru_gen_memcg {
	unsigned long seq;
	unsigned long nr_memcgs[3];
	struct hlist_nulls_head fifo[3][8];
	spinlock_t lock;
};
#endif
#endif

#if KERNEL >= 6.8
struct zswap_lruvec_state {
#ifdef CONFIG_ZSWAP
	atomic_long_t nr_disk_swapins;
#endif
};
#endif

struct lruvec {
	struct list_head lists[NR_LRU_LISTS];
#if KERNEL >= 5.11
	spinlock_t lru_lock;
#endif
#if KERNEL < 5.9
	struct zone_reclaim_stat reclaim_stat;
	atomic_long_t inactive_age;
	unsigned long refaults;
#else
	unsigned long anon_cost;
	unsigned long file_cost;
	atomic_long_t nonresident_age;
	unsigned long refaults[2];
	unsigned long flags;
#endif
#ifdef CONFIG_LRU_GEN
#if KERNEL < 6.2
	struct lru_gen_struct lrugen;
#else
	struct lru_gen_folio lrugen;
#endif
#if KERNEL < 6.8 || defined(CONFIG_LRU_GEN_WALKS_MMU)
	struct lru_gen_mm_state mm_state;
#endif
#endif
#ifdef CONFIG_MEMCG
	struct pglist_data *pgdat;
#endif
#if KERNEL >= 6.8
	struct zswap_lruvec_state zswap_lruvec_state;
#endif
};
