/* Free pages that a CPU keeps for itself, and its counters: include/linux/mmzone.h. */

#if KERNEL < 5.14
/* Statistics of the CPU are beside its pages up to 5.13. */
struct per_cpu_pages {
	int count;
	int high;
	int batch;
	struct list_head lists[MIGRATE_PCPTYPES];
};

struct per_cpu_pageset {
	struct per_cpu_pages pcp;
	s8 expire;
	u16 vm_numa_stat_diff[NR_VM_NUMA_STAT_ITEMS];
	s8 stat_threshold;
	s8 vm_stat_diff[NR_VM_ZONE_STAT_ITEMS];
};
#else
/* Lists for the orders 0 to 3, and for huge pages: one, two since 6.10, and three up to 5.x. */
#define NR_LOWORDER_PCP_LISTS (MIGRATE_PCPTYPES * 4)
#ifndef CONFIG_TRANSPARENT_HUGEPAGE
#define NR_PCP_THP 0
#elif KERNEL < 6.0
#define NR_PCP_THP MIGRATE_PCPTYPES
#elif KERNEL >= 6.10 || KERNEL == 6.1
/* Two in the stable releases of 6.1, too. */
#define NR_PCP_THP 2
#else
#define NR_PCP_THP 1
#endif
#define NR_PCP_LISTS (NR_LOWORDER_PCP_LISTS + NR_PCP_THP)

struct per_cpu_pages {
#if KERNEL >= 6.0
	spinlock_t lock;
#endif
	int count;
	int high;
#if KERNEL < 6.7
	int batch;
	short free_factor;
	short expire;
#else
	/* Between two bounds since 6.7. */
	int high_min;
	int high_max;
	int batch;
	u8 flags;
	u8 alloc_factor;
	u8 expire;
	short free_count;
#endif
	struct list_head lists[NR_PCP_LISTS];
#if KERNEL < 6.0
};
#else
} INTERNODE_ALIGNED;
#endif

struct per_cpu_zonestat {
	s8 vm_stat_diff[NR_VM_ZONE_STAT_ITEMS];
	s8 stat_threshold;
#if KERNEL < 5.15
	u16 vm_numa_stat_diff[NR_VM_NUMA_STAT_ITEMS];
#else
	unsigned long vm_numa_event[NR_VM_NUMA_EVENT_ITEMS];
#endif
};
#endif

struct per_cpu_nodestat {
	s8 stat_threshold;
	s8 vm_node_stat_diff[NR_VM_NODE_STAT_ITEMS];
};
