# SPDX-License-Identifier: LGPL-2.1-or-later
# What roles share: settings of the guest, and how a situation is made.
truth=/truth/truth.txt
tracing=/sys/kernel/tracing
[ -d $tracing/events ] || tracing=/sys/kernel/debug/tracing

put() { # VALUE FILE: writes where the file exists
    [ -w "$2" ] && echo "$1" > "$2" 2>/dev/null
}

situation() { # NAME ARGUMENT...
    if work "$@"; then
        echo "@@ situation $1 uptime=$(cut -d' ' -f1 /proc/uptime)"
    else
        echo "failed: $1: the workload ended with an error" >> $truth
        echo "@@ situation-failed $1"
    fi
}

# Whatever works in the background, and would move or free pages between the truth and the dump.
put 0 /proc/sys/kernel/numa_balancing
put 0 /sys/kernel/mm/transparent_hugepage/khugepaged/defrag
put 3600000 /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
put 0 /proc/sys/vm/compaction_proactiveness
put 360000 /proc/sys/vm/dirty_writeback_centisecs
put always /sys/kernel/mm/transparent_hugepage/enabled
# Small watermarks: `work frag` goes close to them, and must not meet the OOM killer.
put 8192 /proc/sys/vm/min_free_kbytes
put within_size /sys/kernel/mm/transparent_hugepage/shmem_enabled

if [ -d $tracing/events/page_pinner ]; then
    put 1 $tracing/options/stacktrace
    put 1 $tracing/events/page_pinner/enable
else
    echo "absent: trace: no page_pinner events" >> $truth
fi
[ -d $tracing/events/cma ] && put 1 $tracing/events/cma/enable
[ -r /sys/kernel/debug/page_owner ] || echo "absent: page_owner: no /sys/kernel/debug/page_owner" >> $truth
