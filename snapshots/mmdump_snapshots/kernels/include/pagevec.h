/* Pages on their way to or between LRU lists, batched per CPU: include/linux/pagevec.h, mm/swap.c, mm/mlock.c. */

/* 6.11 doubled the batches; a folio_batch's second byte is new then, too. */
#if KERNEL >= 6.11
#define PAGEVEC_SIZE 31
#else
#define PAGEVEC_SIZE 15
#endif

struct folio;
struct page;

#if KERNEL < 6.5
struct pagevec {
	unsigned char nr;
	bool percpu_pvec_drained;
	struct page *pages[PAGEVEC_SIZE];
};
#endif

#if KERNEL >= 5.16
struct folio_batch {
	unsigned char nr;
#if KERNEL >= 6.11
	unsigned char i;
#endif
	bool percpu_pvec_drained;
	struct folio *folios[PAGEVEC_SIZE];
};
#endif

#if KERNEL >= 5.19
struct cpu_fbatches {
	local_lock_t lock;
	struct folio_batch lru_add;
	struct folio_batch lru_deactivate_file;
	struct folio_batch lru_deactivate;
	struct folio_batch lru_lazyfree;
#if KERNEL >= 6.12
	struct folio_batch lru_activate;
	/* 6.12: what was lru_rotate. */
	local_lock_t lock_irq;
	struct folio_batch lru_move_tail;
#else
	struct folio_batch activate;
#endif
};
#elif KERNEL >= 5.8
struct lru_pvecs {
	local_lock_t lock;
	struct pagevec lru_add;
	struct pagevec lru_deactivate_file;
	struct pagevec lru_deactivate;
	struct pagevec lru_lazyfree;
	struct pagevec activate_page;
};
#endif

#if KERNEL >= 5.19 && KERNEL < 6.12
struct lru_rotate {
	local_lock_t lock;
	struct folio_batch fbatch;
};
#elif KERNEL >= 5.8 && KERNEL < 5.19
struct lru_rotate {
	local_lock_t lock;
	struct pagevec pvec;
};
#endif

#if KERNEL >= 6.3
struct mlock_fbatch {
	local_lock_t lock;
	struct folio_batch fbatch;
};
#elif KERNEL >= 5.18
struct mlock_pvec {
	local_lock_t lock;
	struct pagevec vec;
};
#endif
