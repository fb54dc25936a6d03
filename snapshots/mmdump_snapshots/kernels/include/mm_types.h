/*
 * Pages and folios: include/linux/mm_types.h.
 */

struct address_space;
struct dev_pagemap;
struct kmem_cache;
struct mem_cgroup;
struct mm_struct;
struct obj_cgroup;
struct page;
struct page_pool;

typedef struct page *pgtable_t;

typedef struct {
	unsigned long val;
} swp_entry_t;

#if KERNEL >= 6.18
/* A type of its own for the flags word, that is not only flags (6.18). */
typedef struct {
	unsigned long f;
} memdesc_flags_t;
#define PAGE_FLAGS_T memdesc_flags_t
#else
#define PAGE_FLAGS_T unsigned long
#endif

#if KERNEL >= 6.15
/* Which mms map a large folio (6.15). */
typedef unsigned int mm_id_t;
typedef int mm_id_mapcount_t;
#endif

struct page {
	PAGE_FLAGS_T flags;
	union {
		/* Page cache, anonymous memory; free blocks. */
		struct {
#if KERNEL < 5.18
			struct list_head lru;
#else
			union {
				struct list_head lru;
#if KERNEL < 6.18
				/* For pages that are mlocked, and on no list (5.18); in struct folio only since 6.18. */
				struct {
					void *__filler;
					unsigned int mlock_count;
				};
#endif
#if KERNEL >= 6.1
				/* Names for the same link on a free list and on a list of a CPU (6.0). */
				struct list_head buddy_list;
				struct list_head pcp_list;
#endif
#if KERNEL >= 6.15
				/* Pages that were freed where the zone's lock could not be taken (6.15). */
				struct llist_node pcp_llist;
#endif
			};
#endif
			struct address_space *mapping;
#if KERNEL < 6.6
			unsigned long index;
#elif KERNEL < 6.16
			union {
				unsigned long index;
				unsigned long share;
			};
#else
			/* Only folios have an index (6.16). */
			union {
				unsigned long __folio_index;
				unsigned long share;
			};
#endif
			unsigned long private;
		};
#if KERNEL >= 5.2
		/* The network stack's page pools. */
		struct {
#if KERNEL < 5.15
			unsigned long dma_addr[2];
#else
			unsigned long pp_magic;
			struct page_pool *pp;
			unsigned long _pp_mapping_pad;
			unsigned long dma_addr;
#if KERNEL < 6.8
			union {
				unsigned long dma_addr_upper;
				atomic_long_t pp_frag_count;
			};
#else
			atomic_long_t pp_ref_count;
#endif
#endif
		};
#endif
#if KERNEL < 5.17
		/* Slabs, which are a type of their own since 5.17. */
		struct {
			union {
				struct list_head slab_list;
				struct {
					struct page *next;
					int pages;
					int pobjects;
				};
			};
			struct kmem_cache *slab_cache;
			void *freelist;
			union {
				void *s_mem;
				unsigned long counters;
				struct {
					unsigned int inuse:16;
					unsigned int objects:15;
					unsigned int frozen:1;
				};
			};
		};
#endif
		/* Tails of compound pages. */
		struct {
#if KERNEL < 7.1
			unsigned long compound_head;
#else
			/* A pointer or a mask (7.1). */
			unsigned long compound_info;
#endif
#if KERNEL < 6.3
			/* First tail only; struct folio has these alone since 6.3. */
			unsigned char compound_dtor;
			unsigned char compound_order;
#if KERNEL == 6.2
			atomic_t compound_mapcount;
			atomic_t subpages_mapcount;
			atomic_t compound_pincount;
			unsigned int compound_nr;
#else
			atomic_t compound_mapcount;
#if KERNEL >= 5.18
			/* Of the third page up to 5.17, where it was hpage_pinned_refcount. */
			atomic_t compound_pincount;
#endif
#if KERNEL >= 5.9
			unsigned int compound_nr;
#endif
#if KERNEL >= 6.1
			unsigned long _private_1;
#endif
#endif
#endif
		};
#if KERNEL < 6.3
		/* Second tail. */
		struct {
			unsigned long _compound_pad_1;
#if KERNEL >= 5.7 && KERNEL < 5.18
			atomic_t hpage_pinned_refcount;
#else
			unsigned long _compound_pad_2;
#endif
			struct list_head deferred_list;
		};
#endif
#if KERNEL < 6.6
		/* Page tables, which are a type of their own since 6.6. */
		struct {
			unsigned long _pt_pad_1;
			pgtable_t pmd_huge_pte;
			unsigned long _pt_pad_2;
			union {
				struct mm_struct *pt_mm;
				atomic_t pt_frag_refcount;
#if KERNEL == 6.1
				/* How many share a table of huge pages, in the stable releases of 6.1. */
				atomic_t pt_share_count;
#endif
			};
			spinlock_t ptl;
		};
#endif
		/* Memory of devices. */
		struct {
#if KERNEL < 6.14
			struct dev_pagemap *pgmap;
#elif KERNEL < 7.1
			/* struct folio has the pgmap (6.14). */
			void *_unused_pgmap_compound_head;
#else
			void *_unused_pgmap_compound_info;
#endif
#if KERNEL < 5.3
			unsigned long hmm_data;
			unsigned long _zd_pad_1;
#else
			void *zone_device_data;
#endif
		};
		struct callback_head callback_head;
	};
	union {
		atomic_t _mapcount;
		unsigned int page_type;
#if KERNEL < 5.17
		unsigned int active;
		int units;
#endif
	};
	atomic_t _refcount;
#ifdef CONFIG_MEMCG
#if KERNEL < 5.8
	struct mem_cgroup *mem_cgroup;
#elif KERNEL < 5.11
	union {
		struct mem_cgroup *mem_cgroup;
		struct obj_cgroup **obj_cgroups;
	};
#else
	/* Pointer and tag bits (5.11). */
	unsigned long memcg_data;
#endif
#endif
} __attribute__((aligned(16)));

