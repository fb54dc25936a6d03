/*
 * What page->mapping leads to: include/linux/fs.h, include/linux/rmap.h; and pipe buffers, which hold pages.
 * struct inode is shortened in the middle.
 */

struct inode;
struct super_block;
struct inode_operations;
struct address_space_operations;
struct pipe_buf_operations;
struct pipe_inode_info;
struct page;

struct address_space {
	struct inode *host;
#if KERNEL >= 4.20
	struct xarray i_pages;
#else
	struct radix_tree_root i_pages;
#endif
#if KERNEL >= 5.15
	struct rw_semaphore invalidate_lock;
#endif
#if KERNEL >= 4.20
	gfp_t gfp_mask;
#endif
	atomic_t i_mmap_writable;
#if KERNEL >= 5.4 && KERNEL < 7.1
	/* With CONFIG_READ_ONLY_THP_FOR_FS, while that existed. */
	atomic_t nr_thps;
#endif
	struct rb_root_cached i_mmap;
#if KERNEL < 6.6
	struct rw_semaphore i_mmap_rwsem;
#endif
	unsigned long nrpages;
#if KERNEL < 5.14
	unsigned long nrexceptional;
#endif
	pgoff_t writeback_index;
	const struct address_space_operations *a_ops;
	unsigned long flags;
#if KERNEL >= 6.8
	errseq_t wb_err;
	spinlock_t i_private_lock;
#if KERNEL < 7.1
	struct list_head i_private_list;
#endif
	struct rw_semaphore i_mmap_rwsem;
#if KERNEL < 7.1
	void *i_private_data;
#endif
#elif KERNEL >= 4.20
#if KERNEL >= 6.6
	struct rw_semaphore i_mmap_rwsem;
#endif
	errseq_t wb_err;
	spinlock_t private_lock;
	struct list_head private_list;
	void *private_data;
#else
	spinlock_t private_lock;
	gfp_t gfp_mask;
	struct list_head private_list;
	void *private_data;
	errseq_t wb_err;
#endif
} __attribute__((aligned(8)));

struct inode {
	umode_t i_mode;
	unsigned short i_opflags;
#if KERNEL >= 7.0
	unsigned int i_flags;
	kuid_t i_uid;
	kgid_t i_gid;
#else
	kuid_t i_uid;
	kgid_t i_gid;
	unsigned int i_flags;
#endif
#ifdef CONFIG_FS_POSIX_ACL
	struct posix_acl *i_acl;
	struct posix_acl *i_default_acl;
#endif
	const struct inode_operations *i_op;
	struct super_block *i_sb;
	struct address_space *i_mapping;
#ifdef CONFIG_SECURITY
	void *i_security;
#endif
	unsigned long i_ino;
	unsigned int i_nlink;
	dev_t i_rdev;
	loff_t i_size;
	unsigned long __left_out_times[28];
	atomic_t i_count;
	struct address_space i_data;
	struct list_head i_devices;
	union {
		struct pipe_inode_info *i_pipe;
		unsigned long __left_out_others;
	};
	unsigned long __left_out_fsnotify[3];
	void *i_private;
};

struct anon_vma {
	struct anon_vma *root;
	struct rw_semaphore rwsem;
	atomic_t refcount;
#if KERNEL >= 6.1
	/* 6.1; before, both in one number. */
	unsigned long num_children;
	unsigned long num_active_vmas;
#else
	unsigned int degree;
#endif
	struct anon_vma *parent;
	struct rb_root_cached rb_root;
};

struct pipe_buffer {
	struct page *page;
	unsigned int offset, len;
	const struct pipe_buf_operations *ops;
	unsigned int flags;
	unsigned long private;
};
