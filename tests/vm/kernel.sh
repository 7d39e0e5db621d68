#!/bin/sh
# Unpacks the cloud kernel that this machine's package lists offer now into the folder $1.
set -eu
dir=$1
rm -rf "$dir.new" && mkdir -p "$dir.new/deb"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *//p' | head -n 1)
[ -n "$package" ] || { echo "no linux-image-cloud-amd64 in the package lists: run apt-get update" >&2; exit 1; }
(cd "$dir.new/deb" && apt-get -qq download -o APT::Sandbox::User=root "$package")
dpkg-deb -x "$dir.new"/deb/*.deb "$dir.new"
rm -rf "$dir.new/deb" "$dir" && mv "$dir.new" "$dir"
