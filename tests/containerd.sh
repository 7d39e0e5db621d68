#!/bin/sh
# Unpacks the containerd of another Debian suite beside the system, and says where.
#
#   tests/containerd.sh sid        ->  <target>/containerd/sid/usr/bin
#
# Nothing is installed: apt runs with a configuration and folders of its own, against the
# mirror that this machine's own sources name. The version is whatever the suite has now.
set -eu

suite=${1:?"usage: $0 SUITE"}
here=$(cd "$(dirname "$0")/.." && pwd)
dir=${CARGO_TARGET_DIR:-$here/target}/containerd/$suite

if [ ! -x "$dir/usr/bin/containerd" ]; then
    # Both forms of apt's sources; the first Debian archive that is not the security one.
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]+).*/\3/p' |
        grep -E '/debian/?$' | head -n 1)
    [ -n "$mirror" ] || { echo "$0: no Debian mirror in /etc/apt" >&2; exit 1; }
    apt=$dir.apt
    rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    cat >"$apt/debian.sources" <<EOF
Types: deb
URIs: $mirror
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
    cat >"$apt/apt.conf" <<EOF
Dir::State "$apt";
Dir::State::status "/dev/null";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/debian.sources";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "5";
EOF
    export APT_CONFIG="$apt/apt.conf"
    apt-get -qq update >&2
    (cd "$apt" && apt-get -qq download containerd >&2)
    # Whole or not there: an interrupted run must not pass for a finished one.
    rm -rf "$dir" "$dir.new" && dpkg-deb -x "$apt"/containerd_*.deb "$dir.new"
    mv "$dir.new" "$dir"
    rm -rf "$apt"
fi
"$dir/usr/bin/containerd" --version >&2
echo "$dir/usr/bin"
