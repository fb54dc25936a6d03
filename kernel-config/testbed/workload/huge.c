// SPDX-License-Identifier: LGPL-2.1-or-later
/* Huge pages: anonymous, of tmpfs, of the page cache, and hugetlb. */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define THP_COUNT 8
#define FILE_THPS 2
#define HUGETLB_POOL 4
#define MTHP_SIZE (64UL << 10)
#define MTHP_COUNT 16
#define MTHP_ENABLED "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MAP_HUGETLB
#define MAP_HUGETLB 0x40000
#endif

/* Forks; the parent goes on when the child called child_done(). */
static pid_t fork_and_wait(int ends[2])
{
	char byte;

	if (pipe(ends))
		fail("pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid) {
		close(ends[1]);
		if (read(ends[0], &byte, 1) != 1)
			fail("the child ended early");
	}
	return pid;
}

static void child_done(int ends[2])
{
	if (write(ends[1], "", 1) != 1)
		_exit(1);
	sleep_forever();
}

/* How many of the 8 huge pages fit: all of them on 4K kernels, fewer where one has 32 MiB. */
static size_t thp_count(void)
{
	size_t fit = (size_t)meminfo_kib("MemAvailable") * 1024 / 4 / thp_size;

	return fit < THP_COUNT ? fit : THP_COUNT;
}

static void thp_state(const char *who, size_t index, const char *state)
{
	say("thp state pid=%d idx=%zu in=%s what=%s", getpid(), index, who, state);
}

void make_thp(int argc, char **argv)
{
	int ends[2];

	(void)argc;
	(void)argv;
	if (!thp_size) {
		absent("this kernel has no transparent huge pages");
		return;
	}
	size_t count = thp_count();
	if (count < 1) {
		absent("memory has no room for a huge page of %zu bytes", thp_size);
		return;
	}
	char *area = huge_pages(count);
	for (size_t i = 0; i < count; i++) {
		char *va = area + i * thp_size;
		if (is_thp(va))
			say("thp parent pid=%d idx=%zu va=0x%lx pfn=0x%lx", getpid(), i, (unsigned long)va, pfn_of(va));
		else
			absent("no huge page was free for idx=%zu", i);
	}
	if (count > 7)
		madvise(area + 7 * thp_size, thp_size, MADV_DONTFORK);
	pid_t pid = fork_and_wait(ends);
	if (!pid) {
		prctl(PR_SET_NAME, "thp-child");
		say("thp child pid=%d", getpid());
		if (count > 1) {
			mprotect(area + thp_size, page_size, PROT_READ);
			thp_state("child", 1, "pmd-split-by-mprotect");
		}
		if (count > 2) {
			munmap(area + 2 * thp_size, thp_size / 2);
			thp_state("child", 2, "first-half-unmapped");
		}
		if (count > 5) {
			area[5 * thp_size] = 1;
			thp_state("child", 5, "first-page-written");
		}
		if (count > 6) {
			munmap(area + 6 * thp_size, thp_size / 2);
			thp_state("child", 6, "first-half-unmapped");
		}
		child_done(ends);
	}
	if (count > 3) {
		munmap(area + 3 * thp_size + thp_size / 2, thp_size / 2);
		thp_state("parent", 3, "second-half-unmapped");
	}
	if (count > 4) {
		if (mlock(area + 4 * thp_size, thp_size))
			absent("mlock: %s", strerror(errno));
		else
			thp_state("parent", 4, "mlocked");
	}
	if (count > 6) {
		munmap(area + 6 * thp_size, thp_size / 2);
		thp_state("parent", 6, "first-half-unmapped");
	}
	if (count > 7)
		thp_state("parent", 7, "not-in-child");
	idle();
}

