/* page_ext and its clients, the stack depot, CMA, free page reporting, debug_pagealloc. */

#pragma file mm/page_ext.c
#pragma section .data
#if KERNEL >= 5.4
unsigned long page_ext_size;
#else
static unsigned long extra_mem;
#endif
static unsigned long total_usage;

#pragma file mm/page_owner.c
#pragma section .data
struct page_ext_operations page_owner_ops;
#if KERNEL < 5.4
static bool page_owner_disabled;
#elif KERNEL < 5.19
/* Gone after boot since 5.19. */
static bool page_owner_enabled;
#endif
#pragma section .bss
struct static_key_false page_owner_inited;
static depot_stack_handle_t dummy_handle;
static depot_stack_handle_t failure_handle;
static depot_stack_handle_t early_handle;
#if KERNEL >= 6.9
static struct stack dummy_stack;
static struct stack failure_stack;
static struct stack *stack_list;
static unsigned long page_owner_pages_threshold;
#endif

#ifdef CONFIG_PAGE_PINNER
#if PINNER == PINNER_PIN_OWNER
/* The RFC's second version. */
#pragma file mm/page_pin_owner.c
#pragma section .data
struct page_ext_operations page_pin_owner_ops;
#pragma section .bss
struct static_key_false page_pin_owner_inited;
#else
#pragma file mm/page_pinner.c
#pragma section .data
struct page_ext_operations page_pinner_ops;
#if PINNER >= PINNER_A1
struct static_key_true failure_tracking;
#endif
#if PINNER >= PINNER_B1
static unsigned long pp_buf_size;
#elif PINNER >= PINNER_A0
static s64 threshold_usec;
#endif
#pragma section .bss
struct static_key_false page_pinner_inited;
#if PINNER >= PINNER_A0
static depot_stack_handle_t failure_handle;
#endif
#if PINNER >= PINNER_B1
static struct page_pinner_buffer pp_buffer;
#elif PINNER == PINNER_B0
static struct page_pinner_buffer lt_buffer;
static struct page_pinner_buffer acf_buffer;
#elif PINNER >= PINNER_A0
static struct longterm_pinner lt_pinner;
#if PINNER >= PINNER_A1
static struct longterm_pinner acf_pinner;
#endif
#endif
#endif
#endif

#ifdef CONFIG_DEBUG_PAGEALLOC
#if KERNEL >= 6.4
#pragma file mm/debug_page_alloc.c
#else
#pragma file mm/page_alloc.c
#endif
#if KERNEL >= 5.3
#pragma section .bss
struct static_key_false _debug_pagealloc_enabled;
struct static_key_false _debug_guardpage_enabled;
#else
/* 5.3 made them static keys, and guard pages a page type. */
#pragma section .data
bool _debug_pagealloc_enabled;
bool _debug_guardpage_enabled;
struct page_ext_operations debug_guardpage_ops;
#endif
#pragma section .bss
unsigned int _debug_guardpage_minorder;
#endif

#if defined(CONFIG_PAGE_TABLE_CHECK) && KERNEL >= 5.17
#pragma file mm/page_table_check.c
#pragma section .data
struct page_ext_operations page_table_check_ops;
struct static_key_true page_table_check_disabled;
#endif

#if defined(CONFIG_MEM_ALLOC_PROFILING) && KERNEL >= 6.10
#if KERNEL >= 7.3
#pragma file mm/alloc_tag.c
#else
#pragma file lib/alloc_tag.c
#endif
#pragma section .data
struct page_ext_operations page_alloc_tagging_ops;
static struct codetag_type *alloc_tag_cttype;
/* The kernel has one for each line of code that allocates; here an array has them all, with room to spare. */
static struct alloc_tag _alloc_tag[1024];
#pragma section .bss
struct static_key_false mem_alloc_profiling_key;
#if KERNEL >= 6.13
static bool mem_profiling_support;
struct static_key_false mem_profiling_compressed;
struct alloc_tag_kernel_section kernel_tags;
struct alloc_tag_module_section module_tags;
unsigned long alloc_tag_ref_mask;
int alloc_tag_ref_offs;
#endif
#pragma section .data..percpu
static struct alloc_tag_counters _alloc_tag_cntr[1024];
#endif

#pragma file lib/stackdepot.c
#pragma section .bss
#if KERNEL >= 6.17
/* 6.17: as many as the boot parameter allows. */
static unsigned int stack_max_pools;
static void **stack_pools;
#elif KERNEL >= 6.3
static void *stack_pools[DEPOT_MAX_POOLS];
#else
static void *stack_slabs[DEPOT_MAX_POOLS];
#endif
#if KERNEL >= 6.8
static struct list_head *stack_table;
static void *new_pool;
static int pools_num;
static size_t pool_offset;
#elif KERNEL >= 6.3
static struct stack_record **stack_table;
static int pool_index;
static size_t pool_offset;
static int next_pool_required;
#else
#if KERNEL >= 5.12
static struct stack_record **stack_table;
#else
static struct stack_record *stack_table[1 << STACK_HASH_ORDER];
#endif
static int depot_index;
static int next_slab_inited;
static size_t depot_offset;
#endif
#if KERNEL >= 6.3
static bool stack_depot_disabled;
static unsigned int stack_bucket_number_order;
static unsigned int stack_hash_mask;
#elif KERNEL >= 5.12
static bool stack_depot_disable;
#if KERNEL >= 6.0
static unsigned int stack_hash_order;
static unsigned int stack_hash_mask;
#endif
#endif

#ifdef CONFIG_CMA
#pragma file mm/cma.c
#pragma section .bss
#if KERNEL >= 6.9
struct cma cma_areas[CONFIG_CMA_AREAS];
#else
struct cma cma_areas[1 + CONFIG_CMA_AREAS];
#endif
unsigned int cma_area_count;
#endif

#if defined(CONFIG_PAGE_REPORTING) && KERNEL >= 5.7
#pragma file mm/page_reporting.c
#pragma section .data
#if KERNEL >= 5.14
unsigned int page_reporting_order;
#endif
static struct page_reporting_dev_info *pr_dev_info;
#pragma section .bss
struct static_key_false page_reporting_enabled;
#endif
