# Runs inside systemd's machine. One line `CHECK name ok` for each scenario that held, and one for each column.
#
# systemd opens the console without waiting for it, which loses what is long.
exec > /dev/ttyS0 2>&1
export DUET_TEST_CGROUPS=systemd
. /columns.sh
# The firmware leaves the cursor behind its own words.
echo

if only_what_was_asked_for; then
    :
elif [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    # Side by side, for each processor one.
    # A terminal's hundred thousand lines have nothing to do with what is different here.
    column podsandbox scenarios '' systemd:: apparmor:: hardware:: tasks:: -tasks::a_hundred events:: births::limits pods::a_native \
        pods::a_shot pods::containers left:: volumes::what cri::exec_streams cri::stop wasm::every_group wasm_limits::more_requests &
    column shim scenarios "$SHIM" sandboxes::a_ user_namespaces:: restarts::pods_outlive_a_containerd_that_is_killed \
        cri::stats cri::both cri::exec_streams cri::a_guest_that_takes wasm::kill wasm_limits::a_quota wasm_execs::
    column kills scenarios '' kills::pods::a_pod_whose_holder
    wait
    # By itself: it looks at all slices of its kind.
    column run run '' a_pod_is_in_a_slice
    tell podsandbox shim kills run
else
    column hybrid scenarios '' systemd::limits systemd::running systemd::what events:: tasks::a_shim pods::a_shot
    tell hybrid
fi
