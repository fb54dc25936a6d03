/*
 * Where things are in the address space, and per-CPU machinery. The sections `.data..page_aligned` and
 * `.bss..page_aligned` begin at a page, as the variables in them must.
 */

#ifdef ARM64
#pragma file arch/arm64/mm/init.c
#pragma section .data
s64 memstart_addr;

#pragma file arch/arm64/mm/mmu.c
#pragma section .data..page_aligned
pgd_t swapper_pg_dir[1 << (PAGE_SHIFT - 3)];
#pragma section .bss..page_aligned
#if KERNEL < 7.1
unsigned long empty_zero_page[1 << (PAGE_SHIFT - 3)];
#endif
#pragma section .data
u64 kimage_voffset;

#pragma file mm/percpu.c
#pragma section .data
unsigned long __per_cpu_offset[CONFIG_NR_CPUS];
#else
#pragma file arch/x86/kernel/head_64.S
#pragma section .data..page_aligned
pgd_t swapper_pg_dir[512];
#pragma section .data
unsigned long phys_base;

#pragma file arch/x86/kernel/head64.c
#pragma section .data
unsigned long page_offset_base;
unsigned long vmalloc_base;
unsigned long vmemmap_base;

#pragma file arch/x86/kernel/setup_percpu.c
#pragma section .data
unsigned long __per_cpu_offset[CONFIG_NR_CPUS];

#pragma file arch/x86/mm/init_64.c
#pragma section .bss..page_aligned
#if KERNEL < 7.1
unsigned long empty_zero_page[512];
#endif
#endif

#if KERNEL >= 7.1
/* 7.1: one for all architectures. */
#pragma file mm/mm_init.c
#pragma section .bss..page_aligned
u8 empty_zero_page[1 << PAGE_SHIFT];
#endif

#pragma file mm/percpu.c
#pragma section .data
void *pcpu_base_addr;
static int pcpu_unit_size;
static int pcpu_nr_units;
const unsigned long *pcpu_unit_offsets;

#pragma file mm/init-mm.c
#pragma section .data
struct mm_struct init_mm;
