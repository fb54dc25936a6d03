// SPDX-License-Identifier: LGPL-2.1-or-later
/* Memory in quantity: fragments, one call chain, slab, page cache, page tables. */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define FRAG_CHUNK (1UL << 20)
#define FRAG_MAX_CHUNKS 4096
#define FRAG_LEFT_KIB (20L * 1024) /* free memory outside CMA when the filling stops */
#define FRAG_HOLES 32              /* chunks of which every other page is freed at once */
#define FRAG_KEPT 32               /* chunks of which every 16th page stays */
#define LEAK_MIB 16
#define SLOWLEAK_PAUSE_MS 40

static long argument(int argc, char **argv, long otherwise)
{
	return argc > 0 ? strtol(argv[0], NULL, 10) : otherwise;
}

static void more_files(rlim_t count)
{
	struct rlimit limit = { count, count };

	setrlimit(RLIMIT_NOFILE, &limit);
}

/* Frees all pages of a chunk but every n-th; returns how many stay. */
static size_t thin_out(char *chunk, size_t n)
{
	size_t kept = 0;

	for (size_t at = 0, i = 0; at < FRAG_CHUNK; at += page_size, i++) {
		if (i % n == 0)
			kept++;
		else
			madvise(chunk + at, page_size, MADV_DONTNEED);
	}
	return kept;
}

/*
 * Fills memory with movable pages and frees every other page of some: what is then allocated as
 * unmovable has to go into movable blocks. On SIGUSR1 the memory is freed, but for single pages.
 */
void make_frag(int argc, char **argv)
{
	static char *chunks[FRAG_MAX_CHUNKS];
	size_t count = 0, kept = 0;
	sigset_t signals;
	int got;

	(void)argc;
	(void)argv;
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	for (long outside = 0; count < FRAG_MAX_CHUNKS; count++) {
		long cma = meminfo_kib("CmaFree");
		outside = meminfo_kib("MemFree") - (cma > 0 ? cma : 0);
		if (outside < FRAG_LEFT_KIB)
			break;
		chunks[count] = small_pages(FRAG_CHUNK);
	}
	for (size_t i = 0; i < count && i < FRAG_HOLES; i++)
		kept += thin_out(chunks[i], 2);
	say("frag pid=%d filled=%zu pages=%zu", getpid(), count, count * (FRAG_CHUNK / page_size));
	ready();
	sigwait(&signals, &got);
	for (size_t i = FRAG_HOLES; i < count; i++) {
		if (i < FRAG_HOLES + FRAG_KEPT)
			kept += thin_out(chunks[i], 16);
		else
			munmap(chunks[i], FRAG_CHUNK);
	}
	say("frag pid=%d kept=%zu", getpid(), kept);
	sleep_forever();
}

/* Fills one pipe; returns the bytes it took. */
static size_t fill_pipe(int fd, const char *page)
{
	size_t bytes = 0;

	fcntl(fd, F_SETPIPE_SZ, 1 << 20);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (ssize_t put; (put = write(fd, page, page_size)) > 0;)
		bytes += (size_t)put;
	return bytes;
}

/*
 * Pages that one call chain allocates and nobody frees: write() into pipes that nobody reads. The
 * process that wrote is gone; another still has the pipes open.
 */
void make_leak(int argc, char **argv)
{
	size_t bytes = (size_t)argument(argc, argv, LEAK_MIB) * MIB;
	size_t pipes = 0;
	int ends[1024][2];
	int status;

	more_files(4096);
	for (pipes = 0; pipes < bytes / MIB && pipes < 1024; pipes++)
		if (pipe(ends[pipes]))
			break;
	pid_t writer = fork();
	if (writer < 0)
		fail("fork: %s", strerror(errno));
	if (!writer) {
		size_t put = 0;
		char *page = small_pages(page_size);
		prctl(PR_SET_NAME, "leak-writer");
		for (size_t i = 0; i < pipes; i++)
			put += fill_pipe(ends[i][1], page);
		say("leak writer pid=%d pages=%zu bytes=%zu chain=pipe_write", getpid(), put / page_size, put);
		_exit(0);
	}
	waitpid(writer, &status, 0);
	if (status)
		fail("the writer ended with status 0x%x", status);
	say("leak holder pid=%d pipes=%zu writer=%d", getpid(), pipes, writer);
	idle();
}

