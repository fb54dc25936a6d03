/* What is not mm: CPUs, tasks, names. */

#pragma file kernel/cpu.c
#pragma section .data
struct cpumask __cpu_possible_mask;
struct cpumask __cpu_online_mask;
struct cpumask __cpu_present_mask;
struct cpumask __cpu_active_mask;
#if KERNEL >= 5.2
atomic_t __num_online_cpus;
#endif

#pragma file kernel/smp.c
#pragma section .data
unsigned int nr_cpu_ids;

#pragma file kernel/time/timer.c
#pragma section .data
u64 jiffies_64;

#pragma file kernel/panic.c
#pragma section .bss
static unsigned long tainted_mask;
atomic_t panic_cpu;

#pragma file kernel/sched/loadavg.c
unsigned long avenrun[3];

#pragma file init/version.c
#pragma section .data
struct uts_namespace init_uts_ns;
/* As long as the string is; here room enough. */
#pragma section .rodata
const char linux_banner[256];

#pragma file init/main.c
#pragma section .data
char *saved_command_line;

#pragma file init/init_task.c
#pragma section .data
struct task_struct init_task;
static struct signal_struct init_signals;

#pragma file fs/pipe.c
#pragma section .rodata
const struct file_operations pipefifo_fops;
#if KERNEL >= 6.15
static const struct file_operations pipeanon_fops;
#endif

#pragma file fs/splice.c
#pragma section .rodata
static const struct pipe_buf_operations user_page_pipe_buf_ops;

#if KERNEL >= 5.15
#pragma file block/fops.c
#else
#pragma file fs/block_dev.c
#endif
#pragma section .rodata
const struct file_operations def_blk_fops;
#pragma section .bss
static struct bio_set blkdev_dio_pool;

#pragma file block/bio.c
#pragma section .bss
struct bio_set fs_bio_set;

#pragma file kernel/nsproxy.c
#pragma section .data
struct nsproxy init_nsproxy;

#pragma file kernel/pid.c
#pragma section .data
struct pid_namespace init_pid_ns;

#pragma file kernel/sched/core.c
#pragma section .data..percpu
struct rq runqueues;

#if KERNEL >= 5.19
#pragma file kernel/module/main.c
#else
#pragma file kernel/module.c
#endif
#pragma section .data
struct list_head modules;

#ifdef CONFIG_TRACING
#pragma file kernel/trace/trace.c
#pragma section .data
struct list_head ftrace_trace_arrays;
static struct trace_array global_trace;
#if KERNEL < 6.7
/* In trace_array since. */
bool ring_buffer_expanded;
#endif
#pragma section .rodata
static struct {
	u64 (*func)(void);
	const char *name;
	int in_ns;
#if KERNEL >= 5.19
#define TRACE_CLOCKS 9
#else
#define TRACE_CLOCKS 8
#endif
#ifdef X86_64
} trace_clocks[TRACE_CLOCKS + 1];
#else
} trace_clocks[TRACE_CLOCKS];
#endif
#pragma file kernel/trace/trace_nop.c
#pragma section .data
struct tracer nop_trace;
#pragma file kernel/trace/trace_events.c
struct list_head ftrace_events;
#if KERNEL >= 6.9
#pragma file kernel/trace/trace_sched_switch.c
#else
#pragma file kernel/trace/trace.c
#endif
#pragma section .bss
static struct saved_cmdlines_buffer *savedcmd;
#pragma file lib/vsprintf.c
#if KERNEL >= 6.1
/* 6.2, and stable releases. */
static bool filled_random_ptr_key;
#else
static struct static_key_true not_filled_random_ptr_key;
#endif
static siphash_key_t ptr_key;
#endif
