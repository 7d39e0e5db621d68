#!/bin/busybox sh
# The first program of the machine that systemd is to run: moves everything into a tmpfs, for pivot_root
# refuses the initramfs as the old root, loads what modprobe would, and becomes systemd.
B=/bin/busybox
if [ "$1" != moved ]; then
    $B mount -t tmpfs -o size=2000m tmpfs /mnt
    $B mkdir -p /mnt/proc /mnt/sys /mnt/dev /mnt/run /mnt/tmp /mnt/mnt
    for entry in usr sid bin sbin lib lib64 var etc tests root init scenarios.sh; do
        $B cp -a /$entry /mnt/
    done
    exec $B switch_root /mnt /init moved
fi
# What is there already is Debian's own.
$B --install -s /bin 2>/dev/null
for module in overlay llc stp bridge veth; do $B insmod /lib/$module.ko; done
$B hostname vm
$B ip link set lo up
printf 'root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/:/bin/sh\n' > /etc/passwd
printf 'root:x:0:\nmessagebus:x:100:\n' > /etc/group
echo '127.0.0.1 localhost' > /etc/hosts
: > /etc/resolv.conf
exec /lib/systemd/systemd
