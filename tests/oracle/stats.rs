//! What Stats says, field by field: of the same work under Duet and under runc, and beside the files
//! of the container's cgroup that hold it.
//!
//! Work that is done twice never takes the same, so that two numbers prove little: each number of
//! both is held against the kernel's own, in the unit of the message. What runc's shim says and Duet's does
//! not fails the test; so does what Duet's says beyond that, if no file says it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::{api, cgroups, cgroups_v2};
use duet_tests::machine::{self, Runtime};
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, image, template, wait};
use protobuf::reflect::{
    FieldDescriptor, ReflectFieldRef, ReflectValueRef, RuntimeFieldType, RuntimeType,
};
use protobuf::{Message as _, MessageDyn};
use serde_json::json;

use crate::probe;

/// Numbers by the path of their field; an entry of a list has what names it in brackets.
type Numbers = BTreeMap<String, i128>;

/// Nanoseconds in a tick of user space's clock.
const TICK: i128 = 10_000_000;

/// Reads and writes, a computation under a quota, memory that is kept, and then nothing any more.
const WORK: &str = "dd if=/dev/zero of=/tmp/big bs=1M count=16; dd if=/tmp/big of=/dev/null bs=1M; \
    i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; touch /tmp/done; exec sleep 1000";

/// What the work above leaves at more than zero on every machine: who says zero reads another file. Not
/// what was throttled: on a machine that is busy with other things nobody gets as far as its quota.
const WORKED: [&str; 6] = [
    "pids.current",
    "pids.limit",
    "cpu.usage.total cpu.usage_usec",
    "cpu.usage.user cpu.user_usec",
    "memory.usage.usage memory.usage",
    "memory.rss memory.anon",
];

/// What containerd 1.6's shim for runc does not know of and so calls zero.
const NEWER_THAN_RUNCS_SHIM: [&str; 2] = ["memory.max_usage", "memory.swap_max_usage"];

/// A container that works and then stands still.
struct Worked {
    shim: Shim,
    root: PathBuf,
    cgroup: String,
}

/// What both containers are called.
const ID: &str = "worked";

#[test]
fn every_number_of_stats_is_the_kernels_and_none_of_runcs_is_missing() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let programs = [
        (Runtime::Duet, machine::binary("containerd-shim-duet-v1")),
        (
            Runtime::Runc,
            machine::program("containerd-shim-runc-v2").expect("containerd brings it"),
        ),
    ];
    // Both work at the same time.
    let works = programs.map(|(runtime, program)| Worked::start(&node, runtime, &program));
    let [duet, runc] = works.map(|worked| {
        worked.settle();
        let seen = worked.look();
        worked.close();
        seen
    });
    let mut report = String::new();
    for (side, (said, before, after)) in [("duet", &duet), ("runc", &runc)] {
        let more = said.values().filter(|number| **number > 0).count();
        println!("{side}: {} numbers, {more} of them not zero", said.len());
        for (field, number) in said {
            let kernel = before.get(field).copied().zip(after.get(field).copied());
            let fits = kernel.is_some_and(|(before, after)| {
                (before.min(after)..=before.max(after)).contains(number)
            });
            let unknown =
                side == "runc" && *number == 0 && NEWER_THAN_RUNCS_SHIM.contains(&field.as_str());
            // What only runc's says is told below.
            if !fits && !unknown && (side == "duet" || duet.0.contains_key(field)) {
                let _infallible = writeln!(report, "{side} says {field} = {number}: {kernel:?}");
            }
        }
        for names in WORKED {
            let worked = names.split(' ').any(|field| said.get(field) > Some(&0));
            if !worked {
                let _infallible = writeln!(report, "{side} says nothing of {names}");
            }
        }
    }
    let fields = |said: &Numbers| said.keys().cloned().collect::<BTreeSet<_>>();
    for field in fields(&runc.0).difference(&fields(&duet.0)) {
        let _infallible = writeln!(report, "only runc's shim says {field}");
    }
    assert!(report.is_empty(), "{report}");
}

// === impl Worked ===

