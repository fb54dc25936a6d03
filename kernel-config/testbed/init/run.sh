# SPDX-License-Identifier: LGPL-2.1-or-later
# Role "run": makes the situations that the host asks for, reads the truth around the host's dumps, and
# crashes if asked.
. /testbed/settings.sh
trace_memory

for name in $(cat /share/situations); do
    make_situation "$name"
done

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
