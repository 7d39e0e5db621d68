//! What a container shows: said by a script from inside, read in its cgroup from outside,
//! and freed of what differs between any two containers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a container says of itself, one section after the other. Everything of `/proc` is
/// asked of the shell, which is the container's own program.
pub(crate) const SCRIPT: &str = r#"
exec 2>&1
P=/proc/$$
s() { echo "== $1"; }
s identity; id; umask; pwd; echo "home $HOME"; hostname; [ -d /proc/1 ] && echo "pid $(( $$ == 1 ))"
s status; grep -E '^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn|SigCgt|Cpus_allowed_list|Mems_allowed_list|Speculation|THP)' $P/status
s limits; cat $P/limits
s scores; for f in oom_score_adj personality timerslack_ns coredump_filter loginuid; do echo "$f $(cat $P/$f)"; done
s attributes; cat $P/attr/current
s cgroup; cat $P/cgroup
s environment; env | sort
s namespaces; for n in $P/ns/*; do echo "${n##*/} $(readlink $n)"; done
s mounts; cat $P/mountinfo
s devices; find /dev -exec stat -c '%A %u:%g %t:%T %N' {} + | sort
s root; stat -c '%A %u:%g %N' /* /run/* | sort
s descriptors; for f in $P/fd/*; do echo "${f##*/} $(readlink $f)"; done
s process; set -- $(sed 's/.*) //' $P/stat); echo "session $(( $3 == $4 )) tty $5 nice ${17} threads ${18} policy ${39}"; ionice -p $$
s keys; grep "_ses.$ORACLE" /proc/keys | sed 's/ [0-9]* perm/ perm/' | awk '{ print $5, $6, $7, $8, $9 }'
s kernel; for k in kernel/domainname kernel/msgmax kernel/shmmax kernel/shm_rmid_forced fs/mqueue/msg_max net/ipv4/ip_forward net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range; do echo "$k $(cat /proc/sys/$k)"; done
s interfaces; sed -n 's/:.*//p' /proc/net/dev; ls /sys/class/net
s protected; for p in /proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /etc/passwd /bin; do
    [ -e $p ] || continue
    if [ -d $p ]; then n=$(ls -A $p | wc -l); : > $p/oracle && w=yes && rm $p/oracle || w=no; else n=$(head -c 1 $p | wc -c); : >> $p && w=yes || w=no; fi
    echo "$p $n write $w"
done 2>/dev/null
s hierarchies; [ -d /sys/fs/cgroup ] && find /sys/fs/cgroup -maxdepth 2 | sort; for f in memory/memory.limit_in_bytes pids/pids.max cpu/cpu.shares; do [ -e /sys/fs/cgroup/$f ] && cat /sys/fs/cgroup/$f; done
s open; for d in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx /dev/fuse /dev/oracle /dev/loop0 /dev/kmsg; do [ -e $d ] && { head -c 0 $d && echo "$d opens"; }; done
mknod /oracle b 7 0 && { head -c 0 /oracle; rm /oracle; }
mknod /oracle c 1 5 && { head -c 0 /oracle && echo "a new zero opens"; rm /oracle; }
s calls; mount -t tmpfs x /mnt && echo mounts; chown 1:1 /tmp && echo chowns; chroot / true && echo chroots; nice -n -1 true && echo hurries; unshare -u true && echo unshares; setpriv --dump
s end
"#;

/// The names in the order of `linux/capability.h`.
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What was seen, by section: lines in a stable order.
pub(crate) type Seen = BTreeMap<String, Vec<String>>;

/// The names that two containers of one case may differ in.
pub(crate) struct Names<'a> {
    /// The container's bundle, on the host.
    pub(crate) bundle: &'a Path,
    /// What other host paths are called: the path and the word for it.
    pub(crate) paths: &'a [(PathBuf, &'static str)],
    /// The inode numbers of namespaces that have a name.
    pub(crate) namespaces: &'a [(String, &'static str)],
}

