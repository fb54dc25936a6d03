# SPDX-License-Identifier: LGPL-2.1-or-later
# Role "live": makes situations, then runs /share/command in the host's file system, mounted read-only.
# /share is /mnt there.
. /testbed/settings.sh
for name in $(cat /share/situations); do
    make_situation "$name"
done
mkdir -p /host
mount_9p host /host cache=loose,ro || { echo "@@ failed the host's root cannot be mounted"; return 1; }
for directory in proc sys dev; do
    mount -o bind /$directory /host/$directory
done
mount -o bind /sys/kernel/debug /host/sys/kernel/debug
mount -o bind /sys/kernel/tracing /host/sys/kernel/tracing 2>/dev/null
mount -t tmpfs tmpfs /host/run
mount -t tmpfs tmpfs /dev/shm
mount -o bind /dev/shm /host/dev/shm
mount -o bind /share /host/mnt || { echo "@@ failed the host has no directory /mnt"; return 1; }
cp /truth/* /share/ 2>/dev/null
echo "@@ live-begin uptime=$(cut -d' ' -f1 /proc/uptime)"
chroot /host /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/dev/shm TMPDIR=/dev/shm \
    LC_ALL=C.UTF-8 /bin/sh /mnt/command > /share/stdout 2> /share/stderr < /dev/null
rc=$?
echo "@@ live-end rc=$rc uptime=$(cut -d' ' -f1 /proc/uptime)"
cp $tracing/trace /share/trace.txt 2>/dev/null
return $rc
