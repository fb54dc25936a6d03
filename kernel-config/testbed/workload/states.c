// SPDX-License-Identifier: LGPL-2.1-or-later
/* States a page can be in: merged by KSM, poisoned, reported to the hypervisor. */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KSM_PAGES 256
#define KSM_WAIT_MS 8000
#define REPORTED_BYTES (32UL << 20)

#ifndef MADV_HWPOISON
#define MADV_HWPOISON 100
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

void make_ksm(int argc, char **argv)
{
	char text[32] = "0";

	(void)argc;
	(void)argv;
	char *area = small_pages(KSM_PAGES * page_size);
	for (size_t i = 0; i < KSM_PAGES; i++)
		memset(area + i * page_size, 0x5a, page_size);
	if (madvise(area, KSM_PAGES * page_size, MADV_MERGEABLE)) {
		absent("MADV_MERGEABLE: %s", strerror(errno));
		return;
	}
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "20\n");
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "2000\n");
	write_file("/sys/kernel/mm/ksm/run", "1\n");
	for (int waited = 0; waited < KSM_WAIT_MS && strtol(text, NULL, 10) < KSM_PAGES - 2; waited += 100) {
		usleep(100000);
		if (read_file("/sys/kernel/mm/ksm/pages_sharing", text, sizeof(text)) < 0)
			break;
	}
	write_file("/sys/kernel/mm/ksm/run", "0\n"); /* what is merged stays; ksmd sleeps */
	say("ksm pid=%d pages=%d sharing=%ld first pfn=0x%lx last pfn=0x%lx", getpid(), KSM_PAGES,
	    strtol(text, NULL, 10), pfn_of(area), pfn_of(area + (KSM_PAGES - 1) * page_size));
	idle();
}

static sigjmp_buf after_poison;

static void on_bus_error(int signal)
{
	(void)signal;
	siglongjmp(after_poison, 1);
}

static void poison(char *page, int advice, const char *how)
{
	unsigned long pfn = pfn_of(page);
	volatile int error = 0;

	/* The kernel sends SIGBUS to whoever maps a page that it poisons. */
	if (!sigsetjmp(after_poison, 1) && madvise(page, page_size, advice))
		error = errno;
	if (error)
		absent("%s: %s", how, strerror(error));
	else
		say("poison pid=%d va=0x%lx pfn=0x%lx how=%s flagged=%d", getpid(), (unsigned long)page, pfn, how,
		    (int)(kpageflags_of(pfn) >> KPF_HWPOISON & 1));
}

void make_poison(int argc, char **argv)
{
	struct sigaction action;

	(void)argc;
	(void)argv;
	memset(&action, 0, sizeof(action));
	action.sa_handler = on_bus_error;
	sigaction(SIGBUS, &action, NULL);
	char *area = small_pages(8 * page_size);
	poison(area + 2 * page_size, MADV_HWPOISON, "hwpoison");
	poison(area + 5 * page_size, MADV_SOFT_OFFLINE, "soft-offline");
	idle();
}

/* Frees huge blocks; free page reporting takes them a moment later, if nobody else does. */
void make_reported(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (!thp_size) {
		absent("this kernel has no transparent huge pages");
		return;
	}
	size_t count = REPORTED_BYTES / thp_size ? REPORTED_BYTES / thp_size : 1;
	char *area = huge_pages(count);
	unsigned long *pfns = calloc(count, sizeof(*pfns));
	if (!pfns)
		fail("no memory for %zu PFNs", count);
	for (size_t i = 0; i < count; i++)
		pfns[i] = is_thp(area + i * thp_size) ? pfn_of(area + i * thp_size) : 0;
	munmap(area, count * thp_size);
	for (size_t i = 0; i < count; i++)
		if (pfns[i])
			say("reported freed pfn=0x%lx pages=%zu", pfns[i], thp_size / page_size);
	say("reported pid=%d blocks=%zu", getpid(), count);
	idle();
}
