#!/bin/busybox sh
# The first program of the small machine. pivot_root refuses the initramfs as the old root, so everything
# moves into a tmpfs first.
B=/bin/busybox
if [ "$1" != moved ]; then
    $B mount -t tmpfs -o size=1200m tmpfs /mnt
    for folder in bin etc tests images lib lib64 init checks.sh; do
        [ -e /$folder ] && $B cp -a /$folder /mnt/
    done
    $B mkdir -p /mnt/proc /mnt/sys /mnt/dev /mnt/run /mnt/tmp /mnt/mnt /mnt/var /mnt/root /mnt/usr
    $B cp -a /usr/. /mnt/usr/ 2>/dev/null
    exec $B switch_root /mnt /init moved
fi
$B --install -s /bin
export PATH=/bin HOME=/root RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
insmod /lib/overlay.ko
ip link set lo up
hostname vm
echo "root:x:0:0:root:/root:/bin/sh" > /etc/passwd
# The firmware leaves the cursor behind its own words.
echo
sh /checks.sh
sync
poweroff -f
