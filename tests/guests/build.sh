#!/bin/sh
# Rebuilds the committed wasm guests from their sources with Debian's own toolchain:
#   apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32
set -eu
cd "$(dirname "$0")"
for source in *.c; do
    clang --target=wasm32-wasi -Os -Wall -Wextra -Werror -Wl,-s -o "${source%.c}.wasm" "$source"
done
ls -l ./*.wasm
