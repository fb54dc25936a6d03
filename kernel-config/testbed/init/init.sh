#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# /init of every guest: mounts, then the script of the role that the kernel command line names
# (testbed.role=run). What it says to the host are lines that begin with "@@".
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /run /tmp /truth /share /data /huge /slab
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /slab
mount -t tmpfs -o huge=always tmpfs /huge 2>/dev/null || mount -t tmpfs tmpfs /huge
# No echo: what the host types must not come back, nor cost a write while the truth is read.
stty -echo 2>/dev/null

mount_9p() { # TAG DIRECTORY OPTIONS
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"
}

parameter() { # NAME: the value of NAME=value on the kernel command line
    for word in $(cat /proc/cmdline); do
        case $word in "$1="*) echo "${word#*=}" ;; esac
    done
}

# From here on the kernel's messages would stand in the middle of lines; an oops is shown all the same.
dmesg -n 2

role=$(parameter testbed.role)
echo
echo "@@ hello role=$role release=$(uname -r) arch=$(uname -m)"
mount_9p share /share cache=none || { echo "@@ failed no share: is 9p built in?"; poweroff -f; }
if [ -f "/testbed/$role.sh" ]; then
    . "/testbed/$role.sh"
    rc=$?
else
    echo "@@ failed there is no role $role"
    rc=1
fi
sync
echo "@@ end rc=$rc"
poweroff -f
