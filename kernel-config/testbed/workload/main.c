// SPDX-License-Identifier: LGPL-2.1-or-later
/* The command line of the workload, and what all situations share. */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SETUP_SECONDS 240

size_t page_size;
size_t thp_size;

static const char *situation_name = "work";
static int ready_pipe = -1;

static const struct situation situations[] = {
	{ "thp", make_thp, "THPs shared by fork: split PMDs, partly unmapped, mlocked" },
	{ "mthp", make_mthp, "anonymous folios between one page and a huge page" },
	{ "shmthp", make_shmthp, "huge pages of tmpfs, mapped by two processes" },
	{ "filethp", make_filethp, "a huge page of the page cache: filethp FILE" },
	{ "hugetlb", make_hugetlb, "hugetlb pages: used, shared and free in the pool" },
	{ "longpin", make_longpin, "small pages pinned by gup_test" },
	{ "longpinhuge", make_longpinhuge, "part of a THP as a fixed buffer of io_uring" },
	{ "iouring", make_iouring, "small pages as fixed buffers of io_uring" },
	{ "splice", make_splice, "pages of a pipe inside CMA, and a CMA allocation that fails" },
	{ "frag", make_frag, "memory filled with movable pages, then freed in pieces (SIGUSR1)" },
	{ "leak", make_leak, "pages allocated by one call chain: pipe buffers [MIB]" },
	{ "slowleak", make_slowleak, "pages allocated all the time and never freed: a pipe that nobody reads" },
	{ "slab", make_slab, "slab objects in quantity [COUNT]" },
	{ "pagecache", make_pagecache, "page cache in quantity: pagecache FILE" },
	{ "pagetables", make_pagetables, "page tables in quantity [COUNT]" },
	{ "ksm", make_ksm, "pages merged by KSM" },
	{ "poison", make_poison, "hwpoisoned pages" },
	{ "reported", make_reported, "huge blocks freed, for free page reporting" },
	{ "dio", make_dio, "direct I/O in flight on a disk that does not answer" },
	{ "loop", make_loop, "direct I/O in flight on a loop device above that disk" },
	{ "tcp", make_tcp, "spliced, sent and zero-copy pages in the queues of TCP sockets" },
	{ "unix", make_unix, "spliced pages in the queue of a unix socket" },
	{ "tee", make_tee, "pages that two pipes share, and a file's in a third: tee [FILE]" },
	{ "churn", make_churn, "memory that moves all the time, for live runs" },
};

static void line(const char *prefix, const char *format, va_list args)
{
	char text[512];
	int used = snprintf(text, sizeof(text), "%s", prefix);
	int room = (int)sizeof(text) - used - 1;
	int more = vsnprintf(text + used, (size_t)room, format, args);

	used += more < room ? more : room - 1;
	text[used++] = '\n';
	int fd = open(TRUTH_FILE, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		fd = dup(STDERR_FILENO);
	/* One write: lines of several processes do not mix. */
	if (write(fd, text, (size_t)used) != used)
		_exit(3);
	close(fd);
}

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	line("", format, args);
	va_end(args);
}

void absent(const char *format, ...)
{
	char prefix[64];
	va_list args;

	snprintf(prefix, sizeof(prefix), "absent: %s: ", situation_name);
	va_start(args, format);
	line(prefix, format, args);
	va_end(args);
}

void fail(const char *format, ...)
{
	char prefix[64];
	va_list args;

	snprintf(prefix, sizeof(prefix), "failed: %s: ", situation_name);
	va_start(args, format);
	line(prefix, format, args);
	va_end(args);
	exit(1);
}

static uint64_t word_of(const char *path, unsigned long index)
{
	uint64_t word = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &word, sizeof(word), (off_t)(index * sizeof(word))) != sizeof(word))
		word = 0;
	close(fd);
	return word;
}

unsigned long pfn_of(const void *address)
{
	uint64_t word = word_of("/proc/self/pagemap", (uintptr_t)address / page_size);

	return word >> 63 ? (unsigned long)(word & ((1ULL << 55) - 1)) : 0;
}

uint64_t kpageflags_of(unsigned long pfn)
{
	return word_of("/proc/kpageflags", pfn);
}

