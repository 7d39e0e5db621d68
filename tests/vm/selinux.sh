# Runs inside the machine whose kernel has SELinux, after plain.sh: with a policy of Debian's in force.
CONTEXTS=/etc/selinux/default/contexts/files/file_contexts
if [ -z "$1" ]; then
    mount -t selinuxfs selinuxfs /sys/fs/selinux
    # As one piece, or it is refused.
    dd if=/etc/selinux/policy of=/sys/fs/selinux/load bs=16M 2> /dev/null
    # As what an init system starts. The policy has no way to it from a kernel that was its own; it is not in force yet.
    exec runcon system_u:system_r:initrc_t:s0 sh "$0" labelled
fi
. /columns.sh
for dir in var tmp; do mount -t tmpfs -o "rootcontext=system_u:object_r:${dir}_t:s0" tmpfs /$dir; done
mkdir -p /var/lib/duet/cache && chmod 700 /var/lib/duet/cache
ln -s ../run /var/run
# One file system at a time: it takes those for one file whose inodes have the same number.
setfiles -F -e /dev -e /proc -e /sys -e /run -e /disk -e /var -e /tmp $CONTEXTS /
for dir in /dev /run /var; do setfiles -F $CONTEXTS $dir; done
# Where this machine has things, and a node would not.
chcon -t container_var_lib_t /disk
chcon -R -t container_plugin_t /usr/lib/cni
chcon -R -t bin_t /sid
chcon -t dockerd_exec_t /sid/containerd
export RUN_OPTIONS=,rootcontext=system_u:object_r:container_runtime_t:s0
# What deploy/README.md has the owner of a node do.
chcon -t container_file_t /usr/bin/duet-runner /usr/bin/duet-holder
chcon -t container_ro_file_t /var/lib/duet/cache
echo 1 > /sys/fs/selinux/enforce
# Without it the scenarios would have nothing to say.
[ "$(cat /sys/fs/selinux/enforce)" = 1 ] || { echo 'the policy is not in force'; exit 1; }

if only_what_was_asked_for; then exit; fi
column podsandbox scenarios '' selinux:: &
column shim scenarios "$SHIM" selinux:: &
wait
column runc scenarios DUET_TEST_RUNTIME=runc selinux::
tell podsandbox shim runc || dmesg | grep 'avc: .*permissive=0'
