// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * work capture LIST DIRECTORY: the kernel's own files before and after a dump.
 *
 * Reading must not move what is read. So everything is prepared first: files stay open, each is read
 * once to learn its size and once more into memory that is allocated, touched and locked. Then, after
 * a pause, come the reading before the dump of those that were kept open, the dump, and the reading
 * after it in the reverse order; from the first byte of the one until those have been read again this
 * process allocates nothing. Only at the end are the files written out.
 *
 * LIST has lines "MODE PATTERN": a glob(3) pattern of paths, or "dmesg". Modes:
 *   once    constant, or not worth a second reading: before only
 *   keep    opened once, read again from its start
 *   reopen  its text is made when it is opened; before the pause, and last after the dump
 * A "?" before the mode: most kernels do not have the file, which is not worth a line in the truth.
 * It speaks with the host over stdin and stdout, in lines that begin with "@@".
 */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_FILES 512
#define SLACK (64UL << 10)  /* a file may grow by this, and by a sixteenth, before the last reading */
#define QUIET_SECONDS 4     /* free page reporting waits for 2 seconds; the rest is for its work */
#define SYSLOG_ACTION_READ_ALL 3

enum mode { ONCE, KEEP, REOPEN };

struct file {
	char path[120];
	enum mode mode;
	int fd;
	size_t room;
	char *text[2];
	size_t size[2];
	int error[2];
};

static struct file files[MAX_FILES];
static size_t file_count;

static void tell(const char *what)
{
	char text[128];
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	int length = snprintf(text, sizeof(text), "\n@@ %s uptime=%ld.%03ld\n", what, (long)now.tv_sec,
			      now.tv_nsec / 1000000);
	if (write(STDOUT_FILENO, text, (size_t)length) != length)
		_exit(3);
}

static void add(const char *path, enum mode mode)
{
	struct file *file = &files[file_count];

	if (file_count == MAX_FILES || strlen(path) >= sizeof(file->path))
		fail("too many files, or too long a name: %s", path);
	strcpy(file->path, path);
	file->mode = mode;
	file->fd = -1;
	file_count++;
}

static void read_list(const char *path)
{
	char line[256], mode[16], pattern[200];
	FILE *list = fopen(path, "re");

	if (!list)
		fail("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), list)) {
		glob_t found;
		bool expected = line[0] != '?';
		if (line[0] == '#' || sscanf(line + !expected, "%15s %199s", mode, pattern) != 2)
			continue;
		enum mode how = !strcmp(mode, "once") ? ONCE : !strcmp(mode, "keep") ? KEEP : REOPEN;
		if (pattern[0] != '/') {
			add(pattern, how);
		} else if (glob(pattern, 0, NULL, &found)) {
			if (expected)
				say("absent: %s: no such file in this kernel", pattern);
		} else {
			for (size_t i = 0; i < found.gl_pathc; i++)
				add(found.gl_pathv[i], how);
			globfree(&found);
		}
	}
	fclose(list);
}

/* Reads the file from its start into [to, to + room), or past it into nothing when to is NULL. */
static size_t read_whole(struct file *file, char *to, size_t room, int *error)
{
	static char scratch[64 << 10];
	size_t size = 0;

	*error = 0;
	if (file->path[0] != '/') {
		int got = klogctl(SYSLOG_ACTION_READ_ALL, to ? to : scratch, (int)(to ? room : sizeof(scratch)));
		*error = got < 0 ? errno : 0;
		return got < 0 ? 0 : to ? (size_t)got : 512UL << 10;
	}
	if (file->fd < 0)
		file->fd = open(file->path, O_RDONLY | O_CLOEXEC);
	else if (lseek(file->fd, 0, SEEK_SET) < 0) {
		close(file->fd);
		file->fd = open(file->path, O_RDONLY | O_CLOEXEC);
	}
	if (file->fd < 0) {
		*error = errno;
		return 0;
	}
	for (;;) {
		char *at = to ? to + size : scratch;
		size_t left = to ? room - size : sizeof(scratch);
		if (!left) {
			*error = E2BIG;
			break;
		}
		/* page_owner gives one record at a time and allocates what it is asked for: a page is enough. */
		size_t part = left;
		if (strstr(file->path, "/page_owner") && part > page_size)
			part = page_size;
		ssize_t got = read(file->fd, at, part);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			*error = errno;
		if (got <= 0)
			break;
		size += (size_t)got;
	}
	if (file->mode == REOPEN) {
		close(file->fd);
		file->fd = -1;
	}
	return size;
}