ssize_t read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	ssize_t got = read(fd, buffer, size - 1);
	close(fd);
	if (got >= 0)
		buffer[got] = 0;
	return got;
}

int write_file(const char *path, const char *text)
{
	int error = 0;
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		error = errno;
	close(fd);
	return error;
}

long meminfo_kib(const char *key)
{
	char text[8192];
	size_t length = strlen(key);

	if (read_file("/proc/meminfo", text, sizeof(text)) < 0)
		return -1;
	for (char *at = text; at; at = strchr(at, '\n'), at = at ? at + 1 : NULL)
		if (!strncmp(at, key, length) && at[length] == ':')
			return strtol(at + length + 1, NULL, 10);
	return -1;
}

char *small_pages(size_t size)
{
	char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		fail("mmap of %zu bytes: %s", size, strerror(errno));
	madvise(area, size, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < size; at += page_size)
		*(size_t *)(area + at) = at;
	return area;
}

char *huge_pages(size_t count)
{
	size_t size = count * thp_size;
	char *area = mmap(NULL, size + thp_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		fail("mmap of %zu bytes: %s", size, strerror(errno));
	area = (char *)(((uintptr_t)area + thp_size - 1) & ~(thp_size - 1));
	madvise(area, size, MADV_HUGEPAGE);
	for (size_t at = 0; at < size; at += page_size)
		*(size_t *)(area + at) = at;
	return area;
}

bool is_thp(const void *address)
{
	return kpageflags_of(pfn_of(address)) >> KPF_THP & 1;
}

void ready(void)
{
	if (ready_pipe >= 0 && write(ready_pipe, "", 1) == 1)
		close(ready_pipe);
	ready_pipe = -1;
}

void sleep_forever(void)
{
	for (;;)
		pause();
}

void idle(void)
{
	ready();
	sleep_forever();
}

static void learn_machine(void)
{
	char text[64];

	page_size = (size_t)sysconf(_SC_PAGESIZE);
	if (read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text, sizeof(text)) > 0)
		thp_size = strtoul(text, NULL, 10);
}

static void write_pidfile(const char *name)
{
	char path[128], text[32];

	mkdir(PIDFILE_DIR, 0755);
	snprintf(path, sizeof(path), PIDFILE_DIR "/%s.pid", name);
	snprintf(text, sizeof(text), "%d\n", getpid());
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd >= 0) {
		if (write(fd, text, strlen(text)) < 0)
			fail("writing %s: %s", path, strerror(errno));
		close(fd);
	}
}

static void make(const struct situation *situation, int argc, char **argv)
{
	char comm[16];

	snprintf(comm, sizeof(comm), "work-%s", situation->name);
	prctl(PR_SET_NAME, comm);
	setsid();
	write_pidfile(situation->name);
	situation->make(argc, argv);
	/* A situation that returns is not there: it said why. */
	ready();
	exit(0);
}

/* Starts the situation in a process of its own and waits until it is there. */
static int start(const struct situation *situation, int argc, char **argv)
{
	int ends[2];
	char byte;

	if (pipe(ends))
		fail("pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (!pid) {
		close(ends[0]);
		ready_pipe = ends[1];
		fcntl(ready_pipe, F_SETFD, FD_CLOEXEC);
		make(situation, argc, argv);
	}
	close(ends[1]);
	alarm(SETUP_SECONDS); /* SIGALRM ends this process, not the situation */
	if (read(ends[0], &byte, 1) == 1)
		return 0;
	int status = 0;
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		fail("killed by signal %d", WTERMSIG(status));
	return 1;
}

int main(int argc, char **argv)
{
	learn_machine();
	if (argc >= 2 && !strcmp(argv[1], "capture"))
		return capture(argc - 2, argv + 2);
	for (size_t i = 0; argc >= 2 && i < sizeof(situations) / sizeof(*situations); i++) {
		if (!strcmp(argv[1], situations[i].name)) {
			situation_name = situations[i].name;
			return start(&situations[i], argc - 2, argv + 2);
		}
	}
	fprintf(stderr, "usage: work SITUATION [ARGUMENT...], or work capture LIST DIRECTORY\n");
	for (size_t i = 0; i < sizeof(situations) / sizeof(*situations); i++)
		fprintf(stderr, "  %-12s %s\n", situations[i].name, situations[i].summary);
	return 2;
}
