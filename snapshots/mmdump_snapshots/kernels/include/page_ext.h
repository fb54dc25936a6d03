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
	/* The page pinner; never in mainline. */
#if PINNER == PINNER_RFC
	PAGE_EXT_PINNER,
#elif PINNER == PINNER_PIN_OWNER
	PAGE_EXT_PIN_OWNER,
#elif PINNER < PINNER_B1
	PAGE_EXT_GET,
#endif
#if PINNER >= PINNER_A1
	PAGE_EXT_PINNER_MIGRATION_FAILED,
#endif
#endif
};

typedef u32 depot_stack_handle_t;

#if defined(CONFIG_PAGE_PINNER) && PINNER >= PINNER_A0
/* Android's page pinner (mm/page_pinner.c): times are boottime, in microseconds. */
struct page_pinner {
	depot_stack_handle_t handle;
#if PINNER >= PINNER_B2
	u64 ts_usec;
#else
	s64 ts_usec;
#endif
	atomic_t count;
};

#if PINNER >= PINNER_B0
enum pp_state {
	PP_PUT,
	PP_FREE,
	PP_FAIL_DETECTED,
};
#endif

struct captured_pinner {
	depot_stack_handle_t handle;
#if PINNER < PINNER_A2
	s64 ts_usec;
	int page_mt;
	unsigned long page_flags;
	unsigned long pfn;
#else
	union {
#if PINNER >= PINNER_B2
		u64 ts_usec;
		u64 elapsed;
#else
		s64 ts_usec;
		s64 elapsed;
#endif
	};
	unsigned long pfn;
	int count;
	int mapcount;
	struct address_space *mapping;
	unsigned long flags;
#if PINNER >= PINNER_B0
	enum pp_state state;
#endif
#endif
};

#define PP_BUF_SIZE 4096

#if PINNER < PINNER_B0
struct longterm_pinner {
	spinlock_t lock;
	unsigned int index;
	struct captured_pinner pinner[PP_BUF_SIZE];
};
#elif PINNER < PINNER_B1
struct page_pinner_buffer {
	spinlock_t lock;
	unsigned int index;
	struct captured_pinner buffer[PP_BUF_SIZE];
};
#else
struct page_pinner_buffer {
	spinlock_t lock;
	unsigned long index;
	struct captured_pinner *buffer;
};
#endif
#endif

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
