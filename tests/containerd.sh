#!/bin/sh
# Unpacks the containerd of another Debian suite beside the system, and says where.
#
#   tests/containerd.sh sid        ->  <target>/containerd/sid/usr/bin
set -eu

suite=${1:?"usage: $0 SUITE"}
here=$(cd "$(dirname "$0")/.." && pwd)
dir=${CARGO_TARGET_DIR:-$here/target}/containerd/$suite

[ -x "$dir/usr/bin/containerd" ] || "$here/tests/suite.sh" "$suite" "$dir" containerd
"$dir/usr/bin/containerd" --version >&2
echo "$dir/usr/bin"
