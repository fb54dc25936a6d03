// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages that wait in queues: of TCP and unix sockets, and of pipes that share them. */
#define _GNU_SOURCE
#include "work.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define QUEUED_PAGES 4
#define FILE_PAGES 8
#define SETTLE_US 300000 /* until what is acknowledged is gone from the sender's queue */

#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef SIOCOUTQNSD
#define SIOCOUTQNSD 0x894B
#endif

struct queue {
	const char *what; /* first words in the truth: the situation, and which queue */
	int fd;           /* the socket whose queue it is */
};

/* The head of a large folio, or the page itself. */
static unsigned long head_of(unsigned long pfn)
{
	while (pfn && kpageflags_of(pfn) >> KPF_COMPOUND_TAIL & 1)
		pfn--;
	return pfn;
}

static void say_page(const struct queue *queue, const char *source, const char *page)
{
	unsigned long pfn = pfn_of(page);

	say("%s pid=%d fd=%d source=%s pfn=0x%lx head pfn=0x%lx", queue->what, getpid(), queue->fd, source, pfn,
	    head_of(pfn));
}

/* A file on tmpfs of FILE_PAGES; -1 after saying why there is none. */
static int small_file(const char *path)
{
	static const char content[64 << 10];

	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	for (size_t size = FILE_PAGES * page_size; fd >= 0 && size;) {
		ssize_t put = write(fd, content, size < sizeof(content) ? size : sizeof(content));
		if (put <= 0) {
			close(fd);
			fd = -1;
			break;
		}
		size -= (size_t)put;
	}
	if (fd < 0 || lseek(fd, 0, SEEK_SET))
		absent("%s: %s", path, strerror(errno));
	return fd;
}

/* Says which pages of the page cache are in a queue; they stay mapped by nobody. */
static void say_file(const struct queue *queue, const char *source, int file, size_t pages)
{
	char *area = mmap(NULL, pages * page_size, PROT_READ, MAP_SHARED, file, 0);

	if (area == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	for (size_t at = 0; at < pages * page_size; at += page_size) {
		(void)*(volatile char *)(area + at);
		say_page(queue, source, area + at);
	}
	munmap(area, pages * page_size);
}

/* Moves pages of this process into a socket, by way of a pipe. Returns the pages, NULL if it cannot. */
static char *splice_into(int socket)
{
	int ends[2];
	size_t size = QUEUED_PAGES * page_size;
	char *area = small_pages(size);
	struct iovec part = { area, size };

	if (pipe(ends))
		fail("pipe: %s", strerror(errno));
	if (vmsplice(ends[1], &part, 1, SPLICE_F_NONBLOCK) != (ssize_t)size)
		fail("vmsplice: %s", strerror(errno));
	for (size_t left = size; left;) {
		ssize_t moved = splice(ends[0], NULL, socket, NULL, left, SPLICE_F_NONBLOCK);
		if (moved <= 0) {
			absent("splice into a socket: %s", strerror(errno));
			close(ends[0]);
			close(ends[1]);
			return NULL;
		}
		left -= (size_t)moved;
	}
	close(ends[0]);
	close(ends[1]);
	return area;
}

static void say_pages(const struct queue *queue, const char *source, const char *area)
{
	for (size_t i = 0; area && i < QUEUED_PAGES; i++)
		say_page(queue, source, area + i * page_size);
}

static bool loopback_up(void)
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	strcpy(request.ifr_name, "lo");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	bool up = !ioctl(fd, SIOCGIFFLAGS, &request);
	request.ifr_flags |= IFF_UP;
	up = up && !ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return up;
}

/* Two connected sockets: what the first sends, the second receives; it has room for so much. */
static void connect_pair(int pair[2], int room)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);

	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (room)
		setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &length))
		fail("listening on 127.0.0.1: %s", strerror(errno));
	pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (pair[0] < 0 || connect(pair[0], (struct sockaddr *)&address, length))
		fail("connecting to 127.0.0.1: %s", strerror(errno));
	pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (pair[1] < 0)
		fail("accept: %s", strerror(errno));
	close(listener);
}

static int queued(int fd, unsigned long request)
{
	int bytes = -1;

	return ioctl(fd, request, &bytes) ? -1 : bytes;
}

