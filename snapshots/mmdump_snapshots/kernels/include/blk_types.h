/*
 * I/O in flight: include/linux/bvec.h, blk_types.h, bio.h, blkdev.h (genhd.h up to 5.17), include/linux/fs.h; block/fops.c
 * (fs/block_dev.c up to 5.15) and fs/aio.c. What comes behind the part that tells what is in flight is left out.
 */

struct bio;
struct bio_alloc_cache;
struct bio_crypt_ctx;
struct bio_integrity_payload;
struct blk_holder_ops;
struct block_device;
struct block_device_operations;
struct blkcg_gq;
struct cgroup_subsys_state;
struct disk_stats;
struct gendisk;
struct io_context;
struct kioctx;
struct request_queue;
struct task_struct;
struct wait_page_queue;

typedef u8 blk_status_t;
typedef unsigned int blk_qc_t;
#if KERNEL >= 6.0
typedef __u32 blk_opf_t;
#else
typedef unsigned int blk_opf_t;
#endif
typedef void bio_end_io_t(struct bio *);

struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
};

struct bvec_iter {
	sector_t bi_sector;
	unsigned int bi_size;
	unsigned int bi_idx;
#if KERNEL < 5.0
	unsigned int bi_done;
#endif
	unsigned int bi_bvec_done;
#if KERNEL >= 5.14
} __attribute__((packed));
#else
};
#endif

#if KERNEL >= 6.9
enum rw_hint {
	WRITE_LIFE_NOT_SET,
	WRITE_LIFE_NONE,
	WRITE_LIFE_SHORT,
	WRITE_LIFE_MEDIUM,
	WRITE_LIFE_LONG,
	WRITE_LIFE_EXTREME,
#if KERNEL >= 7.0
	WRITE_LIFE_HINT_NR,
#endif
} __attribute__((packed));
#endif

#if KERNEL < 6.18
struct bio_issue {
	u64 value;
};
#endif

struct bio {
	struct bio *bi_next;
#if KERNEL >= 5.12
	/* 5.12; before, the disk and the number of the partition. */
	struct block_device *bi_bdev;
#else
	struct gendisk *bi_disk;
#endif
	blk_opf_t bi_opf;
	unsigned short bi_flags;
	unsigned short bi_ioprio;
#if KERNEL >= 6.9
	enum rw_hint bi_write_hint;
#elif KERNEL < 5.18
	unsigned short bi_write_hint;
#endif
#if KERNEL >= 6.16
	u8 bi_write_stream;
#endif
	blk_status_t bi_status;
#if KERNEL >= 7.0
	u8 bi_bvec_gap_bit;
#endif
#if KERNEL < 5.12
	u8 bi_partno;
#endif
#if KERNEL < 5.1
	unsigned int bi_phys_segments;
	unsigned int bi_seg_front_size;
	unsigned int bi_seg_back_size;
#endif
#if KERNEL >= 5.10
	atomic_t __bi_remaining;
#endif
#if KERNEL >= 7.0
	/* At the end before. */
	struct bio_vec *bi_io_vec;
#endif
	struct bvec_iter bi_iter;
#if KERNEL < 5.10
	atomic_t __bi_remaining;
#endif
#if KERNEL >= 6.10
	union {
		blk_qc_t bi_cookie;
		unsigned int __bi_nr_segments;
	};
#elif KERNEL >= 5.16
	blk_qc_t bi_cookie;
#endif
	bio_end_io_t *bi_end_io;
	void *bi_private;
#ifdef CONFIG_BLK_CGROUP
#if KERNEL < 5.0
	struct io_context *bi_ioc;
	struct cgroup_subsys_state *bi_css;
#endif
	struct blkcg_gq *bi_blkg;
#if KERNEL >= 6.18
	u64 issue_time_ns;
#else
	struct bio_issue bi_issue;
#endif
#ifdef CONFIG_BLK_CGROUP_IOCOST
	u64 bi_iocost_cost;
#endif
#endif
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	struct bio_crypt_ctx *bi_crypt_context;
#endif
#ifdef CONFIG_BLK_DEV_INTEGRITY
	struct bio_integrity_payload *bi_integrity;
#endif
	unsigned short bi_vcnt;
	unsigned short bi_max_vecs;
	atomic_t __bi_cnt;
#if KERNEL < 7.0
	struct bio_vec *bi_io_vec;
#endif
	struct bio_set *bi_pool;
#if KERNEL < 6.18
	/* 6.18: they still follow, and have no name. */
	struct bio_vec bi_inline_vecs[];
#endif
};