/// Files of a cgroup that count or list, which two containers do not have in common.
const COUNTERS: [&str; 21] = [
    "usage",
    "stat",
    "procs",
    "tasks",
    "failcnt",
    "slabinfo",
    "current",
    "events",
    "peak",
    "pressure",
    "io_",
    "time",
    "sectors",
    "threads",
    "control",
    "cpuacct",
    "ifpriomap",
    "effective",
    "level",
    "id",
    "throttled",
];

/// The settings of a cgroup, in every hierarchy it is in.
pub(crate) fn settings(cgroup: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(cgroup.trim_start_matches('/'));
        let name = hierarchy
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !dir.is_dir() {
            lines.push(format!("{name}: not in it"));
            continue;
        }
        for entry in fs::read_dir(&dir)
            .expect("the container is there")
            .flatten()
        {
            let file = entry.file_name().to_string_lossy().into_owned();
            if COUNTERS.iter().any(|counter| file.contains(counter)) && !file.contains("weight") {
                continue;
            }
            // Some can only be written.
            let Ok(text) = fs::read_to_string(entry.path()) else {
                continue;
            };
            lines.extend(text.lines().map(|line| format!("{name}: {file} {line}")));
        }
    }
    lines.sort();
    lines
}

/// Takes a script's output apart and names what has another number every time.
pub(crate) fn read(output: &str, names: &Names<'_>) -> Seen {
    let mut seen = Seen::new();
    let mut section = "before".to_owned();
    for line in output.lines() {
        if let Some(next) = line.strip_prefix("== ") {
            next.clone_into(&mut section);
            seen.entry(section.clone()).or_default();
            continue;
        }
        let mut line = line.trim_end().to_owned();
        for (path, word) in names.paths {
            line = line.replace(&path.display().to_string(), word);
        }
        line = line.replace(&names.bundle.display().to_string(), "BUNDLE");
        for (number, word) in names.namespaces {
            line = line.replace(number, word);
        }
        seen.entry(section.clone()).or_default().push(line);
    }
    if let Some(interfaces) = seen.get_mut("interfaces") {
        // On the host those of other pods come and go.
        interfaces.retain(|name| {
            !["duet", "veth"]
                .iter()
                .any(|other| name.trim().starts_with(other))
        });
    }
    if let Some(mounts) = seen.get_mut("mounts") {
        *mounts = self::mounts(mounts);
    }
    for line in seen.get_mut("namespaces").into_iter().flatten() {
        if let Some((name, number)) = line.split_once(' ')
            && number.contains(":[")
        {
            *line = format!("{name} new");
        }
    }
    for line in seen.get_mut("descriptors").into_iter().flatten() {
        if let Some((name, _)) = line.split_once(":[") {
            *line = name.to_owned();
        }
    }
    seen
}

/// Lines of a mountinfo without their numbers: the parent by its place, a peer group by its kind.
fn mounts(lines: &[String]) -> Vec<String> {
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let table: Vec<_> = lines
        .iter()
        .map(|line| fields(line))
        .filter(|f| f.len() > 8)
        .collect();
    let place = |id: &str| {
        let mount = table.iter().find(|mount| mount[0] == id);
        mount
            .map_or("outside", |mount| mount[4].as_str())
            .to_owned()
    };
    let mut mounts: Vec<_> = table
        .iter()
        .map(|mount| {
            // id parent major:minor root point options [shared:N ...] - type source superoptions
            let dash = mount
                .iter()
                .position(|field| field == "-")
                .unwrap_or(mount.len());
            let kinds = mount[6..dash]
                .iter()
                .map(|field| field.split(':').next().unwrap_or_default());
            let peers = kinds.collect::<Vec<_>>().join(",");
            let rest = mount[dash..].join(" ");
            format!(
                "{} in {} from {} {} [{peers}] {rest}",
                mount[4],
                place(&mount[1]),
                mount[3],
                mount[5]
            )
        })
        .collect();
    mounts.sort();
    mounts
}

/// Whether all cgroups are in the one tree of v2.
pub(crate) fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where each cgroup hierarchy is mounted.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").expect("procfs is mounted");
    let lines = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .filter(|fields| fields.len() > 2 && matches!(fields[2], "cgroup" | "cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}
