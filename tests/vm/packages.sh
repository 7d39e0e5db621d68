#!/bin/sh
# Unpacks into the folder $1 what the small machine has of Debian, as the package lists offer it
# now. Nothing is installed.
#
#   $1/kernel    the cloud kernel
#   $1/system    systemd, D-Bus and AppArmor's tools, what labels files, and the libraries that they name
#   $1/selinux   SELinux' policy of trixie, the first of Debian's that knows of containers: its configuration,
#                and compiled as `policy`
set -eu
dir=$1
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *//p' | head -n 1)
[ -n "$kernel" ] || { echo "no linux-image-cloud-amd64 in the package lists: run apt-get update" >&2; exit 1; }
system="systemd libsystemd-shared dbus-daemon dbus-system-bus-common apparmor policycoreutils"
# shellcheck disable=SC2086 # one word a package
libraries=$(apt-cache depends $system | sed -nE 's/^ *(Pre)?Depends: *(lib[^<>]*)$/\2/p' |
    grep -vx 'libc6' | sort -u)
rm -rf "$dir.new" && mkdir -p "$dir.new/deb/kernel" "$dir.new/deb/system"
fetch() { (cd "$dir.new/deb/$1" && shift && apt-get -qq download -o APT::Sandbox::User=root "$@"); }
fetch kernel "$kernel"
# shellcheck disable=SC2086
fetch system $system $libraries
for part in kernel system; do
    mkdir "$dir.new/$part"
    for package in "$dir.new/deb/$part"/*.deb; do dpkg-deb -x "$package" "$dir.new/$part"; done
done

# What semodule does at the policy's installation, without its store: by that suite's programs, on its own libc.
of=$dir.new/deb/trixie
"$(dirname "$0")/../suite.sh" trixie "$of" selinux-policy-default policycoreutils secilc libsepol2 libc6
theirs() { "$of"/usr/lib64/ld-linux-x86-64.so.2 --library-path "$of/usr/lib/x86_64-linux-gnu" "$@"; }
mkdir "$dir.new/selinux" "$of.cil"
for module in "$of"/usr/share/selinux/default/*.pp.bz2; do
    name=$(basename "$module" .pp.bz2)
    bzip2 -dc "$module" > "$of.pp"
    theirs "$of/usr/libexec/selinux/hll/pp" "$of.pp" "$of.cil/$name.cil"
done
# The root of this machine is the first file system of all, which the policy labels as if it were a folder; a node's is
# a disk, and so shall this be.
sed -i '/^(genfscon rootfs /s/root_t/fs_t/' "$of.cil/base.cil"
# Of version 33, which is the kernel's. That a newer policy knows more classes than the kernel is no fault of either.
theirs "$of/usr/bin/secilc" -M true -m -N -U allow -c 33 -o "$dir.new/selinux/policy" \
    -f "$of/etc/selinux/default/contexts/files/file_contexts" "$of.cil"/*.cil
cp -a "$of/etc/selinux/default" "$dir.new/selinux/"

rm -rf "$dir.new/deb" "$dir" && mv "$dir.new" "$dir"
