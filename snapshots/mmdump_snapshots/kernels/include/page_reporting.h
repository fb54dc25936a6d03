/* Free page reporting (5.7): include/linux/page_reporting.h, include/linux/scatterlist.h. */

struct scatterlist {
	unsigned long page_link;
	unsigned int offset;
	unsigned int length;
	dma_addr_t dma_address;
	unsigned int dma_length;
};

#if KERNEL >= 5.7
struct page_reporting_dev_info {
	int (*report)(struct page_reporting_dev_info *prdev, struct scatterlist *sg, unsigned int nents);
	struct delayed_work work;
	atomic_t state;
#if KERNEL >= 5.14
	/* 5.14: the device says from which order. */
	unsigned int order;
#endif
#if KERNEL >= 7.2
	/* 7.2: and how many blocks at a time. */
	unsigned int capacity;
#endif
};
#endif
