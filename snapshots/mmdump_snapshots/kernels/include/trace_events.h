/*
 * Trace instances and events: kernel/trace/trace.h, include/linux/trace_events.h, include/linux/tracepoint-defs.h,
 * kernel/trace/trace_sched_switch.c.
 */

#ifdef CONFIG_TRACING
enum trace_type {
	__TRACE_FIRST_TYPE = 0,
	TRACE_FN,
	TRACE_CTX,
	TRACE_WAKE,
	TRACE_STACK,
	TRACE_PRINT,
	TRACE_BPRINT,
	TRACE_MMIO_RW,
	TRACE_MMIO_MAP,
	TRACE_BRANCH,
	TRACE_GRAPH_RET,
	TRACE_GRAPH_ENT,
#if KERNEL >= 6.13
	TRACE_GRAPH_RETADDR_ENT,
#endif
	TRACE_USER_STACK,
	TRACE_BLK,
	TRACE_BPUTS,
	TRACE_HWLAT,
#if KERNEL >= 5.14
	TRACE_OSNOISE,
	TRACE_TIMERLAT,
#endif
	TRACE_RAW_DATA,
#if KERNEL >= 5.13
	TRACE_FUNC_REPEATS,
#endif
	__TRACE_LAST_TYPE,
};

/* include/linux/trace_events.h; 6.13 gave the second bit to the lazy form of need-resched. */
enum trace_flag_type {
	TRACE_FLAG_IRQS_OFF = 0x01,
#if KERNEL >= 6.13
	TRACE_FLAG_NEED_RESCHED_LAZY = 0x02,
#else
	TRACE_FLAG_IRQS_NOSUPPORT = 0x02,
#endif
	TRACE_FLAG_NEED_RESCHED = 0x04,
	TRACE_FLAG_HARDIRQ = 0x08,
	TRACE_FLAG_SOFTIRQ = 0x10,
	TRACE_FLAG_PREEMPT_RESCHED = 0x20,
	TRACE_FLAG_NMI = 0x40,
#if KERNEL >= 6.0
	TRACE_FLAG_BH_OFF = 0x80,
#endif
};

enum trace_iterator_bits {
	TRACE_ITER_PRINT_PARENT_BIT,
	TRACE_ITER_SYM_OFFSET_BIT,
	TRACE_ITER_SYM_ADDR_BIT,
	TRACE_ITER_VERBOSE_BIT,
	TRACE_ITER_RAW_BIT,
	TRACE_ITER_HEX_BIT,
	TRACE_ITER_BIN_BIT,
	TRACE_ITER_BLOCK_BIT,
#if KERNEL >= 6.4
	TRACE_ITER_FIELDS_BIT,
#endif
	TRACE_ITER_PRINTK_BIT,
	TRACE_ITER_ANNOTATE_BIT,
	TRACE_ITER_USERSTACKTRACE_BIT,
	TRACE_ITER_SYM_USEROBJ_BIT,
	TRACE_ITER_PRINTK_MSGONLY_BIT,
	TRACE_ITER_CONTEXT_INFO_BIT,
	TRACE_ITER_LATENCY_FMT_BIT,
	TRACE_ITER_RECORD_CMD_BIT,
	TRACE_ITER_RECORD_TGID_BIT,
	TRACE_ITER_OVERWRITE_BIT,
	TRACE_ITER_STOP_ON_FREE_BIT,
	TRACE_ITER_IRQ_INFO_BIT,
	TRACE_ITER_MARKERS_BIT,
	TRACE_ITER_EVENT_FORK_BIT,
#if KERNEL >= 6.11
	TRACE_ITER_TRACE_PRINTK_BIT,
#endif
#if KERNEL >= 6.18
	TRACE_ITER_COPY_MARKER_BIT,
#endif
#if KERNEL >= 5.12
	TRACE_ITER_PAUSE_ON_TRACE_BIT,
#endif
#if KERNEL >= 5.13
	TRACE_ITER_HASH_PTR_BIT,
#endif
#if KERNEL >= 7.0
	TRACE_ITER_BITMASK_LIST_BIT,
#endif
#ifdef CONFIG_FUNCTION_TRACER
	TRACE_ITER_FUNCTION_BIT,
	TRACE_ITER_FUNC_FORK_BIT,
#endif
#ifdef CONFIG_FUNCTION_GRAPH_TRACER
	TRACE_ITER_DISPLAY_GRAPH_BIT,
#endif
#ifdef CONFIG_STACKTRACE
	TRACE_ITER_STACKTRACE_BIT,
#endif
#ifdef CONFIG_BRANCH_TRACER
	TRACE_ITER_BRANCH_BIT,
#endif
#if defined(CONFIG_FUNCTION_PROFILER) && KERNEL >= 7.0
	TRACE_ITER_PROF_TEXT_OFFSET_BIT,
#ifdef CONFIG_FUNCTION_GRAPH_TRACER
	TRACE_ITER_GRAPH_TIME_BIT,
#endif
#endif
	TRACE_ITER_LAST_BIT,
};

enum {
#if KERNEL < 6.10
	TRACE_EVENT_FL_FILTERED_BIT,
#endif
	TRACE_EVENT_FL_CAP_ANY_BIT,
	TRACE_EVENT_FL_NO_SET_FILTER_BIT,
	TRACE_EVENT_FL_IGNORE_ENABLE_BIT,
	TRACE_EVENT_FL_TRACEPOINT_BIT,
};

