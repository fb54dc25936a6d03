// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages pinned with FOLL_PIN | FOLL_LONGTERM: by gup_test and as fixed buffers of io_uring. */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PINNED_PAGES 64
#define PINNED_IN_THP 32
#define FIRST_IN_THP 16

/* mm/gup_test.h, since 6.2 */
struct pin_longterm_test {
	uint64_t addr;
	uint64_t size;
	uint32_t flags;
};
#define PIN_LONGTERM_TEST_START _IOW('g', 7, struct pin_longterm_test)
#define PIN_LONGTERM_TEST_FLAG_USE_WRITE 1

/* include/uapi/linux/io_uring.h: only the size and the flags matter here. */
struct io_uring_params {
	uint32_t words[30];
};
#define IORING_REGISTER_BUFFERS 0
#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_register 427
#endif

void make_longpin(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		absent("/sys/kernel/debug/gup_test: %s", strerror(errno));
		return;
	}
	char *area = small_pages(PINNED_PAGES * page_size);
	struct pin_longterm_test test = {
		.addr = (uintptr_t)area,
		.size = PINNED_PAGES * page_size,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	int ret = ioctl(fd, PIN_LONGTERM_TEST_START, &test);
	if (ret) {
		absent("gup_test cannot hold pins (since 6.2): %s", strerror(errno));
		return;
	}
	say("longpin pid=%d fd=%d ret=%d", getpid(), fd, ret);
	for (size_t i = 0; i < PINNED_PAGES; i++)
		say("longpin pfn=0x%lx", pfn_of(area + i * page_size));
	idle();
}

/* A ring; -1 after saying that there is none. */
static int ring(void)
{
	struct io_uring_params params;

	memset(&params, 0, sizeof(params));
	int fd = (int)syscall(__NR_io_uring_setup, 4, &params);
	if (fd < 0)
		absent("io_uring_setup: %s", strerror(errno));
	return fd;
}

static int register_buffers(int fd, const struct iovec *buffers, unsigned int count)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	return (int)syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS, buffers, count);
}

void make_longpinhuge(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (!thp_size) {
		absent("this kernel has no transparent huge pages");
		return;
	}
	int fd = ring();
	if (fd < 0)
		return;
	char *area = huge_pages(1);
	if (!is_thp(area)) {
		absent("no huge page was free");
		return;
	}
	struct iovec buffer = { area + FIRST_IN_THP * page_size, PINNED_IN_THP * page_size };
	int ret = register_buffers(fd, &buffer, 1);
	if (ret < 0) {
		absent("io_uring_register: %s", strerror(errno));
		return;
	}
	say("longpinhuge pid=%d io_uring fd=%d ret=%d head pfn=0x%lx first pinned pfn=0x%lx", getpid(), fd, ret,
	    pfn_of(area), pfn_of(buffer.iov_base));
	idle();
}

void make_iouring(int argc, char **argv)
{
	struct iovec buffers[2];

	(void)argc;
	(void)argv;
	int fd = ring();
	if (fd < 0)
		return;
	char *area = small_pages(PINNED_PAGES * page_size);
	for (int i = 0; i < 2; i++) {
		buffers[i].iov_base = area + (size_t)i * PINNED_PAGES / 2 * page_size;
		buffers[i].iov_len = PINNED_PAGES / 2 * page_size;
	}
	int ret = register_buffers(fd, buffers, 2);
	if (ret < 0) {
		absent("io_uring_register: %s", strerror(errno));
		return;
	}
	say("iouring pid=%d fd=%d ret=%d", getpid(), fd, ret);
	for (size_t i = 0; i < PINNED_PAGES; i++)
		say("iouring pfn=0x%lx", pfn_of(area + i * page_size));
	idle();
}
