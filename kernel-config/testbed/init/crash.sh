# SPDX-License-Identifier: LGPL-2.1-or-later
# Loads the capture kernel and crashes. Part of role "run" (testbed.then=crash).
append="$(cat /share/boot/append)"
if kexec -p /share/boot/image --initrd=/share/boot/initrd --append="$append" 2>/run/kexec.log ||
    kexec -s -p /share/boot/image --initrd=/share/boot/initrd --append="$append" 2>>/run/kexec.log; then
    [ "$(cat /sys/kernel/kexec_crash_loaded)" = 1 ] || echo "@@ failed kexec loaded nothing"
    sync
    echo "@@ crashing uptime=$(cut -d' ' -f1 /proc/uptime)"
    echo c > /proc/sysrq-trigger
    sleep 60
    echo "@@ failed the kernel did not crash"
else
    cat /run/kexec.log
    echo "@@ failed kexec -p: $(tail -n 1 /run/kexec.log)"
fi
