/* Tables of names of bits, and the table of numbers in page->flags: include/linux/trace_events.h, lib/vsprintf.c. */

struct trace_print_flags {
	unsigned long mask;
	const char *name;
};

#if KERNEL >= 6.14
/* 6.14 took the type out, which depends on the format alone. */
struct printf_spec {
	unsigned char flags;
	unsigned char base;
	short precision;
	int field_width;
};
#else
struct printf_spec {
	unsigned int type : 8;
	signed int field_width : 24;
	unsigned int flags : 8;
	unsigned int base : 8;
	signed int precision : 16;
} __attribute__((packed));
#endif

#if KERNEL >= 5.13
/* 5.13: %pGp prints the section, node, zone and so on that page->flags holds. */
struct page_flags_fields {
	int width;
	int shift;
	int mask;
	const struct printf_spec *spec;
	const char *name;
};
#endif
