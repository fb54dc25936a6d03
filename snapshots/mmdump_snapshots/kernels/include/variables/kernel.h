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
