# Runs inside the machine without systemd, after plain.sh. One line `CHECK name ok` for each check that held.
. /columns.sh
if only_what_was_asked_for; then exit; fi
check() { # name, command...
    name=$1
    shift
    if "$@"; then echo "CHECK $name ok"; else echo "CHECK $name FAILED ($?)"; fi
}
C="ctr -a /run/containerd.sock"
RUN="$C run --runtime io.containerd.duet.v1"
NATIVE=duet.test/busybox:1
WASM=duet.test/guests:1

controllers() { for c in cpu memory pids io cpuset; do grep -qw $c /sys/fs/cgroup/cgroup.controllers || return 1; done; }
check cgroup2-has-controllers controllers

crates() {
    for test in /crates/*; do
        # Not all that they call is here.
        env -u DUET_TEST_REQUIRE $test --test-threads=1 > /tmp/out 2>&1 || { cat /tmp/out; return 1; }
    done
}
check crate-tests crates

# Beside what follows, which has one thing at a time to do.
column oracle oracle DUET_TEST_CASES=cgroups a_container_of_duets every_number_of_stats &
ORACLE=$!
column pod pod $POD budget:: guests:: lifecycle:: orphans:: plain_pods:: tasks:: workshop:: &
PODS=$!

cat > /etc/containerd.toml <<T
version = 2
root = "/var/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/run/containerd.sock"
T
containerd -c /etc/containerd.toml > /tmp/containerd.log 2>&1 &
DAEMON=$!
starts() {
    for i in $(seq 300); do
        $C version > /dev/null 2>&1 && break
        sleep 0.2
    done
    $C images import /images/images.tar > /tmp/out 2>&1 || { cat /tmp/out; return 1; }
    $C images ls -q
}
check containerd-starts starts

code() { # expected, command...
    want=$1
    shift
    "$@" > /tmp/out 2>&1
    got=$?
    [ $got = $want ] || { echo "exit code $got, expected $want"; cat /tmp/out; tail -n 20 /tmp/containerd.log; return 1; }
}
check native-exit-code code 7 $RUN --rm $NATIVE exit7 /bin/sh -c 'exit 7'
check wasm-exit-code code 3 $RUN --rm $WASM wasm3 /probe.wasm exit 3

$RUN -d --memory-limit 33554432 --cpus 0.5 $NATIVE main /bin/sleep 1000
PID=$($C task ls | awk '$1 == "main" { print $2 }')
GROUP=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$PID/cgroup)
check memory-limit-is-set test "$(cat $GROUP/memory.max)" = 33554432
check process-is-in-its-cgroup grep -qx $PID $GROUP/cgroup.procs

check cpu-limit-is-set test "$(cat $GROUP/cpu.max)" = "50000 100000"

devices() {
    $C task exec --exec-id null main /bin/sh -c 'echo x > /dev/null' || return 1
    $C task exec --exec-id disk main /bin/sh -c 'mknod /tmp/disk b 7 0 && cat /tmp/disk' > /tmp/out 2>&1 && return 1
    grep -q 'Operation not permitted' /tmp/out || { cat /tmp/out; return 1; }
}
check devices-are-confined devices

joins() { $C task exec --exec-id where main /bin/cat /proc/self/cgroup > /tmp/out && cat /proc/$PID/cgroup | diff - /tmp/out || grep -q '^0::/$' /tmp/out; }
check exec-joins-the-cgroup joins

metrics() { $C task metrics main > /tmp/out && grep -q 'memory' /tmp/out && grep -q 'cpu' /tmp/out || { cat /tmp/out; return 1; }; }
check metrics-are-v2 metrics

pause() {
    $C task pause main && grep -q 'frozen 1' $GROUP/cgroup.events && $C task resume main && grep -q 'frozen 0' $GROUP/cgroup.events
}
check pause-and-resume pause

oom() {
    $C events > /tmp/events 2>&1 &
    EVENTS=$!
    code 137 $RUN --rm --memory-limit 8388608 $NATIVE oom /bin/sh -c 'x=a; while true; do x=$x$x; done' || return 1
    kill $EVENTS
    grep -q /tasks/oom /tmp/events || { cat /tmp/events; return 1; }
}
check oom-is-killed oom

beside() {
    mkdir $GROUP/own && echo $PID > $GROUP/own/cgroup.procs && echo +memory > $GROUP/cgroup.subtree_control || return 1
    $C task exec --exec-id beside main /bin/cat /proc/self/cgroup > /tmp/out 2>&1 && grep -q '/own$' /tmp/out || { cat /tmp/out; return 1; }
}
check exec-is-born-beside-init beside

wait $ORACLE $PODS
shims() { ps | grep -q '[c]ontainerd-shim-duet'; }
left() {
    $C task kill -s KILL main
    for i in $(seq 100); do $C task ls | grep -q 'main.*STOPPED' && break; sleep 0.1; done
    code 0 $C task rm main && $C container rm main || return 1
    for i in $(seq 100); do shims || break; sleep 0.1; done
    ! shims && ! find /sys/fs/cgroup/default -mindepth 1 -type d 2>/dev/null | grep . && ! grep /run/containerd/io.containerd.runtime /proc/mounts
}
check nothing-is-left left
kill $DAEMON
tell oracle pod
