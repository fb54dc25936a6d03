/* Memory allocation profiling: include/linux/codetag.h, lib/codetag.c, include/linux/alloc_tag.h (6.10). */

#if KERNEL >= 6.10 && defined(CONFIG_MEM_ALLOC_PROFILING)
struct module;
struct codetag_module;
struct codetag_type;

struct codetag {
	unsigned int flags;
	unsigned int lineno;
	const char *modname;
	const char *function;
	const char *filename;
};

union codetag_ref {
	struct codetag *ct;
};

struct codetag_type_desc {
	const char *section;
	size_t tag_size;
#if KERNEL >= 6.16
	int (*module_load)(struct module *mod, struct codetag *start, struct codetag *end);
	void (*module_unload)(struct module *mod, struct codetag *start, struct codetag *end);
#else
	void (*module_load)(struct codetag_type *cttype, struct codetag_module *cmod);
	bool (*module_unload)(struct codetag_type *cttype, struct codetag_module *cmod);
#endif
#if KERNEL >= 6.13 && defined(CONFIG_MODULES)
	void (*module_replaced)(struct module *mod, struct module *new_mod);
	bool (*needs_section_mem)(struct module *mod, unsigned long size);
	void *(*alloc_section_mem)(struct module *mod, unsigned long size, unsigned int prepend, unsigned long align);
	void (*free_section_mem)(struct module *mod, bool used);
#endif
};

struct codetag_type {
	struct list_head link;
	unsigned int count;
	struct idr mod_idr;
	struct rw_semaphore mod_lock;
	struct codetag_type_desc desc;
#if KERNEL >= 6.17
	unsigned long next_mod_seq;
#endif
};

struct codetag_range {
	struct codetag *start;
	struct codetag *stop;
};

struct codetag_module {
	struct module *mod;
	struct codetag_range range;
#if KERNEL >= 6.17
	unsigned long mod_seq;
#endif
};

struct alloc_tag_counters {
	u64 bytes;
	u64 calls;
};

struct alloc_tag {
	struct codetag ct;
	struct alloc_tag_counters *counters;
};

#if KERNEL >= 6.13
/* 6.13: tags by number, for page->flags. */
struct alloc_tag_kernel_section {
	struct alloc_tag *first_tag;
	unsigned long count;
};

struct alloc_tag_module_section {
	union {
		unsigned long start_addr;
		struct alloc_tag *first_tag;
	};
	unsigned long end_addr;
	unsigned long size;
};
#endif
#endif
