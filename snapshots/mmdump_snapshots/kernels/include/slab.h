/* Slab caches and slabs: include/linux/slub_def.h, mm/slab.h. */

struct kmem_cache_cpu;
struct kmem_cache_node;
struct slub_percpu_sheaves;
struct node_barn;
struct kset;
struct kobj_type;
struct kernfs_node;

struct kmem_cache_order_objects {
	unsigned int x;
};

struct reciprocal_value {
	u32 m;
	u8 sh1, sh2;
};

struct kobject {
	const char *name;
	struct list_head entry;
	struct kobject *parent;
	struct kset *kset;
	const struct kobj_type *ktype;
	struct kernfs_node *sd;
	struct kref kref;
	unsigned int state_initialized : 1;
	unsigned int state_in_sysfs : 1;
	unsigned int state_add_uevent_sent : 1;
	unsigned int state_remove_uevent_sent : 1;
	unsigned int uevent_suppress : 1;
};

struct kmem_cache_node {
	spinlock_t list_lock;
	unsigned long nr_partial;
	struct list_head partial;
#ifdef CONFIG_SLUB_DEBUG
	atomic_long_t nr_slabs;
	atomic_long_t total_objects;
	struct list_head full;
#endif
};

#if KERNEL >= 7.0
struct kmem_cache_per_node_ptrs {
	struct node_barn *barn;
	struct kmem_cache_node *node;
};
#endif

struct kmem_cache {
#if KERNEL < 7.0
	struct kmem_cache_cpu *cpu_slab;
#if KERNEL >= 6.11
	struct lock_class_key lock_key;
#endif
#endif
#if KERNEL >= 6.18
	struct slub_percpu_sheaves *cpu_sheaves;
#endif
	slab_flags_t flags;
	unsigned long min_partial;
	unsigned int size;
	unsigned int object_size;
#if KERNEL >= 5.9
	struct reciprocal_value reciprocal_size;
#endif
	unsigned int offset;
#if KERNEL < 7.0 && defined(CONFIG_SLUB_CPU_PARTIAL)
	unsigned int cpu_partial;
#if KERNEL >= 5.16
	unsigned int cpu_partial_slabs;
#endif
#endif
#if KERNEL >= 6.18
	unsigned int sheaf_capacity;
#endif
	struct kmem_cache_order_objects oo;
#if KERNEL < 6.0
	struct kmem_cache_order_objects max;
#endif
	struct kmem_cache_order_objects min;
	gfp_t allocflags;
	int refcount;
	void (*ctor)(void *object);
	unsigned int inuse;
	unsigned int align;
	unsigned int red_left_pad;
	const char *name;
	struct list_head list;
	struct kobject kobj;
	unsigned int remote_node_defrag_ratio;
#if KERNEL < 6.2
	/* With CONFIG_HARDENED_USERCOPY alone since then. */
	unsigned int useroffset;
	unsigned int usersize;
#endif
#if KERNEL >= 7.0
	struct kmem_cache_per_node_ptrs per_node[MAX_NUMNODES];
#else
	struct kmem_cache_node *node[MAX_NUMNODES];
#endif
};

#if KERNEL >= 5.17
/* Part of struct page before. */
struct slab {
#if KERNEL >= 6.18
	PAGE_FLAGS_T flags;
#else
	unsigned long __page_flags;
#endif
#if KERNEL < 6.2
	union {
		struct list_head slab_list;
		struct callback_head callback_head;
#ifdef CONFIG_SLUB_CPU_PARTIAL
		struct {
			struct slab *next;
			int slabs;
		};
#endif
	};
	struct kmem_cache *slab_cache;
	void *freelist;
	union {
		unsigned long counters;
		struct {
			unsigned inuse : 16;
			unsigned objects : 15;
			unsigned frozen : 1;
		};
	};
#else
	struct kmem_cache *slab_cache;
	union {
		struct {
			union {
				struct list_head slab_list;
#if defined(CONFIG_SLUB_CPU_PARTIAL) && KERNEL < 7.0
				struct {
					struct slab *next;
					int slabs;
				};
#endif
			};
			void *freelist;
			union {
				unsigned long counters;
				struct {
					unsigned inuse : 16;
					unsigned objects : 15;
					unsigned frozen : 1;
#if KERNEL >= 7.0
					/* 7.0: from one extension to the next, which may lie in the objects themselves. */
					unsigned int stride;
#endif
				};
			};
		};
		struct callback_head callback_head;
	};
#endif
#if KERNEL >= 6.10
	unsigned int __page_type;
	atomic_t __page_refcount;
	unsigned long obj_exts;
#else
	unsigned int __unused;
	atomic_t __page_refcount;
#ifdef CONFIG_MEMCG
	unsigned long memcg_data;
#endif
#endif
};
#endif

#if KERNEL >= 6.10

struct obj_cgroup;
struct slabobj_ext {
#ifdef CONFIG_MEMCG
	struct obj_cgroup *objcg;
#endif
#ifdef CONFIG_MEM_ALLOC_PROFILING
	union codetag_ref ref;
#endif
};
#endif
