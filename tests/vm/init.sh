#!/bin/busybox sh
# The first program of the small machine; it becomes what the kernel's command line has for `first`.
# pivot_root refuses the first mount of all as the old root, so the root is mounted once more, over itself.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -o remount,size=2000m /
$B umount /proc
$B mount --bind / /mnt
cd /mnt || exit
$B mount --move . /
exec $B chroot . /$first
