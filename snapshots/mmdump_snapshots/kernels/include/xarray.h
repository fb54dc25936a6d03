/* Trees by index: include/linux/xarray.h (4.20), include/linux/radix-tree.h before, include/linux/idr.h. */

#if KERNEL >= 4.20
struct xarray {
	spinlock_t xa_lock;
	gfp_t xa_flags;
	void *xa_head;
};

struct xa_node {
	unsigned char shift;
	unsigned char offset;
	unsigned char count;
	unsigned char nr_values;
	struct xa_node *parent;
	struct xarray *array;
	union {
		struct list_head private_list;
		struct callback_head callback_head;
	};
	void *slots[64];
	union {
		unsigned long tags[3][1];
		unsigned long marks[3][1];
	};
};
#else
struct radix_tree_node;
struct radix_tree_root {
	spinlock_t xa_lock;
	gfp_t gfp_mask;
	struct radix_tree_node *rnode;
};

struct radix_tree_node {
	unsigned char shift;
	unsigned char offset;
	unsigned char count;
	unsigned char exceptional;
	struct radix_tree_node *parent;
	struct radix_tree_root *root;
	union {
		struct list_head private_list;
		struct callback_head callback_head;
	};
	void *slots[64];
	unsigned long tags[3][1];
};
#endif

struct idr {
#if KERNEL >= 4.20
	struct xarray idr_rt;
#else
	struct radix_tree_root idr_rt;
#endif
	unsigned int idr_base;
	unsigned int idr_next;
};
