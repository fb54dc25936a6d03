/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The workload of the test bed: one situation of memory per sub-command.
 *
 * Every situation runs in a process of its own, which makes the situation, writes what it knows into
 * the truth file, says that it is ready and sleeps until the guest ends. The command line returns
 * when the situation is there, so a shell script can make one after the other.
 */
#ifndef WORK_H
#define WORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TRUTH_FILE "/truth/truth.txt"
#define PIDFILE_DIR "/run/situations"

#define KPF_BUDDY 10
#define KPF_COMPOUND_HEAD 15
#define KPF_COMPOUND_TAIL 16
#define KPF_HWPOISON 19
#define KPF_THP 22

/* What every situation needs to know of the machine, filled in by main(). */
extern size_t page_size; /* bytes of a base page */
extern size_t thp_size;  /* bytes of a PMD-mapped huge page; 0: the kernel has none */

/* One line into the truth file. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "absent: SITUATION: why": this kernel cannot make the situation. */
void absent(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Ends the process with a sentence: something that must work did not. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* PFN of a present page of this process; 0 where there is none. */
unsigned long pfn_of(const void *address);
/* Word of /proc/kpageflags; 0 where it cannot be read. */
uint64_t kpageflags_of(unsigned long pfn);
/* A line of /proc/meminfo in KiB; -1 where the kernel has no such line. */
long meminfo_kib(const char *key);
/* 0, or the error number of opening or writing. */
int write_file(const char *path, const char *text);
/* Reads a small file into a buffer; its length, or -1. */
ssize_t read_file(const char *path, char *buffer, size_t size);

/* Anonymous memory in small pages, touched; never returns NULL. */
char *small_pages(size_t size);
/* Anonymous memory aligned to thp_size, advised to be huge, touched; never returns NULL. */
char *huge_pages(size_t count);
/* True when a present page belongs to a transparent huge page. */
bool is_thp(const void *address);

/* Tells the command line that the situation is there. */
void ready(void);
/* ready(), then sleeps for ever. */
void idle(void) __attribute__((noreturn));
/* Sleeps for ever. */
void sleep_forever(void) __attribute__((noreturn));

struct situation {
	const char *name;
	void (*make)(int argc, char **argv);
	const char *summary;
};

void make_thp(int argc, char **argv);
void make_mthp(int argc, char **argv);
void make_shmthp(int argc, char **argv);
void make_filethp(int argc, char **argv);
void make_hugetlb(int argc, char **argv);
void make_longpin(int argc, char **argv);
void make_longpinhuge(int argc, char **argv);
void make_iouring(int argc, char **argv);
void make_splice(int argc, char **argv);
void make_frag(int argc, char **argv);
void make_leak(int argc, char **argv);
void make_slab(int argc, char **argv);
void make_pagecache(int argc, char **argv);
void make_pagetables(int argc, char **argv);
void make_ksm(int argc, char **argv);
void make_poison(int argc, char **argv);
void make_dio(int argc, char **argv);
void make_loop(int argc, char **argv);
void make_tcp(int argc, char **argv);
void make_unix(int argc, char **argv);
void make_tee(int argc, char **argv);
void make_slowleak(int argc, char **argv);
void make_reported(int argc, char **argv);
void make_churn(int argc, char **argv);

/* Reads the kernel's files before and after the dump: capture.c. */
int capture(int argc, char **argv);

#endif
