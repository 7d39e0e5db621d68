#!/bin/busybox sh
# After init.sh, where nothing but tests is to run: mounts what systemd would, and cgroup v2.
B=/bin/busybox
$B --install -s /bin 2>/dev/null
export PATH=/usr/bin HOME=/root RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in overlay llc stp bridge veth; do insmod /lib/$module.ko; done
ip link set lo up
hostname vm
printf 'root:x:0:0:root:/root:/bin/sh\n' > /etc/passwd
printf 'root:x:0:\n' > /etc/group
echo '127.0.0.1 localhost' > /etc/hosts
: > /etc/resolv.conf
# The firmware leaves the cursor behind its own words.
echo
# Named by the kernel's command line.
# shellcheck disable=SC2154
sh "/$checks"
sync
poweroff -f