static void read_into(size_t index, int when)
{
	struct file *file = &files[index];

	if (file->mode == ONCE && when)
		return;
	file->size[when] = read_whole(file, file->text[when], file->room, &file->error[when]);
}

/* Learns the sizes, then allocates room for both readings in one piece. */
static void prepare(void)
{
	size_t total = 0, grown = 0;
	int error;

	for (size_t i = 0; i < file_count; i++) {
		size_t size = read_whole(&files[i], NULL, 0, &error);
		files[i].room = size + size / 16 + (size ? SLACK : page_size);
		total += files[i].room * (files[i].mode == ONCE ? 1 : 2);
	}
	/* The room itself has records in page_owner: at most some 700 bytes for each of its pages. */
	for (size_t i = 0; i < file_count; i++) {
		if (strcmp(files[i].path, "/sys/kernel/debug/page_owner"))
			continue;
		grown = total / page_size * 700 + (4UL << 20);
		files[i].room += grown;
		total += 2 * grown;
	}
	char *room = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		fail("mmap of %zu bytes: %s", total, strerror(errno));
	madvise(room, total, MADV_HUGEPAGE);
	if (mlock(room, total))
		fail("mlock of %zu bytes: %s", total, strerror(errno));
	for (size_t i = 0; i < file_count; i++) {
		files[i].text[0] = room;
		room += files[i].room;
		if (files[i].mode != ONCE) {
			files[i].text[1] = room;
			room += files[i].room;
		}
	}
	if (mlockall(MCL_CURRENT))
		fail("mlockall: %s", strerror(errno));
	say("capture pid=%d files=%zu room=%zu", getpid(), file_count, total);
}

/* Some allocate to be read, and what they free then lies on per-CPU lists for seconds. */
static void read_all_before(void)
{
	for (size_t i = 0; i < file_count; i++)
		read_into(i, 0);
}

static void read_before(void)
{
	for (size_t i = 0; i < file_count; i++)
		if (files[i].mode == KEEP)
			read_into(i, 0);
}

static void read_after(void)
{
	for (size_t i = file_count; i-- > 0;)
		read_into(i, 1);
}

static void make_directories(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(path, 0755);
		*slash = '/';
	}
}

static void write_out(const char *directory, int when)
{
	static const char *const names[] = { "before", "after" };

	for (size_t i = 0; i < file_count; i++) {
		char path[400];
		size_t done = 0;
		if (!files[i].text[when])
			continue;
		if (files[i].error[when])
			say("capture error %s %s: %s", names[when], files[i].path, strerror(files[i].error[when]));
		snprintf(path, sizeof(path), "%s/%s/%s", directory, names[when],
			 files[i].path + (files[i].path[0] == '/'));
		make_directories(path);
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0)
			fail("%s: %s", path, strerror(errno));
		while (done < files[i].size[when]) {
			ssize_t put = write(fd, files[i].text[when] + done, files[i].size[when] - done);
			if (put <= 0)
				fail("writing %s: %s", path, strerror(errno));
			done += (size_t)put;
		}
		close(fd);
	}
}

int capture(int argc, char **argv)
{
	char byte;

	if (argc != 2) {
		fprintf(stderr, "usage: work capture LIST DIRECTORY\n");
		return 2;
	}
	read_list(argv[0]);
	tell("preparing");
	prepare();
	read_all_before();
	tell("quiet");
	sleep(QUIET_SECONDS);
	read_before();
	tell("before-done");
	/* The host stops the guest here, takes its dumps, and sends a line. */
	if (read(STDIN_FILENO, &byte, 1) != 1)
		fail("the host closed the console");
	read_after();
	tell("after-done");
	write_out(argv[1], 0);
	write_out(argv[1], 1);
	tell("written");
	return 0;
}
