// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * I/O in flight: on a disk that QEMU throttles to almost nothing after its first bytes, and on a loop
 * device above it. Who waits holds the pages: bios, requests, scatterlists, a kernel stack.
 *
 * QEMU answers what is in flight when it stops the guest for a dump; the guest learns of it afterwards.
 */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define REQUESTS 24     /* more bytes than QEMU lets through at once: see qemu.py */
#define REQUEST_PAGES 4
#define LOOP_REQUESTS 2
#define STILL_SECONDS 2 /* after so long without an answer none will come */

#ifndef LOOP_CONFIGURE
#define LOOP_CONFIGURE 0x4C0A
struct loop_config {
	uint32_t fd;
	uint32_t block_size;
	struct loop_info64 info;
	uint64_t reserved[8];
};
#endif

struct flight {
	const char *what; /* first word in the truth */
	int fd;
	size_t count;
	char *area; /* REQUEST_PAGES for each */
	bool done[REQUESTS];
};

static size_t request_size(void)
{
	return REQUEST_PAGES * page_size;
}

/* The ring of a context is memory of the process, which the kernel keeps a reference to. */
static void say_ring(aio_context_t context)
{
	const uint32_t *ring = (const uint32_t *)(uintptr_t)context; /* id, number of events, head, tail ... */
	size_t size = 32 + ring[1] * sizeof(struct io_event);

	for (size_t at = 0; at < size; at += page_size) {
		const char *page = (const char *)ring + at;
		say("aioring pid=%d va=0x%lx pfn=0x%lx", getpid(), (unsigned long)page, pfn_of(page));
	}
}

/* Submits reads and writes in turn, and waits until no more are answered. Returns how many are not. */
static size_t take_off(struct flight *flight, bool writes)
{
	aio_context_t context = 0;
	struct iocb blocks[REQUESTS], *pointers[REQUESTS];
	struct io_event events[REQUESTS];
	struct timespec still = { STILL_SECONDS, 0 };
	size_t left = flight->count;

	flight->area = small_pages(flight->count * request_size());
	memset(blocks, 0, sizeof(blocks));
	for (size_t i = 0; i < flight->count; i++) {
		pointers[i] = &blocks[i];
		blocks[i].aio_data = i;
		blocks[i].aio_fildes = (uint32_t)flight->fd;
		blocks[i].aio_lio_opcode = writes && i % 2 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		blocks[i].aio_buf = (uintptr_t)flight->area + i * request_size();
		blocks[i].aio_nbytes = request_size();
		/* Far apart, so that neighbours are not merged. */
		blocks[i].aio_offset = (int64_t)(i << 20);
	}
	if (syscall(__NR_io_setup, REQUESTS, &context)) {
		absent("io_setup: %s", strerror(errno));
		return 0;
	}
	say_ring(context);
	for (size_t sent = 0; sent < flight->count;) {
		long took = syscall(__NR_io_submit, context, (long)(flight->count - sent), pointers + sent);
		if (took <= 0) {
			absent("io_submit: %s", strerror(errno));
			return 0;
		}
		sent += (size_t)took;
	}
	while (left) {
		long got = syscall(__NR_io_getevents, context, 1L, (long)REQUESTS, events, &still);
		if (got <= 0)
			break;
		for (long i = 0; i < got; i++, left--)
			flight->done[events[i].data] = true;
	}
	return left;
}

static void say_flight(const struct flight *flight, bool writes)
{
	for (size_t i = 0; i < flight->count; i++) {
		for (size_t at = 0; at < request_size() && !flight->done[i]; at += page_size) {
			char *page = flight->area + i * request_size() + at;
			say("%s pid=%d fd=%d how=aio op=%s request=%zu va=0x%lx pfn=0x%lx", flight->what, getpid(),
			    flight->fd, writes && i % 2 ? "write" : "read", i, (unsigned long)page, pfn_of(page));
		}
	}
}

/* A process that waits in read(), with its bio on its own kernel stack. */
static void wait_in_read(int fd)
{
	char path[64], text[256];

	pid_t pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_NAME, "dio-child");
		char *page = small_pages(page_size);
		say("dio pid=%d fd=%d how=sync op=read va=0x%lx pfn=0x%lx", getpid(), fd, (unsigned long)page,
		    pfn_of(page));
		if (pread(fd, page, page_size, 48 << 20) < 0)
			_exit(1);
		sleep_forever(); /* QEMU answered: the dump is taken */
	}
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	for (int waited = 0; waited < 10000; waited += 50) {
		const char *state = read_file(path, text, sizeof(text)) > 0 ? strrchr(text, ')') : NULL;
		if (state && state[1] && state[2] == 'D')
			return;
		usleep(50000);
	}
	fail("the child does not wait for the disk");
}

void make_dio(int argc, char **argv)
{
	struct flight flight = { .what = "dio", .count = REQUESTS };

	(void)argc;
	(void)argv;
	flight.fd = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (flight.fd < 0) {
		absent("%s: %s", DISK, strerror(errno));
		return;
	}
	size_t left = take_off(&flight, true);
	if (!left) {
		absent("%s answered everything: QEMU does not throttle it", DISK);
		return;
	}
	say("dio pid=%d fd=%d disk=%s requests=%zu", getpid(), flight.fd, DISK, left);
	say_flight(&flight, true);
	wait_in_read(flight.fd);
	idle();
}

/* A loop device above a file, which passes requests on without copying; -1 after saying why not. */
static int loop_over(int file, char *path, size_t size)
{
	struct loop_config config;

	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	if (number < 0) {
		absent("/dev/loop-control: %s", strerror(errno));
		return -1;
	}
	close(control);
	snprintf(path, size, "/dev/loop%d", number);
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	memset(&config, 0, sizeof(config));
	config.fd = (uint32_t)file;
	config.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_READ_ONLY;
	if (fd < 0 || ioctl(fd, LOOP_CONFIGURE, &config)) {
		absent("%s over %s: %s", path, DISK, strerror(errno));
		return -1;
	}
	return fd;
}

/* After dio, which has used up what the disk answers. */
void make_loop(int argc, char **argv)
{
	struct flight flight = { .what = "loop", .count = LOOP_REQUESTS };
	char path[32];

	(void)argc;
	(void)argv;
	int disk = open(DISK, O_RDONLY | O_CLOEXEC);
	if (disk < 0) {
		absent("%s: %s", DISK, strerror(errno));
		return;
	}
	flight.fd = loop_over(disk, path, sizeof(path));
	if (flight.fd < 0)
		return;
	size_t left = take_off(&flight, false);
	if (!left) {
		absent("%s answered everything", path);
		return;
	}
	say("loop pid=%d fd=%d device=%s backing=%s requests=%zu", getpid(), flight.fd, path, DISK, left);
	say_flight(&flight, false);
	idle();
}
