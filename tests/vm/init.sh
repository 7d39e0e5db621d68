#!/bin/busybox sh
# The first program of the small machine. pivot_root refuses the initramfs as the old root, so everything
# moves into a tmpfs; then it becomes what the kernel's command line has for `first`.
B=/bin/busybox
$B mount -t tmpfs -o size=2000m tmpfs /mnt
for entry in usr sid bin sbin lib lib64 var etc tests crates images root *.sh; do
    $B cp -a /$entry /mnt/
done
$B mkdir -p /mnt/proc /mnt/sys /mnt/dev /mnt/run /mnt/tmp /mnt/mnt
exec $B switch_root /mnt /$first
