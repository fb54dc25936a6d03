// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages that a pipe holds inside CMA, the CMA allocation that fails for them, and the pipe drained. */
#define _GNU_SOURCE
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define IN_PIPE 16
#define DRAINED 8
#define WANTED_IN_CMA 512
#define CHUNK_PAGES 256
#define MAX_CHUNKS 4096
#define SPARE_KIB (24L * 1024)

struct area {
	char directory[96];
	unsigned long low; /* first PFN */
	unsigned long pages;
};

static unsigned long number_in(const char *directory, const char *file)
{
	char path[256], text[64];

	snprintf(path, sizeof(path), "%s/%s", directory, file);
	return read_file(path, text, sizeof(text)) > 0 ? strtoul(text, NULL, 0) : 0;
}

/* The largest CMA area; pages == 0 where there is none. */
static struct area largest_area(void)
{
	struct area best = { "", 0, 0 };
	glob_t found;

	if (glob("/sys/kernel/debug/cma/*", GLOB_ONLYDIR, NULL, &found))
		return best;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		unsigned long pages = number_in(found.gl_pathv[i], "count");
		if (pages <= best.pages)
			continue;
		snprintf(best.directory, sizeof(best.directory), "%s", found.gl_pathv[i]);
		best.pages = pages;
		best.low = number_in(found.gl_pathv[i], "base_pfn");
	}
	globfree(&found);
	if (best.pages && !best.low) { /* since 6.15: an area of ranges, each in a directory of its own */
		char ranges[160];
		snprintf(ranges, sizeof(ranges), "%s/ranges/0", best.directory);
		best.low = number_in(ranges, "base_pfn");
	}
	return best;
}

static bool inside(const struct area *area, unsigned long pfn)
{
	return pfn >= area->low && pfn < area->low + area->pages;
}

/* Fills memory chunk by chunk until enough pages lie in the area; keeps those, frees the others. */
static size_t pages_in_area(const struct area *area, char **kept, size_t wanted)
{
	static char *chunks[MAX_CHUNKS];
	size_t count = 0, found = 0;
	size_t size = CHUNK_PAGES * page_size;

	while (count < MAX_CHUNKS && found < wanted && meminfo_kib("MemAvailable") > SPARE_KIB) {
		char *chunk = small_pages(size);
		for (size_t at = 0; at < size && found < wanted; at += page_size)
			if (inside(area, pfn_of(chunk + at)))
				kept[found++] = chunk + at;
		chunks[count++] = chunk;
	}
	for (size_t i = 0; i < count; i++)
		for (size_t at = 0; at < size; at += page_size)
			if (!inside(area, pfn_of(chunks[i] + at)))
				munmap(chunks[i] + at, page_size);
	/* Pages of the last chunk that nobody asked for stay too: they move when CMA asks for them. */
	return found;
}

/* Asks the area for pages through its debugfs file; lines as a shell would have shown them. */
static void allocate(const struct area *area, const char *what, unsigned long pages)
{
	char path[160], text[32];

	snprintf(path, sizeof(path), "%s/alloc", area->directory);
	snprintf(text, sizeof(text), "%lu\n", pages);
	int error = write_file(path, text);
	say("%s: rc=%d", what, error ? 1 : 0);
	if (error)
		say("splice cma alloc %s pages=%lu error=%s", what, pages, strerror(error));
	say("%lu", number_in(area->directory, "used"));
}

void make_splice(int argc, char **argv)
{
	static char *kept[WANTED_IN_CMA];
	static char sink[64 << 10];
	char *held[IN_PIPE];
	unsigned long held_pfn[IN_PIPE];
	int ends[2];
	size_t count = 0;

	(void)argc;
	(void)argv;
	struct area area = largest_area();
	if (!area.pages || !area.low) {
		absent("no CMA area in /sys/kernel/debug/cma (CONFIG_CMA_DEBUGFS and cma=64M)");
		return;
	}
	say("cma base=0x%016lx mb=%lu lo=%lu hi=%lu", area.low * page_size, area.pages * page_size >> 20, area.low,
	    area.low + area.pages);
	size_t found = pages_in_area(&area, kept, WANTED_IN_CMA);
	if (found < IN_PIPE) {
		absent("only %zu pages came to lie in CMA", found);
		return;
	}
	if (pipe(ends))
		fail("pipe: %s", strerror(errno));
	for (size_t i = 0; i < found && count < IN_PIPE; i += found / IN_PIPE) {
		struct iovec part = { kept[i], page_size };
		if (vmsplice(ends[1], &part, 1, SPLICE_F_NONBLOCK) != (ssize_t)page_size) {
			absent("vmsplice: %s", strerror(errno));
			break;
		}
		held[count] = kept[i];
		held_pfn[count++] = pfn_of(kept[i]);
	}
	for (size_t i = 0; i < count; i++)
		say("splice pid=%d pinned pfn=0x%lx va=0x%lx", getpid(), held_pfn[i], (unsigned long)held[i]);
	say("splice pages in cma=%zu pinned=%zu", found, count);
	say("cma alloc %s", area.directory);
	allocate(&area, "all", area.pages);
	allocate(&area, "half", area.pages / 2);
	size_t drain = count < DRAINED ? count : DRAINED;
	for (size_t i = 0; i < drain; i++)
		for (size_t rest = page_size; rest;) {
			ssize_t got = read(ends[0], sink, rest < sizeof(sink) ? rest : sizeof(sink));
			if (got <= 0)
				fail("draining the pipe: %s", strerror(errno));
			rest -= (size_t)got;
		}
	say("drained %zu", drain);
	idle();
}
