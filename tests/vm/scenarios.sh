# Runs inside systemd's machine. One line `CHECK name ok` for each scenario that held, and one for each column.
#
# systemd opens the console without waiting for it, which loses what is long.
exec > /dev/ttyS0 2>&1
export DUET_TEST_REQUIRE=all DUET_BIN_DIR=/usr/bin DUET_TEST_CGROUPS=systemd DUET_TEST_SLOWNESS=8
# The firmware leaves the cursor behind its own words.
echo
mkdir -p /run/containerd

# Runs scenarios with a /run/containerd of their own, as tests/private.sh does.
column() { # name, environment, filters...
    name=$1 environment=$2
    shift 2
    for filter in "$@"; do
        # One that fits no test would pass.
        /tests/scenarios --list "$filter" 2>/dev/null | grep -q ': test$' || { echo "no scenario is named $filter"; return 1; }
    done
    # shellcheck disable=SC2016,SC2086 # the inner shell expands it; one word a variable
    unshare --mount sh -c 'mount -t tmpfs -o mode=711 tmpfs /run/containerd && exec "$@"' sh \
        env $environment /tests/scenarios --test-threads=1 "$@" > "/run/$name.out" 2> "/run/$name.err"
}

# Says how columns ended: when nobody runs any more who makes the kernel write into these lines.
tell() { # names...
    for name in "$@"; do
        sed -n 's/^test \(.*\) \.\.\. ok$/CHECK \1 ok/p' "/run/$name.out"
        if grep -q '^test result: ok' "/run/$name.out"; then
            echo "CHECK all of $name ok"
        else
            cat "/run/$name.out" "/run/$name.err"
        fi
    done
}

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    # Side by side, for each processor one.
    column podsandbox '' systemd:: apparmor:: tasks:: events:: births::limits births::running pods::a_native \
        pods::a_shot pods::containers pods::two &
    column shim 'DUET_TEST_SANDBOXER=shim DUET_TEST_CONTAINERD=/sid' sandboxes::a_ user_namespaces::ctr cri::stats cri::both
    column kills '' kills::pods::a_pod_whose_holder
    wait
    tell podsandbox shim kills
else
    column hybrid '' systemd::limits systemd::running events:: tasks::a_shim pods::a_shot
    tell hybrid
fi
