#!/bin/sh
# Unpacks into the folder $1 what the small machine has of Debian, as this machine's package lists
# offer it now. Nothing is installed.
#
#   $1/kernel    the cloud kernel
#   $1/system    systemd, D-Bus and AppArmor's tools, and the libraries that they name
set -eu
dir=$1
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *//p' | head -n 1)
[ -n "$kernel" ] || { echo "no linux-image-cloud-amd64 in the package lists: run apt-get update" >&2; exit 1; }
system="systemd libsystemd-shared dbus-daemon dbus-system-bus-common apparmor"
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
rm -rf "$dir.new/deb" "$dir" && mv "$dir.new" "$dir"
