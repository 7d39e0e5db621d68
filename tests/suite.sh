#!/bin/sh
# Unpacks packages of another Debian suite into a folder.
#
#   tests/suite.sh sid DIR containerd
#
# Nothing is installed: apt runs with a configuration and folders of its own, against the
# mirror that this machine's own sources name. The version is whatever the suite has now.
set -eu

suite=${1:?"usage: $0 SUITE DIR PACKAGE..."} dir=${2:?"usage: $0 SUITE DIR PACKAGE..."}
shift 2
# Both forms of apt's sources; the first Debian archive that is not the security one.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]+).*/\3/p' |
    grep -E '/debian/?$' | head -n 1)
[ -n "$mirror" ] || { echo "$0: no Debian mirror in /etc/apt" >&2; exit 1; }
apt=$dir.apt
rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
cat >"$apt/debian.sources" <<END
Types: deb
URIs: $mirror
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
cat >"$apt/apt.conf" <<END
Dir::State "$apt";
Dir::State::status "/dev/null";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/debian.sources";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "5";
END
export APT_CONFIG="$apt/apt.conf"
apt-get -qq update >&2
(cd "$apt" && apt-get -qq download "$@" >&2)
# Whole or not there: an interrupted run must not pass for a finished one.
rm -rf "$dir" "$dir.new"
for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$dir.new"; done
mv "$dir.new" "$dir"
rm -rf "$apt"