/*
 * The same, slowly: a page every so often, from now until the guest ends, into pipes that nobody reads.
 * What a daemon does whose log nobody takes.
 */
void make_slowleak(int argc, char **argv)
{
	useconds_t pause_us = (useconds_t)argument(argc, argv, SLOWLEAK_PAUSE_MS) * 1000;
	char *page = small_pages(page_size);
	int ends[2] = { -1, -1 };
	size_t pages = 0, pipes = 0;

	more_files(4096);
	say("slowleak pid=%d pause_ms=%u chain=pipe_write", getpid(), pause_us / 1000);
	ready();
	for (;; pages++) {
		if (ends[1] < 0 || write(ends[1], page, page_size) < 0) {
			if (pipe(ends))
				fail("pipe %zu, after %zu pages: %s", pipes, pages, strerror(errno));
			pipes++;
			fcntl(ends[1], F_SETFL, O_NONBLOCK);
			if (write(ends[1], page, page_size) < 0)
				fail("write into a new pipe: %s", strerror(errno));
		}
		usleep(pause_us);
	}
}

void make_slab(int argc, char **argv)
{
	long count = argument(argc, argv, 4000);
	long files = 0, events = 0;
	char path[64];

	more_files((rlim_t)count + 64);
	mkdir("/slab", 0755);
	for (long i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "/slab/%ld", i);
		int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			break;
		close(fd);
		files++;
		if (eventfd(0, EFD_CLOEXEC) >= 0)
			events++;
	}
	say("slab pid=%d files=%ld eventfds=%ld", getpid(), files, events);
	idle();
}

/* argv[0]: a file on a file system with a page cache. */
void make_pagecache(int argc, char **argv)
{
	int fd = argc > 0 ? open(argv[0], O_RDONLY | O_CLOEXEC) : -1;
	size_t total = 0, resident = 0;
	static char buffer[64 << 10];

	if (fd < 0) {
		absent("%s: %s", argc > 0 ? argv[0] : "no file named", strerror(errno));
		return;
	}
	for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;)
		total += (size_t)got;
	size_t pages = (total + page_size - 1) / page_size;
	unsigned char *present = malloc(pages + 1);
	char *area = mmap(NULL, total, PROT_READ, MAP_SHARED, fd, 0);
	if (!present || area == MAP_FAILED || mincore(area, total, present)) {
		absent("mmap of %s: %s", argv[0], strerror(errno));
		return;
	}
	for (size_t i = 0; i < pages; i++)
		resident += present[i] & 1;
	say("pagecache pid=%d fd=%d bytes=%zu pages=%zu resident=%zu", getpid(), fd, total, pages, resident);
	/* Some are mapped too. */
	size_t sum = 0;
	for (size_t i = 0; i < 64 && i < pages; i++) {
		sum += (size_t)((volatile char *)area)[i * page_size];
		if (i < 16)
			say("pagecache pfn=0x%lx index=%zu", pfn_of(area + i * page_size), i);
	}
	say("pagecache mapped pid=%d pages=64 sum=%zu", getpid(), sum);
	idle();
}

/* Touches the zero page once per last-level table. */
void make_pagetables(int argc, char **argv)
{
	size_t span = page_size / sizeof(long) * page_size; /* what one page of PTEs maps */
	size_t tables = (size_t)argument(argc, argv, (long)(8 * MIB / page_size));
	size_t sum = 0;

	char *area = mmap(NULL, tables * span, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED) {
		absent("mmap of %zu bytes: %s", tables * span, strerror(errno));
		return;
	}
	madvise(area, tables * span, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < tables; i++)
		sum += (size_t)((volatile char *)area)[i * span];
	say("pagetables pid=%d tables=%zu kib=%ld sum=%zu", getpid(), tables, meminfo_kib("PageTables"), sum);
	idle();
}