enum {
	TRACE_EVENT_FL_CAP_ANY = (1 << TRACE_EVENT_FL_CAP_ANY_BIT),
	TRACE_EVENT_FL_NO_SET_FILTER = (1 << TRACE_EVENT_FL_NO_SET_FILTER_BIT),
	TRACE_EVENT_FL_IGNORE_ENABLE = (1 << TRACE_EVENT_FL_IGNORE_ENABLE_BIT),
	TRACE_EVENT_FL_TRACEPOINT = (1 << TRACE_EVENT_FL_TRACEPOINT_BIT),
};

enum {
	FILTER_OTHER = 0,
	FILTER_STATIC_STRING,
	FILTER_DYN_STRING,
#if KERNEL >= 5.17
	FILTER_RDYN_STRING,
#endif
	FILTER_PTR_STRING,
	FILTER_TRACE_FN,
#if KERNEL >= 6.6
	FILTER_CPUMASK,
#endif
	FILTER_COMM,
	FILTER_CPU,
#if KERNEL >= 6.4
	FILTER_STACKTRACE,
#endif
};

struct trace_entry {
	unsigned short type;
	unsigned char flags;
	unsigned char preempt_count;
	int pid;
};

struct trace_iterator;
struct trace_event;
struct trace_event_call;
struct trace_event_file;
struct event_filter;
struct bpf_prog_array;
struct trace_array_cpu;

struct trace_event_functions {
	int (*trace)(struct trace_iterator *iter, int flags, struct trace_event *event);
	int (*raw)(struct trace_iterator *iter, int flags, struct trace_event *event);
	int (*hex)(struct trace_iterator *iter, int flags, struct trace_event *event);
	int (*binary)(struct trace_iterator *iter, int flags, struct trace_event *event);
};

struct trace_event {
	struct hlist_node node;
#if KERNEL < 6.3
	struct list_head list;
#endif
	int type;
	struct trace_event_functions *funcs;
};

struct trace_event_fields;
struct trace_event_class {
	const char *system;
	void *probe;
#ifdef CONFIG_PERF_EVENTS
	void *perf_probe;
#endif
	int (*reg)(struct trace_event_call *event, int type, void *data);
#if KERNEL >= 5.9
	struct trace_event_fields *fields_array;
#else
	int (*define_fields)(struct trace_event_call *call);
#endif
	struct list_head *(*get_fields)(struct trace_event_call *call);
	struct list_head fields;
	int (*raw_init)(struct trace_event_call *call);
};

struct tracepoint {
	const char *name;
	unsigned long __left_out_to_the_end[10];
};

struct trace_event_call {
	struct list_head list;
	struct trace_event_class *class;
	union {
		const char *name;
		struct tracepoint *tp;
	};
	struct trace_event event;
	char *print_fmt;
#if KERNEL < 6.10
	struct event_filter *filter;
#endif
#if KERNEL >= 5.15
	union {
		void *module;
		atomic_t refcnt;
	};
#else
	void *mod;
#endif
	void *data;
	int flags;
#ifdef CONFIG_PERF_EVENTS
	int perf_refcount;
	struct hlist_head *perf_events;
	struct bpf_prog_array *prog_array;
	int (*perf_perm)(struct trace_event_call *call, void *event);
#endif
};

struct ftrace_event_field {
	struct list_head link;
	const char *name;
	const char *type;
	int filter_type;
	int offset;
	int size;
#if KERNEL >= 6.11
	unsigned int is_signed : 1;
	unsigned int needs_test : 1;
	int len;
#else
	int is_signed;
#if KERNEL >= 6.1
	int len;
#endif
#endif
};

struct tracer {
	const char *name;
	unsigned long __left_out_callbacks[20];
	bool print_max;
};

struct trace_array;
/* 5.6 renamed struct trace_buffer. */
#if KERNEL >= 5.6
struct array_buffer {
#else
struct trace_buffer {
#endif
	struct trace_array *tr;
	RING_BUFFER *buffer;
	struct trace_array_cpu *data;
	u64 time_start;
	int cpu;
};

struct trace_array {
	struct list_head list;
	char *name;
#if KERNEL >= 5.6
	struct array_buffer array_buffer;
#else
	struct trace_buffer trace_buffer;
#endif
	/* Snapshots, filters by PID, system calls. */
	unsigned long __left_out_until_clock[8];
#if KERNEL >= 6.12
	long text_delta;
#endif
	int clock_id;
	struct tracer *current_trace;
#if KERNEL >= 6.19
	u64 trace_flags;
#else
	unsigned int trace_flags;
#endif
	/* Options, directories, events. */
	unsigned long __left_out_until_expanded[64];
#if KERNEL >= 6.7
	bool ring_buffer_expanded;
#endif
};

struct saved_cmdlines_buffer {
	unsigned map_pid_to_cmdline[0x8000 + 1];
	unsigned *map_cmdline_to_pid;
	unsigned cmdline_num;
	int cmdline_idx;
#if KERNEL >= 6.1
	/* 6.8, and stable releases. */
	char saved_cmdlines[];
#else
	char *saved_cmdlines;
#endif
};

typedef struct {
	u64 key[2];
} siphash_key_t;
#endif