/* Pages in the queue of a receiver that does not read: of this process, and of a file. */
static void fill_receiver(void)
{
	int pair[2];

	/* Pages of 16 KiB are more than a receiver has room for by itself. */
	connect_pair(pair, page_size > 4096 ? 64 * page_size : 0);
	struct queue queue = { "tcp queue=receive", pair[1] };
	char *area = splice_into(pair[0]);
	int file = small_file("/slab/sendfile");
	ssize_t sent = file < 0 ? 0 : sendfile(pair[0], file, NULL, QUEUED_PAGES * page_size);
	usleep(SETTLE_US);
	int bytes = queued(pair[1], SIOCINQ);
	if (bytes != (int)((area ? QUEUED_PAGES * page_size : 0) + (size_t)(sent > 0 ? sent : 0)) ||
	    queued(pair[0], SIOCOUTQ)) {
		absent("%d bytes came to the receiver, %d are on their way", bytes, queued(pair[0], SIOCOUTQ));
		return;
	}
	say("tcp pid=%d sender fd=%d receiver fd=%d bytes=%d", getpid(), pair[0], pair[1], bytes);
	say_pages(&queue, "splice", area);
	if (sent <= 0)
		absent("sendfile: %s", strerror(errno));
	else
		say_file(&queue, "sendfile", file, (size_t)sent / page_size);
}

/* Pages in the queue of a sender whose peer has no room: sent without a copy, and spliced. */
static void fill_sender(void)
{
	static const char filling[64 << 10];
	int pair[2], one = 1, room = 4 << 20;

	connect_pair(pair, 4096);
	struct queue queue = { "tcp queue=send", pair[0] };
	if (setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) ||
	    setsockopt(pair[0], SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one))) {
		absent("SO_SNDBUFFORCE, SO_ZEROCOPY: %s", strerror(errno));
		return;
	}
	for (int round = 0; round < 16 && queued(pair[0], SIOCOUTQNSD) <= 0; round++) {
		if (send(pair[0], filling, sizeof(filling), MSG_DONTWAIT) < 0)
			break;
		usleep(SETTLE_US);
	}
	if (queued(pair[0], SIOCOUTQNSD) <= 0) {
		absent("the sender's queue does not fill");
		return;
	}
	char *area = small_pages(QUEUED_PAGES * page_size);
	if (send(pair[0], area, QUEUED_PAGES * page_size, MSG_ZEROCOPY | MSG_DONTWAIT) !=
	    (ssize_t)(QUEUED_PAGES * page_size))
		absent("MSG_ZEROCOPY: %s", strerror(errno));
	else
		say_pages(&queue, "zerocopy", area);
	say_pages(&queue, "splice", splice_into(pair[0]));
	say("tcp pid=%d sender fd=%d receiver fd=%d unsent=%d", getpid(), pair[0], pair[1],
	    queued(pair[0], SIOCOUTQNSD));
}

void make_tcp(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (!loopback_up()) {
		absent("lo: %s", strerror(errno));
		return;
	}
	fill_receiver();
	fill_sender();
	idle();
}

void make_unix(int argc, char **argv)
{
	int pair[2];

	(void)argc;
	(void)argv;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		absent("socketpair: %s", strerror(errno));
		return;
	}
	struct queue queue = { "unix queue=receive", pair[1] };
	say_pages(&queue, "splice", splice_into(pair[0]));
	say("unix pid=%d sender fd=%d receiver fd=%d bytes=%d", getpid(), pair[0], pair[1],
	    queued(pair[1], SIOCINQ));
	idle();
}

/* argv[0]: a file on a file system with a page cache. Two pipes with the same pages, and one with a file's. */
void make_tee(int argc, char **argv)
{
	int first[2], second[2], third[2];
	size_t size = QUEUED_PAGES * page_size;
	char *area = small_pages(size);
	struct iovec part = { area, size };

	if (pipe(first) || pipe(second) || pipe(third))
		fail("pipe: %s", strerror(errno));
	if (vmsplice(first[1], &part, 1, SPLICE_F_NONBLOCK) != (ssize_t)size)
		fail("vmsplice: %s", strerror(errno));
	if (tee(first[0], second[1], size, SPLICE_F_NONBLOCK) != (ssize_t)size)
		fail("tee: %s", strerror(errno));
	struct queue one = { "tee", first[0] }, other = { "tee", second[0] }, last = { "tee", third[0] };
	say_pages(&one, "vmsplice", area);
	say_pages(&other, "tee", area);
	int file = argc > 0 ? open(argv[0], O_RDONLY | O_CLOEXEC) : small_file("/slab/tee");
	if (file < 0) {
		absent("%s: %s", argc > 0 ? argv[0] : "a file", strerror(errno));
	} else {
		ssize_t moved = splice(file, NULL, third[1], NULL, size, SPLICE_F_NONBLOCK);
		if (moved < (ssize_t)page_size)
			absent("splice of a file: %s", strerror(errno));
		else
			say_file(&last, "file", file, (size_t)moved / page_size);
	}
	idle();
}
