/* The ring buffers of ftrace: kernel/trace/ring_buffer.c, include/linux/ring_buffer.h. */

#ifdef CONFIG_TRACING
enum ring_buffer_type {
	RINGBUF_TYPE_DATA_TYPE_LEN_MAX = 28,
	RINGBUF_TYPE_PADDING,
	RINGBUF_TYPE_TIME_EXTEND,
	RINGBUF_TYPE_TIME_STAMP,
};

struct ring_buffer_event {
	u32 type_len : 5, time_delta : 27;
	u32 array[];
};

struct buffer_data_page {
	u64 time_stamp;
	local_t commit;
	unsigned char data[] __attribute__((aligned(4)));
};

struct buffer_page {
	struct list_head list;
	local_t write;
	unsigned read;
	local_t entries;
	unsigned long real_end;
#if KERNEL >= 6.8
	/* 6.8: sub-buffers of several pages. */
	unsigned order;
#if KERNEL >= 6.10
	u32 id : 30;
#if KERNEL >= 6.12
	u32 range : 1;
#endif
#endif
#endif
	struct buffer_data_page *page;
};

#if KERNEL >= 6.10
struct buffer_data_read_page;
#endif

/* 5.6 renamed struct ring_buffer. */
#if KERNEL >= 5.6
#define RING_BUFFER struct trace_buffer
#else
#define RING_BUFFER struct ring_buffer
#endif
RING_BUFFER;

struct ring_buffer_per_cpu {
	int cpu;
	atomic_t record_disabled;
#if KERNEL >= 5.9
	atomic_t resize_disabled;
#endif
	RING_BUFFER *buffer;
	raw_spinlock_t reader_lock;
	arch_spinlock_t lock;
	struct lock_class_key lock_key;
#if KERNEL >= 6.8
	struct buffer_data_read_page {
		unsigned order;
		struct buffer_data_page *data;
	} free_page;
#else
	struct buffer_data_page *free_page;
#endif
	unsigned long nr_pages;
	unsigned int current_context;
	struct list_head *pages;
#if KERNEL >= 6.12
	unsigned long cnt;
#endif
	struct buffer_page *head_page;
	struct buffer_page *tail_page;
	struct buffer_page *commit_page;
	struct buffer_page *reader_page;
	unsigned long lost_events;
	unsigned long last_overrun;
	unsigned long nest;
	local_t entries_bytes;
	local_t entries;
	local_t overrun;
	local_t commit_overrun;
	local_t dropped_events;
	local_t committing;
	local_t commits;
#if KERNEL >= 5.0
	local_t pages_touched;
#if KERNEL >= 6.1
	local_t pages_lost;
#endif
	local_t pages_read;
	long last_pages_touch;
	size_t shortest_full;
#endif
	unsigned long read;
	unsigned long read_bytes;
	/* Time stamps, what is mapped, resizing, waiters. */
	unsigned long __left_out_to_the_end[64];
};

RING_BUFFER {
	unsigned flags;
#if KERNEL < 6.9
	int cpus;
#endif
	atomic_t record_disabled;
#if KERNEL < 5.9
	atomic_t resize_disabled;
#elif KERNEL >= 5.15
	atomic_t resizing;
#endif
#ifdef CONFIG_CPUMASK_OFFSTACK
	struct cpumask *cpumask;
#else
	struct cpumask cpumask[1];
#endif
	struct lock_class_key *reader_lock_key;
	struct mutex mutex;
	struct ring_buffer_per_cpu **buffers;
	/* Notifiers, the clock, waiters, memory of its own. */
	unsigned long __left_out_until_order[32];
#if KERNEL >= 6.8
	unsigned int subbuf_order;
#endif
};
#endif
