/*
 * Basic types: integers, atomics, lists, trees, locks. include/linux/types.h, list.h, rbtree_types.h, spinlock_types.h,
 * mutex.h, rwsem.h, wait.h, cpumask.h, nodemask.h.
 */

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef short s16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef s32 __s32;
typedef u64 __u64;
typedef s64 __s64;
typedef _Bool bool;

typedef unsigned long size_t;
typedef long ssize_t;
typedef long long loff_t;
typedef unsigned long uintptr_t;
typedef unsigned int gfp_t;
typedef unsigned int slab_flags_t;
typedef unsigned int fmode_t;
typedef unsigned short umode_t;
typedef u32 dev_t;
typedef u32 errseq_t;
typedef int pid_t;
typedef u64 dma_addr_t;
typedef u64 phys_addr_t;
typedef u64 sector_t;
typedef unsigned long pgoff_t;
typedef unsigned long vm_flags_t;
typedef unsigned long kernel_ulong_t;

typedef struct {
	unsigned int val;
} kuid_t;

typedef struct {
	unsigned int val;
} kgid_t;

typedef struct {
	int counter;
} atomic_t;

typedef struct {
#if KERNEL >= 5.6
	/* 5.6 made it signed 64-bit everywhere. */
	s64 counter;
#else
	long counter;
#endif
} atomic64_t;

typedef atomic64_t atomic_long_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

struct kref {
	refcount_t refcount;
};

struct list_head {
	struct list_head *next, *prev;
};

struct hlist_head {
	struct hlist_node *first;
};

struct hlist_node {
	struct hlist_node *next, **pprev;
};

struct hlist_nulls_head {
	struct hlist_nulls_node *first;
};

struct hlist_nulls_node {
	struct hlist_nulls_node *next, **pprev;
};

struct llist_head {
	struct llist_node *first;
};

struct llist_node {
	struct llist_node *next;
};

struct rb_node {
	unsigned long __rb_parent_color;
	struct rb_node *rb_right;
	struct rb_node *rb_left;
} __attribute__((aligned(8)));

struct rb_root {
	struct rb_node *rb_node;
};

struct rb_root_cached {
	struct rb_root rb_root;
	struct rb_node *rb_leftmost;
};

/* The kernel's `struct rcu_head` is a macro for this. */
struct callback_head {
	struct callback_head *next;
	void (*func)(struct callback_head *head);
} __attribute__((aligned(8)));

typedef struct qspinlock {
	union {
		atomic_t val;
		struct {
			u8 locked;
			u8 pending;
		};
		struct {
			u16 locked_pending;
			u16 tail;
		};
	};
} arch_spinlock_t;

typedef struct qrwlock {
	union {
		atomic_t cnts;
		struct {
			u8 wlocked;
			u8 __lstate[3];
		};
	};
	arch_spinlock_t wait_lock;
} arch_rwlock_t;

typedef struct raw_spinlock {
	arch_spinlock_t raw_lock;
} raw_spinlock_t;

typedef struct spinlock {
	union {
		struct raw_spinlock rlock;
	};
} spinlock_t;

typedef struct {
	arch_rwlock_t raw_lock;
} rwlock_t;

/* Nothing without lock debugging. A tag came in 7.1. */
#if KERNEL >= 7.1
typedef struct local_lock {
} local_lock_t;
#else
typedef struct {
} local_lock_t;
#endif

typedef struct seqcount {
	unsigned int sequence;
} seqcount_t;

/* Before 5.10 seqlocks held a plain counter; since then one typed by its lock, of the same size. */
#if KERNEL >= 5.10
typedef struct seqcount_spinlock {
	seqcount_t seqcount;
} seqcount_spinlock_t;

typedef struct {
	seqcount_spinlock_t seqcount;
	spinlock_t lock;
} seqlock_t;
#else
typedef struct {
	struct seqcount seqcount;
	spinlock_t lock;
} seqlock_t;
#endif

struct optimistic_spin_queue {
	atomic_t tail;
};

struct mutex_waiter;
struct mutex {
	atomic_long_t owner;
#if KERNEL >= 5.15
	raw_spinlock_t wait_lock;
#else
	spinlock_t wait_lock;
#endif
	struct optimistic_spin_queue osq;
#if KERNEL >= 7.1
	/* 7.1: a pointer to the first waiter in place of a list. */
	struct mutex_waiter *first_waiter;
#else
	struct list_head wait_list;
#endif
};

struct task_struct;
struct rwsem_waiter;
struct rw_semaphore {
	atomic_long_t count;
#if KERNEL >= 5.3
	/* 5.3 reordered it; the owner became a number with flag bits. */
	atomic_long_t owner;
	struct optimistic_spin_queue osq;
	raw_spinlock_t wait_lock;
#if KERNEL >= 7.1
	struct rwsem_waiter *first_waiter;
#else
	struct list_head wait_list;
#endif
#else
	struct list_head wait_list;
	raw_spinlock_t wait_lock;
	struct optimistic_spin_queue osq;
	struct task_struct *owner;
#endif
};

typedef struct wait_queue_head {
	spinlock_t lock;
	struct list_head head;
} wait_queue_head_t;

struct swait_queue_head {
	raw_spinlock_t lock;
	struct list_head task_list;
};

struct completion {
	unsigned int done;
#if KERNEL >= 5.7
	/* Simple wait queues since 5.7. */
	struct swait_queue_head wait;
#else
	wait_queue_head_t wait;
#endif
};

#define BITS_PER_LONG 64
#define MAX_NUMNODES (1 << CONFIG_NODES_SHIFT)

typedef struct cpumask {
	unsigned long bits[(CONFIG_NR_CPUS + 63) / 64];
} cpumask_t;

typedef struct {
	unsigned long bits[(MAX_NUMNODES + 63) / 64];
} nodemask_t;

typedef struct {
	atomic_long_t a;
} local_t;

/* For lockdep; empty without it. */
struct lock_class_key {
};

struct percpu_counter {
	raw_spinlock_t lock;
	s64 count;
	struct list_head list;
	s32 *counters;
};