impl Worked {
    fn start(node: &Node, runtime: Runtime, program: &Path) -> Self {
        let name = runtime.short();
        let dir = node.scratch().join(format!("stats-{name}"));
        let cgroup = format!("/{}/stats-{name}", node.namespace());
        let mut spec = template::config(node);
        spec["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": format!("stats-{name}"),
        });
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/sh", "-c", WORK]);
        spec["root"] = json!({"path": "rootfs"});
        spec["linux"]["cgroupsPath"] = json!(cgroup);
        spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        spec["linux"]["resources"]["pids"] = json!({"limit": 100});
        spec["linux"]["resources"]["cpu"] = json!({"quota": 50_000, "period": 100_000});
        let bundle = Bundle::new(&dir, Some(&spec.to_string())).expect("our own folder");
        let images = image::all();
        let busybox = images.iter().find(|image| image.name() == image::BUSYBOX);
        let root = dir.join("rootfs");
        busybox
            .expect("it is one")
            .unpack(&root)
            .expect("our own folder");
        let shim = Shim::start(node.daemon(), program, node.namespace(), name, &bundle)
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        shim.create(ID, &dir).expect("Create");
        shim.begin(ID).expect("Start");
        Self { shim, root, cgroup }
    }

    /// Waits until the work is done, and lets the container stand still.
    fn settle(&self) {
        let done = self.root.join("tmp/done");
        wait::until("the end of the work", || done.exists().then_some(()));
        let mut pause = api::PauseRequest::new();
        ID.clone_into(&mut pause.id);
        self.shim
            .call::<api::Empty>("Pause", &pause)
            .expect("Pause");
    }

    /// What the shim says, and what the kernel says before and after it.
    fn look(&self) -> (Numbers, Numbers, Numbers) {
        let before = kernel(&self.cgroup);
        let mut ask = api::StatsRequest::new();
        ID.clone_into(&mut ask.id);
        let answer: api::StatsResponse = self.shim.call("Stats", &ask).expect("Stats");
        let mut said = Numbers::new();
        let bytes = &answer.stats.value;
        match answer.stats.type_url.as_str() {
            "io.containerd.cgroups.v1.Metrics" => {
                let metrics = cgroups::metrics::Metrics::parse_from_bytes(bytes);
                flatten(&metrics.expect("Metrics"), "", &mut said);
            }
            "io.containerd.cgroups.v2.Metrics" => {
                let metrics = cgroups_v2::metrics::Metrics::parse_from_bytes(bytes);
                flatten(&metrics.expect("Metrics"), "", &mut said);
            }
            other => panic!("Stats are {other}"),
        }
        (said, before, kernel(&self.cgroup))
    }

    fn close(self) {
        let mut resume = api::ResumeRequest::new();
        ID.clone_into(&mut resume.id);
        self.shim
            .call::<api::Empty>("Resume", &resume)
            .expect("Resume");
        self.shim.kill(ID).expect("Kill");
        assert_eq!(self.shim.wait(ID).expect("Wait"), 137);
        self.shim.delete(ID).expect("Delete");
        // runc's `delete` complains that the pod itself was never a container.
        let _said = self.shim.shutdown();
    }
}

/// Every number of a message, those that are zero too where their message is there.
fn flatten(message: &dyn MessageDyn, path: &str, into: &mut Numbers) {
    for field in message.descriptor_dyn().fields() {
        let path = format!("{path}{}", field.name());
        match field.get_reflect(message) {
            ReflectFieldRef::Optional(value) => match value.value() {
                Some(value) => put(&value, path, into),
                // A message that is not there says nothing; a number that is not is zero.
                None if is_message(&field) => {}
                None => put(&field.get_singular_field_or_default(message), path, into),
            },
            ReflectFieldRef::Repeated(values) => {
                for (at, value) in values.into_iter().enumerate() {
                    let name = if let ReflectValueRef::Message(entry) = &value {
                        name(&**entry)
                    } else {
                        at.to_string()
                    };
                    put(&value, format!("{path}[{name}]"), into);
                }
            }
            ReflectFieldRef::Map(_) => panic!("{path} is a map"),
        }
    }
}

fn is_message(field: &FieldDescriptor) -> bool {
    matches!(
        field.runtime_field_type(),
        RuntimeFieldType::Singular(RuntimeType::Message(_))
    )
}

fn put(value: &ReflectValueRef<'_>, path: String, into: &mut Numbers) {
    let number = if let ReflectValueRef::Message(message) = value {
        return flatten(&**message, &format!("{path}."), into);
    } else if let ReflectValueRef::U64(number) = value {
        i128::from(*number)
    } else if let ReflectValueRef::U32(number) = value {
        i128::from(*number)
    } else if let ReflectValueRef::F64(number) = value {
        // A share of time in per cent, of which the kernel writes two decimals.
        hundredths(&format!("{number:.2}"))
    } else {
        return assert!(matches!(value, ReflectValueRef::String(_)), "{path}");
    };
    into.insert(path, number);
}

/// What names an entry of a list: its texts, and the numbers of its device.
fn name(entry: &dyn MessageDyn) -> String {
    let mut words = Vec::new();
    for field in entry.descriptor_dyn().fields() {
        let ReflectFieldRef::Optional(value) = field.get_reflect(entry) else {
            continue;
        };
        if let Some(ReflectValueRef::String(text)) = value.value() {
            words.push(text.to_owned());
        } else if matches!(field.name(), "major" | "minor") {
            words.push(field.get_singular_field_or_default(entry).to_string());
        }
    }
    words.join(" ")
}

