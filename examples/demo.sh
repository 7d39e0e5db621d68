#!/bin/sh
# The demo: two mixed pods under a containerd of their own, asked and looked at.
#
#   examples/demo.sh      DUET names the command to use; the installed one if it is not set
set -eu

here=$(cd "$(dirname "$0")" && pwd)
duet=${DUET:-duet}
work=$(mktemp -d)
pod=

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@" || true; }

stop() {
    [ -n "$pod" ] || return 0
    kill -INT "$pod" 2>/dev/null || true
    wait "$pod" || true
    wait "$steps" || true
    pod=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Starts the pod of example $1 and waits until it has an address and answers on it.
start() {
    "$duet" run --root "$work/duet" --images-dir "$work/images" "$here/$1/pod.yaml" \
        2>"$work/$1.steps" &
    pod=$!
    tail -f --pid="$pod" "$work/$1.steps" &
    steps=$!
    address=
    for _ in $(seq 600); do
        address=$(sed -n 's/^pod .*: sandbox created, //p' "$work/$1.steps")
        [ -n "$address" ] && curl -s -o "$work/answer" "http://$address:8080/" && return
        kill -0 "$pod" 2>/dev/null || break
        sleep 0.2
    done
    echo "the pod $1 does not answer" >&2
    exit 1
}

# Shows what the pod is made of: its shim, and the processes and namespaces below it.
anatomy() {
    say 'its processes: one shim, and native and wasm containers side by side'
    shim=$(pgrep -f "containerd-shim-duet-v1 .*$work" | head -n 1)
    ps -o pid,ppid,rss,comm,args --forest -p "$(below "$shim" | paste -sd,)" | cut -c -110
    say 'their namespaces: network, IPC and name shared; processes and mounts their own'
    for process in $(pgrep -P "$shim"); do
        printf '%-8s %-12s' "$process" "$(cat "/proc/$process/comm")"
        for kind in net ipc uts pid mnt; do
            printf ' %s' "$(readlink "/proc/$process/ns/$kind")"
        done
        echo
    done
}

# A process and all its descendants, one a line.
below() {
    echo "$1"
    for child in $(pgrep -P "$1"); do
        below "$child"
    done
}

[ "$(id -u)" = 0 ] || { echo "$0: containers need root" >&2; exit 1; }

say 'images, made from files of this machine'
DUET=$duet "$here/images.sh" "$work/images"
ls -sh "$work/images"

say 'ambassador: a wasm http component guards a native nginx on localhost'
start ambassador
say 'a request without the token, and one with it'
show curl -si "http://$address:8080/secret"
show curl -si -H 'Authorization: Bearer open-sesame' "http://$address:8080/secret"
anatomy
stop

say 'log-shipper: a wasm sidecar follows the access log of a native nginx'
start log-shipper
say 'three requests more, one of them for nothing'
for path in / / /nothing-here; do
    status=$(curl -s -o "$work/answer" -w '%{http_code}' "http://$address:8080$path")
    echo "GET http://$address:8080$path: $status"
done
sleep 1 # the shipper looks five times a second; its lines stand above
anatomy
stop

say 'nothing is left'
if pgrep -f "$work" >"$work/left"; then
    ps -o pid,args -p "$(paste -sd, "$work/left")" || true
    exit 1
fi
echo 'no process, and the containerd that Duet started is gone'
