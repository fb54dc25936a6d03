/*
 * Tasks: include/linux/sched.h, sched/signal.h, asm/thread_info.h, kernel/sched/sched.h.
 *
 * These structures are shortened. Members stand in the order of the kernel's; what is left out between them is one
 * array each, `__left_out_...`, about as long as what it stands for.
 */

struct mm_struct;
struct files_struct;
struct fs_struct;
struct sighand_struct;
struct signal_struct;
struct css_set;
struct cred;

struct thread_info {
	unsigned long flags;
#ifdef ARM64
	union {
		u64 preempt_count;
		struct {
			u32 count;
			u32 need_resched;
		} preempt;
	};
#else
#if KERNEL >= 5.11
	unsigned long syscall_work;
#endif
	u32 status;
#endif
#if KERNEL >= 5.16
	/* 5.16 moved it here from struct task_struct. */
	u32 cpu;
#endif
};

typedef struct {
	unsigned long sig[1];
} sigset_t;

#if KERNEL >= 5.8
/* A function to call on another CPU, or a task to wake there (5.8). */
struct __call_single_node {
	struct llist_node llist;
	union {
		unsigned int u_flags;
		atomic_t a_flags;
	};
#if KERNEL >= 5.10
	u16 src, dst;
#endif
};
#endif

struct task_struct {
	struct thread_info thread_info;
#if KERNEL >= 5.14
	unsigned int __state;
#else
	long state;
#endif
#if KERNEL >= 6.7
	unsigned int saved_state;
#endif
	void *stack;
#if KERNEL >= 5.3
	refcount_t usage;
#else
	atomic_t usage;
#endif
	unsigned int flags;
	unsigned int ptrace;
#if KERNEL >= 6.10 && defined(CONFIG_MEM_ALLOC_PROFILING)
	struct alloc_tag *alloc_tag;
#endif
#if KERNEL < 5.8
	struct llist_node wake_entry;
	int on_cpu;
	unsigned int cpu;
#elif KERNEL < 7.2
	int on_cpu;
	struct __call_single_node wake_entry;
#if KERNEL < 5.16
	unsigned int cpu;
#endif
#else
	u8 on_cpu;
	u8 on_rq;
	u8 is_blocked;
	u8 __pad;
	struct __call_single_node wake_entry;
#endif
	unsigned int wakee_flips;
	unsigned long wakee_flip_decay_ts;
	struct task_struct *last_wakee;
	int recent_used_cpu;
	int wake_cpu;
#if KERNEL < 7.2
	int on_rq;
#endif
	int prio;
	int static_prio;
	int normal_prio;
	unsigned int rt_priority;
	unsigned long __left_out_scheduling[70];
	unsigned int policy;
	int nr_cpus_allowed;
	cpumask_t cpus_mask;
	unsigned long __left_out_rcu[6];
	struct list_head tasks;
	unsigned long __left_out_pushable[8];
	struct mm_struct *mm;
	struct mm_struct *active_mm;
	int exit_state;
	int exit_code;
	int exit_signal;
	int pdeath_signal;
	unsigned long jobctl;
	unsigned int personality;
	unsigned long __left_out_flags[8];
	pid_t pid;
	pid_t tgid;
#ifdef CONFIG_STACKPROTECTOR
	unsigned long stack_canary;
#endif
	struct task_struct *real_parent;
	struct task_struct *parent;
	struct list_head children;
	struct list_head sibling;
	struct task_struct *group_leader;
	struct list_head ptraced;
	struct list_head ptrace_entry;
	struct pid *thread_pid;
	struct hlist_node pid_links[PIDTYPE_MAX];
#if KERNEL < 6.7
	/* 6.7 removed it: thread_node does the same. */
	struct list_head thread_group;
#endif
	struct list_head thread_node;
	struct completion *vfork_done;
	int *set_child_tid;
	int *clear_child_tid;
	u64 utime;
	u64 stime;
	u64 gtime;
	unsigned long __left_out_cputime[3];
	unsigned long nvcsw;
	unsigned long nivcsw;
	u64 start_time;
#if KERNEL >= 5.5
	u64 start_boottime;
#else
	u64 real_start_time;
#endif
	unsigned long min_flt;
	unsigned long maj_flt;
	unsigned long __left_out_timers[12];
	const struct cred *real_cred;
	const struct cred *cred;
	char comm[16];
	unsigned long __left_out_sysvipc[4];
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct sighand_struct *sighand;
	sigset_t blocked;
	unsigned long __left_out_signals[30];
	struct css_set *cgroups;
	struct list_head cg_list;
	unsigned long __left_out_to_the_end[256];
} __attribute__((aligned(64)));

struct signal_struct {
#if KERNEL >= 5.3
	refcount_t sigcnt;
#else
	atomic_t sigcnt;
#endif
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
	wait_queue_head_t wait_chldexit;
	struct task_struct *curr_target;
	unsigned long __left_out_timers[34];
	struct pid *pids[PIDTYPE_MAX];
	unsigned long __left_out_to_the_end[70];
};

struct rq {
#if KERNEL >= 7.0
	unsigned int nr_running;
	unsigned long __left_out_numa[2];
	struct task_struct *curr;
	struct task_struct *idle;
	unsigned long __left_out_clock[4];
	raw_spinlock_t __lock;
#else
#if KERNEL >= 5.14
	raw_spinlock_t __lock;
#else
	raw_spinlock_t lock;
#endif
	unsigned int nr_running;
	unsigned long __left_out_queues[280];
	struct task_struct *curr;
	struct task_struct *idle;
#endif
	struct task_struct *stop;
	unsigned long next_balance;
	struct mm_struct *prev_mm;
#if KERNEL >= 7.0
	u64 clock;
	unsigned int clock_update_flags;
#else
	unsigned int clock_update_flags;
	u64 clock;
#endif
	unsigned long __left_out_domains[20];
	int cpu;
	int online;
	unsigned long __left_out_to_the_end[40];
} __attribute__((aligned(64)));