/* Folios of 64 KiB, shared by fork; of every fourth, the child has only the first half mapped. */
void make_mthp(int argc, char **argv)
{
	int ends[2];
	char before[128] = "";
	size_t size = MTHP_COUNT * MTHP_SIZE;

	(void)argc;
	(void)argv;
	if (read_file(MTHP_ENABLED, before, sizeof(before)) < 0 || write_file(MTHP_ENABLED, "always\n")) {
		absent("no folios of 64 KiB (since 6.8)");
		return;
	}
	char *area = mmap(NULL, size + MTHP_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		fail("mmap of %zu bytes: %s", size, strerror(errno));
	area = (char *)(((uintptr_t)area + MTHP_SIZE - 1) & ~(MTHP_SIZE - 1));
	for (size_t at = 0; at < size; at += page_size)
		*(size_t *)(area + at) = at;
	/* Others are to have small pages or huge ones, as before. */
	write_file(MTHP_ENABLED, "never\n");
	for (size_t i = 0; i < MTHP_COUNT; i++) {
		char *va = area + i * MTHP_SIZE;
		if (kpageflags_of(pfn_of(va)) >> KPF_COMPOUND_HEAD & 1)
			say("mthp parent pid=%d idx=%zu va=0x%lx pfn=0x%lx pages=%zu", getpid(), i, (unsigned long)va,
			    pfn_of(va), MTHP_SIZE / page_size);
	}
	if (!fork_and_wait(ends)) {
		prctl(PR_SET_NAME, "mthp-child");
		for (size_t i = 0; i < MTHP_COUNT; i += 4)
			munmap(area + i * MTHP_SIZE + MTHP_SIZE / 2, MTHP_SIZE / 2);
		area[MTHP_SIZE] = 1;
		say("mthp child pid=%d second-half-unmapped=every-4th first-page-written=1", getpid());
		child_done(ends);
	}
	idle();
}

/* Maps a file at an address aligned to thp_size. */
static char *map_aligned(int fd, size_t size, int protection, int flags)
{
	char *hint = mmap(NULL, size + thp_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (hint == MAP_FAILED)
		fail("mmap of %zu bytes: %s", size, strerror(errno));
	hint = (char *)(((uintptr_t)hint + thp_size - 1) & ~(thp_size - 1));
	char *area = mmap(hint, size, protection, flags | MAP_FIXED, fd, 0);
	return area == MAP_FAILED ? NULL : area;
}

/* argv[0]: a directory on a tmpfs mounted with huge=always. */
void make_shmthp(int argc, char **argv)
{
	int ends[2];
	char path[128];
	size_t size = FILE_THPS * thp_size;

	if (!thp_size) {
		absent("this kernel has no transparent huge pages");
		return;
	}
	snprintf(path, sizeof(path), "%s/shmthp", argc > 0 ? argv[0] : "/huge");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)size)) {
		absent("%s: %s", path, strerror(errno));
		return;
	}
	char *area = map_aligned(fd, size, PROT_READ | PROT_WRITE, MAP_SHARED);
	if (!area)
		fail("mmap of %s: %s", path, strerror(errno));
	memset(area, 1, size);
	for (size_t i = 0; i < FILE_THPS; i++) {
		char *va = area + i * thp_size;
		if (is_thp(va))
			say("shmthp parent pid=%d idx=%zu va=0x%lx pfn=0x%lx", getpid(), i, (unsigned long)va, pfn_of(va));
		else
			absent("tmpfs gave small pages for idx=%zu", i);
	}
	if (!fork_and_wait(ends)) {
		prctl(PR_SET_NAME, "shmthp-child");
		for (size_t at = 0; at < thp_size; at += page_size)
			area[at] = 2;
		munmap(area + thp_size, thp_size / 2);
		for (size_t at = thp_size * 3 / 2; at < size; at += page_size)
			area[at] = 2;
		say("shmthp child pid=%d idx=1 what=first-half-unmapped", getpid());
		child_done(ends);
	}
	idle();
}

/* argv[0]: a file of at least FILE_THPS huge pages, on a file system with a page cache. */
void make_filethp(int argc, char **argv)
{
	if (!thp_size || argc < 1) {
		absent("this kernel has no transparent huge pages");
		return;
	}
	int fd = open(argv[0], O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		absent("%s: %s", argv[0], strerror(errno));
		return;
	}
	char *area = map_aligned(fd, thp_size, PROT_READ | PROT_EXEC, MAP_PRIVATE);
	if (!area) {
		absent("mmap of %s: %s", argv[0], strerror(errno));
		return;
	}
	size_t sum = 0;
	for (size_t at = 0; at < thp_size; at += page_size)
		sum += (size_t)((volatile char *)area)[at];
	if (madvise(area, thp_size, MADV_COLLAPSE)) {
		absent("MADV_COLLAPSE of a file: %s", strerror(errno));
		return;
	}
	sum += (size_t)((volatile char *)area)[0];
	say("filethp pid=%d va=0x%lx pfn=0x%lx thp=%d sum=%zu", getpid(), (unsigned long)area, pfn_of(area),
	    is_thp(area), sum);
	idle();
}

void make_hugetlb(int argc, char **argv)
{
	int ends[2];
	char text[32];

	(void)argc;
	(void)argv;
	long size_kib = meminfo_kib("Hugepagesize");
	if (size_kib <= 0) {
		absent("this kernel has no hugetlb");
		return;
	}
	size_t size = (size_t)size_kib * 1024;
	size_t pool = size > (8UL << 20) ? 2 : HUGETLB_POOL;
	snprintf(text, sizeof(text), "%zu\n", pool);
	write_file("/proc/sys/vm/nr_hugepages", text);
	long total = meminfo_kib("HugePages_Total");
	if (total < 2) {
		absent("the pool has %ld pages of %ld KiB, asked for %zu", total, size_kib, pool);
		return;
	}
	size_t used = (size_t)total > 2 ? 2 : 1;
	char *area = mmap(NULL, used * size, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (area == MAP_FAILED) {
		absent("mmap: %s", strerror(errno));
		return;
	}
	for (size_t i = 0; i < used; i++) {
		area[i * size] = 1;
		say("hugetlb parent pid=%d idx=%zu va=0x%lx pfn=0x%lx size=%zu", getpid(), i,
		    (unsigned long)(area + i * size), pfn_of(area + i * size), size);
	}
	say("hugetlb pool total=%ld free=%ld", total, meminfo_kib("HugePages_Free"));
	if (!fork_and_wait(ends)) {
		prctl(PR_SET_NAME, "hugetlb-child");
		area[0] = 2;
		say("hugetlb child pid=%d idx=0", getpid());
		child_done(ends);
	}
	idle();
}