#if KERNEL >= 5.16
struct folio {
	union {
		struct {
			PAGE_FLAGS_T flags;
#if KERNEL < 5.18
			struct list_head lru;
#else
			union {
				struct list_head lru;
				struct {
					void *__filler;
					unsigned int mlock_count;
				};
#if KERNEL >= 6.14
				struct dev_pagemap *pgmap;
#endif
			};
#endif
			struct address_space *mapping;
#if KERNEL < 6.15
			unsigned long index;
#else
			union {
				unsigned long index;
				unsigned long share;
			};
#endif
#if KERNEL < 6.6
			void *private;
#else
			union {
				void *private;
				swp_entry_t swap;
			};
#endif
			atomic_t _mapcount;
			atomic_t _refcount;
#ifdef CONFIG_MEMCG
			unsigned long memcg_data;
#endif
		};
		struct page page;
	};
#if KERNEL >= 6.1 && KERNEL < 6.2
	/* The first tail, as much of it as is used (6.1). */
	unsigned long _flags_1;
	unsigned long __head;
	unsigned char _folio_dtor;
	unsigned char _folio_order;
	atomic_t _total_mapcount;
	atomic_t _pincount;
	unsigned int _folio_nr_pages;
	unsigned long _private_1;
#endif
#if KERNEL >= 6.2
	union {
		struct {
			unsigned long _flags_1;
			unsigned long _head_1;
#if KERNEL < 6.6
			unsigned char _folio_dtor;
			unsigned char _folio_order;
#if KERNEL < 6.3
			atomic_t _compound_mapcount;
			atomic_t _subpages_mapcount;
#else
			atomic_t _entire_mapcount;
			atomic_t _nr_pages_mapped;
#endif
			atomic_t _pincount;
			unsigned int _folio_nr_pages;
#elif KERNEL < 6.10
			/* The order is in _flags_1 (6.6). */
			unsigned long _folio_avail;
			atomic_t _entire_mapcount;
			atomic_t _nr_pages_mapped;
			atomic_t _pincount;
			unsigned int _folio_nr_pages;
#elif KERNEL < 6.15
			/* One count of all mappings (6.10). */
			atomic_t _large_mapcount;
			atomic_t _entire_mapcount;
			atomic_t _nr_pages_mapped;
			atomic_t _pincount;
			unsigned int _folio_nr_pages;
#else
			/* And of those of two mms (6.15). */
			union {
				struct {
					atomic_t _large_mapcount;
					atomic_t _nr_pages_mapped;
					atomic_t _entire_mapcount;
					atomic_t _pincount;
					mm_id_mapcount_t _mm_id_mapcount[2];
					union {
						mm_id_t _mm_id[2];
						unsigned long _mm_ids;
					};
				};
				unsigned long _usable_1[4];
			};
			atomic_t _mapcount_1;
			atomic_t _refcount_1;
			unsigned int _nr_pages;
#endif
		};
		struct page __page_1;
	};
	union {
#if KERNEL < 6.12
		struct {
			unsigned long _flags_2;
			unsigned long _head_2;
			void *_hugetlb_subpool;
			void *_hugetlb_cgroup;
			void *_hugetlb_cgroup_rsvd;
			void *_hugetlb_hwpoison;
		};
		struct {
			unsigned long _flags_2a;
			unsigned long _head_2a;
			struct list_head _deferred_list;
		};
#else
		struct {
			unsigned long _flags_2;
			unsigned long _head_2;
			struct list_head _deferred_list;
		};
#endif
		struct page __page_2;
	};
#if KERNEL >= 6.12
	/* hugetlb in a page of its own (6.15, and the stable releases of 6.12). */
	union {
		struct {
			unsigned long _flags_3;
			unsigned long _head_3;
			void *_hugetlb_subpool;
			void *_hugetlb_cgroup;
			void *_hugetlb_cgroup_rsvd;
			void *_hugetlb_hwpoison;
		};
		struct page __page_3;
	};
#endif
#endif
};
#endif
