/* Static keys: include/linux/jump_label.h. With jump labels a key knows the code that it patches. */

struct jump_entry;
struct static_key_mod;

struct static_key {
	atomic_t enabled;
#ifdef CONFIG_JUMP_LABEL
	union {
		unsigned long type;
		struct jump_entry *entries;
		struct static_key_mod *next;
	};
#endif
};

struct static_key_true {
	struct static_key key;
};

struct static_key_false {
	struct static_key key;
};
