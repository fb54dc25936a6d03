# SPDX-License-Identifier: LGPL-2.1-or-later
# Role "capture", in the capture kernel: Debian's makedumpfile on /proc/vmcore, as /share/boot/dumps says
# (lines "NAME OPTION..."). Progress (message level 1) is not shown.
if [ ! -r /proc/vmcore ]; then
    echo "@@ failed there is no /proc/vmcore"
    return 1
fi
cut -d' ' -f1 /proc/uptime
while read -r name options; do
    case " $options " in
    *" -F "*)
        # shellcheck disable=SC2086
        makedumpfile --message-level 22 $options /proc/vmcore > "/share/$name" 2> /run/makedumpfile.log ;;
    *)
        # shellcheck disable=SC2086
        makedumpfile --message-level 22 $options /proc/vmcore "/share/$name" > /run/makedumpfile.log 2>&1 ;;
    esac
    rc=$?
    [ $rc = 0 ] || rm -f "/share/$name"
    cp /run/makedumpfile.log "/share/$name.log"
    echo "@@ dumped name=$name rc=$rc uptime=$(cut -d' ' -f1 /proc/uptime)"
done < /share/boot/dumps
