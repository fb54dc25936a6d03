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

# A situation with what it needs. What comes after `frag` goes into its holes; then most of them are freed.
made=
make_situation() { # NAME
    case $1 in
    shmthp) situation shmthp /huge ;;
    filethp | pagecache | tee)
        if [ ! -e /data/data.bin ]; then
            mount_9p data /data cache=loose,ro || echo "absent: page cache: no 9p with a cache" >> $truth
        fi
        situation "$1" /data/data.bin ;;
    *) situation "$1" ;;
    esac
    if [ "$made" = frag ]; then
        kill -USR1 "$(cat /run/situations/frag.pid)" 2>/dev/null
        sleep 1
    fi
    made=$1
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

# Instances with small buffers of their own, so that many events do not push out the few:
#   mm    what migrates, compacts, isolates, reclaims; without call chains, so that most of it fits
#   kmem  pages of some size allocated and freed; the oldest are overwritten
#   user  one sort of event, with the call chains of the kernel and of the process
instance() { # NAME KIB [OPTION...]: a trace instance with so much for each CPU, and these options alone
    buffer=$tracing/instances/$1
    mkdir "$buffer" 2>/dev/null || return 1
    put "$2" "$buffer/buffer_size_kb"
    # A new one has the options of the first.
    put 0 "$buffer/options/stacktrace"
    shift 2
    for option in "$@"; do
        put 1 "$buffer/options/$option"
    done
}

trace() { # INSTANCE EVENT [FILTER]: an event, or all of a system, where the kernel has it
    events=$tracing/instances/$1/events/$2
    [ -z "$3" ] || put "$3" "$events/filter"
    put 1 "$events/enable"
}

trace_memory() {
    if ! instance mm 256; then
        echo "absent: trace: no instances of it" >> $truth
        return
    fi
    for events in cma compaction page_isolation vmscan oom migrate/mm_migrate_pages migrate/mm_migrate_pages_start \
        huge_memory/mm_khugepaged_scan_pmd huge_memory/mm_collapse_huge_page ksm kmem/mm_page_alloc_extfrag; do
        trace mm $events
    done
    # One for each block otherwise, by the thousand.
    trace mm compaction/mm_compaction_isolate_migratepages 'nr_taken > 0'
    instance kmem 32 stacktrace
    trace kmem kmem/mm_page_alloc 'order >= 2'
    trace kmem kmem/mm_page_free 'order >= 2'
    trace kmem kmem/mm_page_pcpu_drain 'order >= 2'
    instance user 16 stacktrace userstacktrace
    trace user oom/oom_score_adj_update
    put 100 /proc/self/oom_score_adj
    put 0 /proc/self/oom_score_adj
}

stop_tracing() {
    for buffer in $tracing $tracing/instances/*; do
        put 0 "$buffer/tracing_on"
    done
}