fn hundredths(text: &str) -> i128 {
    text.replace('.', "").parse().expect("it has two decimals")
}

/// What the kernel says of a cgroup, in the fields and units of containerd's messages.
fn kernel(cgroup: &str) -> Numbers {
    let below = cgroup.trim_start_matches('/');
    let mut numbers = Numbers::new();
    for hierarchy in probe::hierarchies() {
        let dir = hierarchy.join(below);
        let name = hierarchy.file_name().unwrap_or_default().to_string_lossy();
        if probe::is_v2() {
            second::read(&Files(dir), &mut numbers);
        } else {
            for controller in name.split(',') {
                first::read(controller, &Files(dir.clone()), &mut numbers);
            }
        }
    }
    numbers
}

/// The files of a cgroup.
struct Files(PathBuf);

impl Files {
    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }

    /// The one number of a file; `max` is `most`.
    fn number(&self, name: &str, most: u64) -> Option<i128> {
        match self.text(name)?.trim() {
            "max" => Some(i128::from(most)),
            number => number.parse().ok(),
        }
    }

    /// The numbers of lines `name number`.
    fn lines(&self, name: &str) -> BTreeMap<String, i128> {
        let text = self.text(name).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
            .collect()
    }

    /// The sizes of huge pages that are counted.
    fn sizes(&self, file: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| {
                let size = name
                    .strip_prefix("hugetlb.")?
                    .strip_suffix(file)?
                    .to_owned();
                (!size.contains('.')).then_some(size)
            })
            .collect()
    }
}

/// The hierarchies of v1.
mod first {
    use super::{Files, Numbers, TICK, fs};

    pub(super) fn read(controller: &str, files: &Files, into: &mut Numbers) {
        let mut put = |field: String, number: Option<i128>| {
            if let Some(number) = number {
                into.insert(field, number);
            }
        };
        match controller {
            "pids" => {
                put("pids.current".to_owned(), files.number("pids.current", 0));
                // containerd's metrics say 0 for `max` here, unlike on v2.
                put("pids.limit".to_owned(), files.number("pids.max", 0));
            }
            "cpuacct" => {
                put(
                    "cpu.usage.total".to_owned(),
                    files.number("cpuacct.usage", 0),
                );
                let stat = files.lines("cpuacct.stat");
                for (field, name) in [("user", "user"), ("kernel", "system")] {
                    let ticks = stat.get(name).map(|ticks| ticks * TICK);
                    put(format!("cpu.usage.{field}"), ticks);
                }
                let each = files.text("cpuacct.usage_percpu").unwrap_or_default();
                for (at, number) in each.split_whitespace().enumerate() {
                    put(format!("cpu.usage.per_cpu[{at}]"), number.parse().ok());
                }
            }
            "cpu" => {
                let stat = files.lines("cpu.stat");
                for (field, name) in [
                    ("periods", "nr_periods"),
                    ("throttled_periods", "nr_throttled"),
                    ("throttled_time", "throttled_time"),
                ] {
                    put(format!("cpu.throttling.{field}"), stat.get(name).copied());
                }
            }
            "memory" => {
                for (name, number) in files.lines("memory.stat") {
                    let field = match name.as_str() {
                        "hierarchical_memsw_limit" => "hierarchical_swap_limit".to_owned(),
                        other => other
                            .replace("pgpg", "pg_pg_")
                            .replace("pgfault", "pg_fault")
                            .replace("pgmajfault", "pg_maj_fault"),
                    };
                    put(format!("memory.{field}"), Some(number));
                }
                // Without swap the kernel has no line for it, and the message no way to say so.
                let swap = files.lines("memory.stat");
                if !swap.contains_key("hierarchical_memsw_limit") {
                    put("memory.hierarchical_swap_limit".to_owned(), Some(0));
                }
                for (entry, prefix) in [
                    ("usage", "memory"),
                    ("swap", "memory.memsw"),
                    ("kernel", "memory.kmem"),
                    ("kernel_tcp", "memory.kmem.tcp"),
                ] {
                    for (field, file) in [
                        ("usage", "usage_in_bytes"),
                        ("limit", "limit_in_bytes"),
                        ("max", "max_usage_in_bytes"),
                        ("failcnt", "failcnt"),
                    ] {
                        let number = files.number(&format!("{prefix}.{file}"), 0);
                        put(format!("memory.{entry}.{field}"), number);
                    }
                }
                for (name, number) in files.lines("memory.oom_control") {
                    put(format!("memory_oom_control.{name}"), Some(number));
                }
            }
            "hugetlb" => {
                for size in files.sizes(".limit_in_bytes") {
                    for (field, file) in [
                        ("usage", "usage_in_bytes"),
                        ("max", "max_usage_in_bytes"),
                        ("failcnt", "failcnt"),
                    ] {
                        let number = files.number(&format!("hugetlb.{size}.{file}"), 0);
                        put(format!("hugetlb[{size}].{field}"), number);
                    }
                }
            }
            "blkio" => {
                let disks = fs::read_to_string("/proc/diskstats").unwrap_or_default();
                for list in ["io_service_bytes", "io_serviced"] {
                    let text = files.text(&format!("blkio.throttle.{list}"));
                    for line in text.unwrap_or_default().lines() {
                        let words: Vec<_> = line.split([' ', ':']).collect();
                        let [major, minor, op, number] = words[..] else {
                            continue;
                        };
                        let disk = disk(&disks, major, minor);
                        let entry = format!("{op} {disk} {major} {minor}");
                        let field = format!("blkio.{list}_recursive[{entry}]");
                        put(format!("{field}.major"), major.parse().ok());
                        put(format!("{field}.minor"), minor.parse().ok());
                        put(format!("{field}.value"), number.parse().ok());
                    }
                }
            }
            _ => {}
        }
    }

