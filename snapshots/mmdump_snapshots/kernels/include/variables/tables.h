/* Tables of names. What they hold is in kernels/rodata.py, which must agree with the lengths here. */

#pragma file mm/debug.c
#pragma section .rodata
/* Every flag has a name, and the end mark is an entry too. */
const struct trace_print_flags pageflag_names[__NR_PAGEFLAGS + 1];
#if KERNEL >= 6.15
const struct trace_print_flags gfpflag_names[40];
#elif KERNEL >= 6.4
const struct trace_print_flags gfpflag_names[36];
#elif KERNEL >= 5.18
const struct trace_print_flags gfpflag_names[37];
#elif KERNEL >= 5.14
const struct trace_print_flags gfpflag_names[38];
#else
const struct trace_print_flags gfpflag_names[36];
#endif
#pragma section .data
const char *migrate_reason_names[MR_TYPES];

#pragma file mm/page_alloc.c
#pragma section .rodata
const char *const migratetype_names[MIGRATE_TYPES];

#if KERNEL >= 5.13
#pragma file lib/vsprintf.c
#pragma section .rodata
static const struct printf_spec default_dec_spec;
static const struct printf_spec default_flag_spec;
static const struct page_flags_fields pff[5];
#endif

#pragma file fs/proc/array.c
#pragma section .rodata
static const char *const task_state_array[9];
