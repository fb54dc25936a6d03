/*
 * Whom a page is charged to: include/linux/memcontrol.h, cgroup-defs.h, percpu-refcount.h, kernfs.h.
 * struct mem_cgroup, struct cgroup and struct kernfs_node are shortened at their end.
 */

struct cgroup;
struct cgroup_subsys;
struct cgroup_subsys_state;
struct css_rstat_cpu;
struct percpu_ref_data;
struct kernfs_node;
struct mem_cgroup;

struct percpu_ref {
#if KERNEL >= 5.10
	/* 5.10 put what is seldom used behind a pointer. */
	unsigned long percpu_count_ptr;
	struct percpu_ref_data *data;
#else
	atomic_long_t count;
	unsigned long percpu_count_ptr;
	void (*release)(struct percpu_ref *ref);
	void (*confirm_switch)(struct percpu_ref *ref);
	bool force_atomic : 1;
#if KERNEL >= 5.2
	bool allow_reinit : 1;
#endif
	struct callback_head rcu;
#endif
};

/* enum without a tag: CSS_ONLINE says that the cgroup has not been removed. */
enum {
	CSS_NO_REF = 1,
	CSS_ONLINE = 2,
	CSS_RELEASED = 4,
	CSS_VISIBLE = 8,
	CSS_DYING = 16,
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys *ss;
	struct percpu_ref refcnt;
#if KERNEL >= 6.16
	struct css_rstat_cpu *rstat_cpu;
#endif
	struct list_head sibling;
	struct list_head children;
#if KERNEL < 6.16
	struct list_head rstat_css_node;
#endif
	int id;
	unsigned int flags;
	u64 serial_nr;
	atomic_t online_cnt;
	struct work_struct destroy_work;
	struct rcu_work destroy_rwork;
	struct cgroup_subsys_state *parent;
#if KERNEL >= 6.12
	int nr_descendants;
#endif
#if KERNEL >= 7.2
	int nr_populated_csets;
	int nr_populated_children;
	struct work_struct kill_finish_work;
#endif
#if KERNEL >= 6.16
	struct cgroup_subsys_state *rstat_flush_next;
#endif
};

struct kernfs_node {
	atomic_t count;
	atomic_t active;
#if KERNEL >= 6.15
	struct kernfs_node *__parent;
#else
	struct kernfs_node *parent;
#endif
	const char *name;
	struct rb_node rb;
	const void *ns;
	unsigned int hash;
	unsigned long __left_out_to_the_end[0];
};

struct cgroup {
	struct cgroup_subsys_state self;
	unsigned long flags;
#if KERNEL < 5.5
	int id;
#endif
	int level;
	int max_depth;
	int nr_descendants;
	int nr_dying_descendants;
	int max_descendants;
#if KERNEL < 7.2
	int nr_populated_csets;
#endif
	int nr_populated_domain_children;
	int nr_populated_threaded_children;
	int nr_threaded_children;
#if KERNEL >= 6.1
	/* 6.14, and stable releases. */
	unsigned int kill_seq;
#endif
	struct kernfs_node *kn;
	unsigned long __left_out_to_the_end[0];
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	unsigned long __left_out_to_the_end[0];
};

#if KERNEL >= 5.9
struct obj_cgroup {
	struct percpu_ref refcnt;
	struct mem_cgroup *memcg;
	atomic_t nr_charged_bytes;
	union {
		struct list_head list;
		struct callback_head rcu;
	};
#if KERNEL >= 7.1
	bool is_root;
#endif
};
#endif

#if KERNEL >= 5.11
enum page_memcg_data_flags {
#if KERNEL >= 6.10
	MEMCG_DATA_OBJEXTS = 1,
#else
	MEMCG_DATA_OBJCGS = 1,
#endif
	MEMCG_DATA_KMEM = 2,
	__NR_MEMCG_DATA_FLAGS = 4,
};
#endif
