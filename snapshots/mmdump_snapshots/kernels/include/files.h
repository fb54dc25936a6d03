/*
 * Open files, and pipes: include/linux/fs.h, fdtable.h, path.h, pipe_fs_i.h. struct file is shortened, and so are the
 * tables of functions.
 */

struct file;
struct vfsmount;
struct dentry;
struct cred;
struct user_struct;
struct watch_queue;
struct fasync_struct;
struct fown_struct;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file_operations {
	struct module *owner;
	unsigned long __left_out_to_the_end[0];
};

struct pipe_buf_operations {
	int (*confirm)(struct pipe_inode_info *, struct pipe_buffer *);
	void (*release)(struct pipe_inode_info *, struct pipe_buffer *);
	unsigned long __left_out_to_the_end[0];
};

/* Members moved from cache line to cache line until 6.13. */
struct file {
#if KERNEL >= 6.12
#if KERNEL < 6.13
	atomic_long_t f_count;
#endif
	spinlock_t f_lock;
	fmode_t f_mode;
	const struct file_operations *f_op;
	struct address_space *f_mapping;
	void *private_data;
	struct inode *f_inode;
	unsigned int f_flags;
	unsigned int f_iocb_flags;
	const struct cred *f_cred;
#if KERNEL >= 7.0
	struct fown_struct *f_owner;
#endif
	struct path f_path;
#else
	unsigned long __left_out_list[2];
#if KERNEL >= 6.5
	spinlock_t f_lock;
	fmode_t f_mode;
	atomic_long_t f_count;
	struct mutex f_pos_lock;
	loff_t f_pos;
	unsigned int f_flags;
	unsigned long __left_out_owner[5];
	const struct cred *f_cred;
	unsigned long __left_out_readahead[4];
	struct path f_path;
	struct inode *f_inode;
	const struct file_operations *f_op;
	u64 f_version;
#else
	struct path f_path;
	struct inode *f_inode;
	const struct file_operations *f_op;
	spinlock_t f_lock;
	atomic_long_t f_count;
	unsigned int f_flags;
	fmode_t f_mode;
	struct mutex f_pos_lock;
	loff_t f_pos;
	unsigned long __left_out_owner[5];
	const struct cred *f_cred;
	unsigned long __left_out_readahead[4];
	u64 f_version;
#endif
	void *private_data;
#endif
	unsigned long __left_out_to_the_end[0];
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *close_on_exec;
	unsigned long *open_fds;
	unsigned long *full_fds_bits;
	struct callback_head rcu;
};

struct files_struct {
	atomic_t count;
	bool resize_in_progress;
	wait_queue_head_t resize_wait;
	struct fdtable *fdt;
	struct fdtable fdtab;
	spinlock_t file_lock __attribute__((aligned(64)));
	unsigned int next_fd;
	unsigned long close_on_exec_init[1];
	unsigned long open_fds_init[1];
	unsigned long full_fds_bits_init[1];
	struct file *fd_array[64];
};

#if KERNEL >= 6.15
typedef unsigned int pipe_index_t;
#endif

struct pipe_inode_info {
	struct mutex mutex;
#if KERNEL >= 5.5
	/* 5.5 made a ring of the buffers that counts on, and gave readers and writers a queue of their own. */
	wait_queue_head_t rd_wait, wr_wait;
#if KERNEL >= 6.15
	union {
		unsigned long head_tail;
		struct {
			pipe_index_t head;
			pipe_index_t tail;
		};
	};
#else
	unsigned int head;
	unsigned int tail;
#endif
	unsigned int max_usage;
	unsigned int ring_size;
#if KERNEL >= 5.8 && KERNEL < 6.6
#ifdef CONFIG_WATCH_QUEUE
	bool note_loss;
#endif
#endif
#if KERNEL >= 5.8
	unsigned int nr_accounted;
#endif
#else
	wait_queue_head_t wait;
	unsigned int nrbufs, curbuf, buffers;
#endif
	unsigned int readers;
	unsigned int writers;
	unsigned int files;
#if KERNEL < 5.5
	unsigned int waiting_writers;
#endif
	unsigned int r_counter;
	unsigned int w_counter;
#if KERNEL >= 5.14
	bool poll_usage;
#endif
#if KERNEL >= 6.6
#ifdef CONFIG_WATCH_QUEUE
	bool note_loss;
#endif
#endif
#if KERNEL >= 6.14
	struct page *tmp_page[2];
#else
	struct page *tmp_page;
#endif
	struct fasync_struct *fasync_readers;
	struct fasync_struct *fasync_writers;
	struct pipe_buffer *bufs;
	struct user_struct *user;
#ifdef CONFIG_WATCH_QUEUE
	struct watch_queue *watch_queue;
#endif
};