#if KERNEL >= 5.2
/* Bits of bi_flags; 4.19 has them as macros, which debug info knows nothing of. */
enum {
#if KERNEL >= 6.5
	/* 6.5: direct I/O pins its pages. */
	BIO_PAGE_PINNED,
#else
	BIO_NO_PAGE_REF,
#endif
	BIO_CLONED,
#if KERNEL < 6.17
	BIO_BOUNCED,
#endif
#if KERNEL < 5.10
	BIO_USER_MAPPED,
	BIO_NULL_MAPPED,
#endif
#if KERNEL >= 5.4 && KERNEL < 5.19
	BIO_WORKINGSET,
#endif
	BIO_QUIET,
	BIO_CHAIN,
	BIO_REFFED,
};
#else
#define BIO_SEG_VALID 1
#define BIO_CLONED 2
#define BIO_REFFED 8
#endif

#if KERNEL >= 7.0
typedef struct mempool {
#else
typedef struct mempool_s {
#endif
	spinlock_t lock;
	int min_nr;
	int curr_nr;
	void **elements;
	void *pool_data;
	unsigned long __left_out_to_the_end[5];
} mempool_t;

struct bio_set {
	struct kmem_cache *bio_slab;
	unsigned int front_pad;
#if KERNEL >= 5.15
	struct bio_alloc_cache *cache;
#endif
	mempool_t bio_pool;
	mempool_t bvec_pool;
	unsigned long __left_out_to_the_end[9];
};

#if KERNEL >= 5.12
struct block_device {
	sector_t bd_start_sect;
#if KERNEL >= 5.18
	sector_t bd_nr_sectors;
#endif
#if KERNEL >= 6.5
	struct gendisk *bd_disk;
	struct request_queue *bd_queue;
	struct disk_stats *bd_stats;
	unsigned long bd_stamp;
#if KERNEL >= 6.10
	/* The partition's number is in the lowest byte. */
	atomic_t __bd_flags;
	dev_t bd_dev;
	struct address_space *bd_mapping;
#else
	bool bd_read_only;
	u8 bd_partno;
	bool bd_write_holder;
	bool bd_has_submit_bio;
	dev_t bd_dev;
	struct inode *bd_inode;
#endif
	atomic_t bd_openers;
	spinlock_t bd_size_lock;
	void *bd_claiming;
	void *bd_holder;
	const struct blk_holder_ops *bd_holder_ops;
	unsigned long __left_out_to_the_end[73];
#else
	struct disk_stats *bd_stats;
	unsigned long bd_stamp;
	bool bd_read_only;
	dev_t bd_dev;
#if KERNEL >= 5.18
	atomic_t bd_openers;
#else
	int bd_openers;
#endif
	struct inode *bd_inode;
	unsigned long __left_out_device[62];
	u8 bd_partno;
	spinlock_t bd_size_lock;
	struct gendisk *bd_disk;
	unsigned long __left_out_to_the_end[8];
#endif
};
#endif

struct gendisk {
	int major;
	int first_minor;
	int minors;
	char disk_name[32];
#if KERNEL >= 5.12
	unsigned short events;
	unsigned short event_flags;
	struct xarray part_tbl;
	struct block_device *part0;
	const struct block_device_operations *fops;
	struct request_queue *queue;
	void *private_data;
#endif
	unsigned long __left_out_to_the_end[60];
};

/* Members behind ki_flags changed with nearly every release. */
struct kiocb {
	struct file *ki_filp;
	loff_t ki_pos;
#if KERNEL >= 5.16
	void (*ki_complete)(struct kiocb *iocb, long ret);
#else
	void (*ki_complete)(struct kiocb *iocb, long ret, long ret2);
#endif
	void *private;
	int ki_flags;
#if KERNEL < 5.18
	u16 ki_hint;
#endif
	u16 ki_ioprio;
	unsigned long __left_out_to_the_end[1];
};

/* A request of io_submit(). */
struct aio_kiocb {
	union {
		struct file *ki_filp;
		struct kiocb rw;
		unsigned long __left_out_requests[12];
	};
	struct kioctx *ki_ctx;
	unsigned long __left_out_to_the_end[9];
};

struct blkdev_dio {
	union {
		struct kiocb *iocb;
		struct task_struct *waiter;
	};
	size_t size;
	atomic_t ref;
#if KERNEL >= 5.16
	unsigned int flags;
	struct bio bio __attribute__((aligned(64)));
#else
	bool multi_bio : 1;
	bool should_dirty : 1;
	bool is_sync : 1;
	struct bio bio;
#endif
};
