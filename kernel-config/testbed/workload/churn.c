// SPDX-License-Identifier: LGPL-2.1-or-later
/* Memory that moves all the time: for what reads a running kernel. Never part of a run with dumps. */
#define _GNU_SOURCE
#include "work.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHURN_BYTES (16UL << 20)
#define CHURN_FILES 64
#define PAUSE_US 20000

/* Maps, touches and unmaps: small pages and huge ones in turn, and the page tables for them. */
static void churn_anonymous(unsigned int round)
{
	size_t size = CHURN_BYTES >> (round % 4);
	char *area = round % 2 && thp_size && thp_size <= size ? huge_pages(size / thp_size) : small_pages(size);

	munmap(area, size);
}

/* Creates, fills and removes files: shmem pages and slab objects. */
static void churn_files(unsigned int round)
{
	static char content[16 << 10];
	char path[64];

	for (unsigned int i = 0; i < CHURN_FILES; i++) {
		snprintf(path, sizeof(path), "/slab/churn-%u-%u", round % 8, i);
		int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			continue;
		if (write(fd, content, sizeof(content)) < 0)
			i = CHURN_FILES;
		close(fd);
		if (round % 8 > 3)
			unlink(path);
	}
}

/* Forks a process that copies some pages and ends: tasks, stacks, page tables, broken sharing. */
static void churn_tasks(unsigned int round)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_NAME, "churn-brief");
		small_pages((1 + round % 64) * page_size);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

void make_churn(int argc, char **argv)
{
	void (*const kinds[])(unsigned int) = { churn_anonymous, churn_files, churn_tasks };

	(void)argc;
	(void)argv;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		pid_t pid = fork();
		if (pid < 0)
			fail("fork");
		if (pid)
			continue;
		prctl(PR_SET_NAME, "churn-child");
		for (unsigned int round = 0;; round++) {
			kinds[i](round);
			usleep(PAUSE_US);
		}
	}
	say("churn pid=%d kinds=%zu", getpid(), sizeof(kinds) / sizeof(*kinds));
	idle();
}