    fn disk(disks: &str, major: &str, minor: &str) -> String {
        let line = disks.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let own = words.next() == Some(major) && words.next() == Some(minor);
            own.then(|| words.next()).flatten()
        });
        line.map_or_else(String::new, |name| format!("/dev/{name}"))
    }
}

/// The tree of v2.
mod second {
    use super::{Files, Numbers, hundredths};

    /// What the message has one field for, and the kernel two lines since 5.9.
    const HALVES: [&str; 2] = ["refault", "activate"];

    pub(super) fn read(files: &Files, into: &mut Numbers) {
        let mut put = |field: String, number: Option<i128>| {
            if let Some(number) = number {
                into.insert(field, number);
            }
        };
        put("pids.current".to_owned(), files.number("pids.current", 0));
        put("pids.limit".to_owned(), files.number("pids.max", u64::MAX));
        for (file, message) in [("cpu", "cpu"), ("memory", "memory")] {
            for (name, number) in files.lines(&format!("{file}.stat")) {
                put(format!("{message}.{name}"), Some(number));
            }
        }
        let stat = files.lines("memory.stat");
        for half in HALVES {
            let of = |kind: &str| stat.get(&format!("workingset_{half}_{kind}"));
            let whole = of("anon").zip(of("file")).map(|(anon, file)| anon + file);
            put(format!("memory.workingset_{half}"), whole);
        }
        for (field, file) in [
            ("usage", "memory.current"),
            ("usage_limit", "memory.max"),
            ("swap_usage", "memory.swap.current"),
            ("swap_limit", "memory.swap.max"),
            ("max_usage", "memory.peak"),
            ("swap_max_usage", "memory.swap.peak"),
        ] {
            // The message has no way to say that this kernel lacks the file.
            let number = files.number(file, u64::MAX).unwrap_or_default();
            put(format!("memory.{field}"), Some(number));
        }
        for name in ["thp_fault_alloc", "thp_collapse_alloc", "anon_thp"] {
            if !stat.contains_key(name) {
                put(format!("memory.{name}"), Some(0));
            }
        }
        for (name, number) in files.lines("memory.events") {
            put(format!("memory_events.{name}"), Some(number));
        }
        for resource in ["cpu", "memory", "io"] {
            let text = files.text(&format!("{resource}.pressure"));
            for line in text.unwrap_or_default().lines() {
                let mut words = line.split(' ');
                let kind = words.next().unwrap_or_default();
                for (name, number) in words.filter_map(|word| word.split_once('=')) {
                    let number = match name {
                        "total" => number.parse().ok(),
                        _ => Some(hundredths(number)),
                    };
                    put(format!("{resource}.psi.{kind}.{name}"), number);
                }
            }
        }
        for line in files.text("io.stat").unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let device = words.next().unwrap_or_default();
            let Some((major, minor)) = device.split_once(':') else {
                continue;
            };
            let entry = format!("io.usage[{major} {minor}]");
            put(format!("{entry}.major"), major.parse().ok());
            put(format!("{entry}.minor"), minor.parse().ok());
            for field in ["rbytes", "wbytes", "rios", "wios"] {
                put(format!("{entry}.{field}"), Some(0));
            }
            for (name, number) in words.filter_map(|word| word.split_once('=')) {
                put(format!("{entry}.{name}"), number.parse().ok());
            }
        }
        for size in files.sizes(".max") {
            for (field, file) in [("current", "current"), ("max", "max")] {
                let number = files.number(&format!("hugetlb.{size}.{file}"), u64::MAX);
                put(format!("hugetlb[{size}].{field}"), number);
            }
            let events = files.lines(&format!("hugetlb.{size}.events"));
            put(
                format!("hugetlb[{size}].failcnt"),
                events.get("max").copied(),
            );
        }
    }
}
