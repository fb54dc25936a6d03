# SPDX-License-Identifier: LGPL-2.1-or-later
# Role "run": makes all situations, reads the truth around the host's dumps, and crashes if asked.
. /testbed/settings.sh
trace_memory

situation hugetlb
situation splice
situation frag
situation leak
kill -USR1 "$(cat /run/work/frag.pid)" 2>/dev/null
sleep 1
situation thp
situation mthp
situation shmthp /huge
mount_9p data /data cache=loose,ro || echo "absent: page cache: no 9p with a cache" >> $truth
situation filethp /data/data.bin
situation pagecache /data/data.bin
situation longpin
situation longpinhuge
situation iouring
situation slab
situation pagetables
situation ksm
situation poison
situation reported

stop_tracing
ps -o pid,ppid,comm,args > /truth/ps.txt
for pid in $(ps -o pid,comm | awk '$2 ~ /^work-|-child$|^thp-child/ { print $1 }'); do
    for file in smaps maps status; do
        echo "keep /proc/$pid/$file" >> /run/capture.list
    done
done
cat /testbed/capture.list >> /run/capture.list
sync
cp /truth/* /share/truth/
work capture /run/capture.list /share/truth || echo "@@ failed reading the truth"
cp /truth/* /share/truth/
sync
echo "@@ truth-done"
if [ "$(parameter testbed.then)" = crash ]; then
    . /testbed/crash.sh
fi
