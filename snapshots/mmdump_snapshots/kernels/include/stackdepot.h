/* The stack depot: lib/stackdepot.c, and since 6.9 include/linux/stackdepot.h. */

/* Offsets are in units of 16 bytes, and a pool has four pages: the wider a page, the fewer bits name the pool. */
#define DEPOT_OFFSET_BITS (2 + PAGE_SHIFT - 4)
#define DEPOT_MAX_POOLS 8192
#define STACK_HASH_ORDER 20

union handle_parts {
	depot_stack_handle_t handle;
	struct {
#if KERNEL >= 6.9
		/* 6.9: no handle is 0. The valid bit had gone in 6.8. */
		u32 pool_index_plus_1 : 32 - DEPOT_OFFSET_BITS - 5;
		u32 offset : DEPOT_OFFSET_BITS;
		u32 extra : 5;
#elif KERNEL >= 6.8
		u32 pool_index : 32 - DEPOT_OFFSET_BITS - 5;
		u32 offset : DEPOT_OFFSET_BITS;
		u32 extra : 5;
#elif KERNEL >= 6.3
		/* 6.3 called slabs pools. */
		u32 pool_index : 32 - DEPOT_OFFSET_BITS - 6;
		u32 offset : DEPOT_OFFSET_BITS;
		u32 valid : 1;
		u32 extra : 5;
#elif KERNEL >= 6.1
		/* 6.1 left bits for the user, KMSAN. */
		u32 slabindex : 32 - DEPOT_OFFSET_BITS - 6;
		u32 offset : DEPOT_OFFSET_BITS;
		u32 valid : 1;
		u32 extra : 5;
#else
		u32 slabindex : 32 - DEPOT_OFFSET_BITS - 1;
		u32 offset : DEPOT_OFFSET_BITS;
		u32 valid : 1;
#endif
	};
};

struct stack_record {
#if KERNEL >= 6.8
	/* 6.8: records that can be evicted again, counted. Those that stay are allocated without their unused entries. */
	struct list_head hash_list;
	u32 hash;
	u32 size;
	union handle_parts handle;
	refcount_t count;
	union {
		unsigned long entries[64];
		struct {
			struct list_head free_list;
			unsigned long rcu_state;
		};
	};
#else
	struct stack_record *next;
	u32 hash;
	u32 size;
	union handle_parts handle;
#if KERNEL >= 5.11
	unsigned long entries[];
#else
	unsigned long entries[1];
#endif
#endif
};
