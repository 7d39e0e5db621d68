#!/bin/sh
# Builds the wasm programs of the examples, of the tests and those that Duet ships anew, and puts
# each beside its source.
#
# The .wasm files are committed, so nobody needs this to run or test Duet; it is for whoever changes
# their sources. It runs on Debian 12 and installs nothing except, if missing, C for wasm:
#
#   C     clang, lld, wasi-libc, libclang-rt-14-dev-wasm32        from Debian 12
#   Rust  rustc and libstd-rust-dev-wasm32 1.85                   from Debian 13, unpacked in a
#         directory of its own and run with the C library they came with. Debian 12's Rust for wasm
#         is too old for components, and rustup's cannot use another version's library.
#   both  this machine's own Rust builds what makes components of C: crates/wasm/tests/guests/c/bind
#
# The packages come from wherever this machine's own Debian packages come from.
#
#   examples/build-wasm.sh [DIRECTORY]     DIRECTORY keeps the compiler: target/wasm-toolchain
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
tools=$(realpath -m "${1:-$here/target/wasm-toolchain}")
root=$tools/root

say() { printf '%s\n' "build-wasm: $*"; }

need_c() {
    [ -e /usr/lib/wasm32-wasi/crt1.o ] || [ -e /usr/lib/wasm32-wasi/crt1-command.o ] && return
    say 'installing clang, lld and wasi-libc'
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get -qq update
    $sudo apt-get -qq install -y --no-install-recommends \
        clang lld wasi-libc libclang-rt-14-dev-wasm32 >/dev/null
}

# Unpacks Debian 13's Rust into $root.
need_rust() {
    [ -x "$tools/rustc" ] && return
    say "unpacking Debian 13's Rust into $root"
    mkdir -p "$tools/lists/partial" "$tools/cache/archives/partial" "$tools/sources" "$tools/debs" "$root"
    # This machine's first Debian source, with the other release's name; written in either of apt's ways.
    awk 'BEGIN { RS = "" } /Suites: bookworm/ { print; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed 's/^Suites: .*/Suites: trixie/' > "$tools/sources/trixie.sources"
    sed -n '/^deb .* bookworm /{ s/ bookworm / trixie /; p; q; }' /etc/apt/sources.list 2>/dev/null \
        > "$tools/sources/trixie.list" || true
    find "$tools/sources" -type f -empty -delete
    if [ -z "$(ls "$tools/sources")" ]; then
        say 'found no Debian 12 source below /etc/apt' >&2
        exit 1
    fi
    cat > "$tools/apt.conf" <<-END
	Dir::State::lists "$tools/lists";
	Dir::Cache "$tools/cache";
	Dir::Etc::sourcelist "/dev/null";
	Dir::Etc::sourceparts "$tools/sources";
	END
    export APT_CONFIG="$tools/apt.conf"
    apt-get update -q
    (cd "$tools/debs" && apt-get download -q \
        rustc libstd-rust-1.85 libstd-rust-dev libstd-rust-dev-wasm32 libc6 libstdc++6 libgcc-s1 \
        libllvm19 zlib1g libzstd1 libxml2 libedit2 libffi8 libtinfo6 libbsd0 libmd0 liblzma5 \
        libz3-4 libicu76)
    unset APT_CONFIG
    for package in "$tools"/debs/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    rm -r "$tools/debs" "$tools/lists" "$tools/cache"
    cat > "$tools/rustc" <<-END
	#!/bin/sh
	exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu:$root/usr/lib/llvm-19/lib" \\
	    --argv0 "$root/usr/bin/rustc" "$root/usr/bin/rustc" --sysroot "$root/usr" "\$@"
	END
    chmod +x "$tools/rustc"
}

# The linkers for wasm are part of every Rust toolchain, this machine's too.
linkers=$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin

# c SOURCE WASM
c() {
    say "$2"
    clang --target=wasm32-wasi -Os -Wall -Wextra -Werror -Wl,-s -o "$here/$2" "$here/$1"
}

# bind DIRECTORY [TO]
bind() {
    (cd "$here" &&
        cargo run -q --locked --release --manifest-path crates/wasm/tests/guests/c/bind/Cargo.toml \
            --target-dir "$tools/bind" -- "$@")
}

# Components in C: each of the worlds that has a source becomes c-WORLD.wasm.
c_components() {
    sources=crates/wasm/tests/guests/c
    made=$tools/c
    # Nothing of an earlier run counts as called, and a failure is not lost in a list.
    rm -rf "$made"
    worlds=$(bind "$made")
    for world in $worlds; do
        [ -e "$here/$sources/$world.c" ] || continue
        say "crates/wasm/tests/guests/c-$world.wasm"
        # What is generated is not ours to keep free of warnings.
        clang --target=wasm32-wasi -Os -c -o "$made/$world/guest.o" "$made/$world/guest.c"
        clang --target=wasm32-wasi -mexec-model=reactor -Os -Wall -Wextra -Werror -Wl,-s -I "$made/$world" \
            -o "$made/$world/guest.wasm" "$here/$sources/$world.c" \
            "$made/$world/guest.o" "$made/$world/guest_component_type.o"
    done
    bind "$made" "$here/crates/wasm/tests/guests"
}

# rust DIRECTORY TARGET ARTIFACT WASM [OPTION OF CARGO]
rust() {
    say "$4"
    (cd "$here/$1" &&
        RUSTC="$tools/rustc" \
        CARGO_TARGET_WASM32_WASIP1_LINKER="$linkers/rust-lld" \
        CARGO_TARGET_WASM32_WASIP2_LINKER="$linkers/wasm-component-ld" \
        CARGO_TARGET_DIR="$tools/target" \
        PATH="$linkers/gcc-ld:$linkers:$PATH" \
        cargo build -q --locked --release --target "$2" ${5:-})
    cp "$tools/target/$2/release/$3" "$here/$4"
    chmod 644 "$here/$4"
}

need_c
need_rust
c examples/log-shipper/log-shipper.c examples/log-shipper/log-shipper.wasm
rust examples/ambassador wasm32-wasip2 ambassador.wasm examples/ambassador/ambassador.wasm
rust examples/init-config wasm32-wasip2 init_config.wasm examples/init-config/init-config.wasm
rust crates/wasm/tests/guests/probe wasm32-wasip1 probe.wasm crates/wasm/tests/guests/probe-p1.wasm
rust crates/wasm/tests/guests/probe wasm32-wasip2 probe.wasm crates/wasm/tests/guests/probe-p2.wasm
for preview in 1 2; do
    rust crates/wasm/tests/guests/groups wasm32-wasip$preview groups.wasm crates/wasm/tests/guests/groups-p$preview.wasm
done
c_components
rust crates/wasm/tests/guests/server wasm32-wasip2 server.wasm crates/wasm/tests/guests/server.wasm
rust crates/wasm/tests/guests/keyvalue wasm32-wasip2 keyvalue.wasm crates/wasm/tests/guests/keyvalue.wasm
# There is no library for preview 3 yet: it comes beside that of preview 2. What names its interfaces asks for Rust 1.87
# and uses nothing that 1.85 lacks.
for guest in probe server; do
    rust crates/wasm/tests/guests/$guest-p3 wasm32-wasip2 ${guest}_p3.wasm \
        crates/wasm/tests/guests/$guest-p3.wasm --ignore-rust-version
done
rust crates/wasm/tools wasm32-wasip2 tools.wasm crates/wasm/tools/tools.wasm
find "$here/examples" "$here/crates/wasm/tests" -name '*.wasm' -size +250k | while read -r file; do
    say "$file is larger than the 250 kB that are committed" >&2
    exit 1
done
