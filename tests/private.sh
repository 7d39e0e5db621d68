#!/bin/sh
# Runs a command on a machine whose /run/containerd is its own.
#
# The shims of every containerd put their sockets into one folder there, so a leak check beside
# another run could not tell whose a dead one is. Mounts that a failed run leaves end with it.
set -eu
mkdir -p /run/containerd
# shellcheck disable=SC2016 # the inner shell expands it
exec unshare --mount sh -c 'mount -t tmpfs -o mode=711 tmpfs /run/containerd && exec "$@"' sh "$@"
