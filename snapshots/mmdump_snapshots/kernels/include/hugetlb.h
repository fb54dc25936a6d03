/* Huge page sizes: include/linux/hugetlb.h. Shortened where it keeps its lists, except that all sizes are there. */

struct hstate {
#if KERNEL >= 5.13
	struct mutex resize_lock;
#endif
	int next_nid_to_alloc;
	int next_nid_to_free;
	unsigned int order;
#if KERNEL >= 5.16
	unsigned int demote_order;
#endif
	unsigned long mask;
	unsigned long max_huge_pages;
	unsigned long nr_huge_pages;
	unsigned long free_huge_pages;
	unsigned long resv_huge_pages;
	unsigned long surplus_huge_pages;
	unsigned long nr_overcommit_huge_pages;
	struct list_head hugepage_activelist;
	struct list_head hugepage_freelists[MAX_NUMNODES];
#if KERNEL >= 5.17
	unsigned int max_huge_pages_node[MAX_NUMNODES];
#endif
	unsigned int nr_huge_pages_node[MAX_NUMNODES];
	unsigned int free_huge_pages_node[MAX_NUMNODES];
	unsigned int surplus_huge_pages_node[MAX_NUMNODES];
	char name[32];
};
