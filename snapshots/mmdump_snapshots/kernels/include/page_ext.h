/* Extra data of pages and the clients that keep it: include/linux/page_ext.h, mm/page_owner.c, mm/page_table_check.c. */

struct page_ext {
	unsigned long flags;
};

struct page_ext_operations {
	size_t offset;
	size_t size;
	bool (*need)(void);
	void (*init)(void);
#if KERNEL >= 6.3
	/* 6.3: entries have a flags word only where a client asks for it. */
	bool need_shared_flags;
#endif
};

enum page_ext_flags {
#if KERNEL < 4.18
	PAGE_EXT_DEBUG_POISON,
#endif
#if KERNEL < 5.3
	/* 5.3 made guard pages a page type. */
	PAGE_EXT_DEBUG_GUARD,
#endif
	PAGE_EXT_OWNER,
#if KERNEL >= 5.4
	/* 5.4 keeps the record of a page that was freed. */
	PAGE_EXT_OWNER_ALLOCATED,
#endif
#ifdef CONFIG_PAGE_PINNER
	/* The page pinner of the RFC; never in mainline. */
	PAGE_EXT_PINNER,
#endif
};

typedef u32 depot_stack_handle_t;

struct page_owner {
	unsigned short order;
	short last_migrate_reason;
	gfp_t gfp_mask;
	depot_stack_handle_t handle;
#if KERNEL >= 5.4
	depot_stack_handle_t free_handle;
#endif
#if KERNEL >= 5.11
	u64 ts_nsec;
#endif
#if KERNEL >= 5.13
	u64 free_ts_nsec;
#endif
#if KERNEL >= 5.18
	char comm[16];
#endif
#if KERNEL >= 5.11
	pid_t pid;
#endif
#if KERNEL >= 5.18
	pid_t tgid;
#endif
#if KERNEL >= 6.8
	pid_t free_pid;
	pid_t free_tgid;
#endif
};

#if KERNEL >= 6.9
/* 6.9: page_owner lists the stacks it has met, and how many base pages each has. */
struct stack_record;
struct stack {
	struct stack_record *stack_record;
	struct stack *next;
};
#endif

#if KERNEL >= 5.17
struct page_table_check {
	atomic_t anon_map_count;
	atomic_t file_map_count;
};
#endif
