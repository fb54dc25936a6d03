/* Process IDs and namespaces: include/linux/pid.h, pid_namespace.h, utsname.h, nsproxy.h, ns_common.h. */

struct dentry;
struct proc_ns_operations;
struct user_namespace;
struct ucounts;
struct kmem_cache;
struct pid_namespace;
struct pidfs_attr;
struct rhash_head;
struct task_struct;

enum pid_type {
	PIDTYPE_PID,
	PIDTYPE_TGID,
	PIDTYPE_PGID,
	PIDTYPE_SID,
	PIDTYPE_MAX,
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

#if KERNEL >= 7.1
/* 7.1 hashes pidfs' inodes. */
struct rhash_head {
	struct rhash_head *next;
};
#endif

struct pid {
#if KERNEL >= 5.4
	refcount_t count;
#else
	atomic_t count;
#endif
	unsigned int level;
#if KERNEL >= 5.7
	spinlock_t lock;
#endif
#if KERNEL >= 6.17
	/* 6.17 grouped what pidfs needs. */
	struct {
		u64 ino;
#if KERNEL >= 7.1
		struct rhash_head pidfs_hash;
#else
		struct rb_node pidfs_node;
#endif
		struct dentry *stashed;
		struct pidfs_attr *attr;
	};
#elif KERNEL >= 6.9
	struct dentry *stashed;
	u64 ino;
#endif
	struct hlist_head tasks[PIDTYPE_MAX];
#if KERNEL >= 5.7
	struct hlist_head inodes;
#endif
#if KERNEL >= 5.3
	wait_queue_head_t wait_pidfd;
#endif
	struct callback_head rcu;
#if KERNEL >= 6.1
	struct upid numbers[];
#else
	struct upid numbers[1];
#endif
};

struct ns_common {
#if KERNEL >= 7.1
	struct {
		refcount_t __ns_ref;
	} __attribute__((aligned(64)));
#endif
#if KERNEL >= 6.18
	u32 ns_type;
#endif
#if KERNEL >= 6.9
	struct dentry *stashed;
#else
	atomic_long_t stashed;
#endif
	const struct proc_ns_operations *ops;
	unsigned int inum;
#if KERNEL >= 6.18 && KERNEL < 7.1
	refcount_t __ns_ref;
#elif KERNEL >= 5.11 && KERNEL < 6.18
	refcount_t count;
#endif
#if KERNEL >= 6.18
	union {
#if KERNEL >= 7.1
		/* Trees of namespaces. */
		unsigned long __left_out_ns_tree[20];
#endif
		struct callback_head ns_rcu;
	};
#endif
};

/* Shortened at its end, and since 6.14 without the sysctl tables of the namespace. */
struct pid_namespace {
#if KERNEL < 5.11
	struct kref kref;
#endif
	struct idr idr;
	struct callback_head rcu;
	unsigned int pid_allocated;
#if KERNEL >= 6.14
	/* A namespace has its own pid_max, and tables of settings for it (6.14). */
	int memfd_noexec_scope;
	unsigned long __left_out_settings[14];
#endif
	struct task_struct *child_reaper;
	struct kmem_cache *pid_cachep;
	unsigned int level;
#if KERNEL >= 6.14
	int pid_max;
#endif
	struct pid_namespace *parent;
#ifdef CONFIG_BSD_PROCESS_ACCT
	struct fs_pin *bacct;
#endif
	struct user_namespace *user_ns;
	struct ucounts *ucounts;
	int reboot;
	struct ns_common ns;
	unsigned long __left_out_to_the_end[0];
};

struct new_utsname {
	char sysname[65];
	char nodename[65];
	char release[65];
	char version[65];
	char machine[65];
	char domainname[65];
};

struct uts_namespace {
#if KERNEL < 5.11
	struct kref kref;
#endif
	struct new_utsname name;
	struct user_namespace *user_ns;
	struct ucounts *ucounts;
	struct ns_common ns;
};

/* Shortened at its end. */
struct nsproxy {
#if KERNEL >= 6.7
	refcount_t count;
#else
	atomic_t count;
#endif
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
	unsigned long __left_out_to_the_end[0];
};
