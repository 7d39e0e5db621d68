//! A folder stands for resctrl, which few machines have: in it no file comes with a class, and none goes.

use std::fs;
use std::path::{Path, PathBuf};

use duet_spec::{IntelRdt, Schema};

use super::lock::Lock;
use super::{Class, matches};
use crate::error::Error;

const L3: &str = "linux.intelRdt.l3CacheSchema";

/// What resctrl has on a machine that can control the L3 cache and the memory's bandwidth, with a class
/// `gold`.
fn resctrl() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "info/L3",
        "info/MB",
        "info/L3_MON",
        "mon_groups",
        "gold/mon_groups",
    ] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for (name, text) in [
        ("info/L3/num_closids", "16\n"),
        ("info/MB/num_closids", "8\n"),
        ("info/MB/bandwidth_gran", "10\n"),
        ("info/last_cmd_status", "ok\n"),
        ("schemata", "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n"),
        ("tasks", ""),
        ("gold/schemata", "    L3:0=07f;1=7ff\n    MB:0= 30;1=100\n"),
        ("gold/tasks", ""),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn asked(class: Option<&str>, lines: &[&str]) -> IntelRdt {
    let schema = |line: &&str| Schema {
        field: L3,
        line: (*line).to_owned(),
    };
    IntelRdt {
        class: class.map(str::to_owned),
        schemata: lines.iter().map(schema).collect(),
        monitoring: None,
    }
}

fn class(asked: &IntelRdt, root: &Path) -> Result<Class, Error> {
    Class::of(asked, "web", Some(root.to_owned()))
}

fn refusal(asked: &IntelRdt, root: Option<&Path>) -> String {
    let class = Class::of(asked, "web", root.map(Path::to_owned));
    class.unwrap_err().to_string()
}

/// Whether nothing was made in it.
fn untouched(root: &Path) -> bool {
    let made = ["web", "silver", "gold/mon_groups/web", "mon_groups/web"];
    made.iter().all(|name| !root.join(name).exists())
}

#[test]
fn a_class_of_the_containers_own_comes_and_goes_with_it() {
    let dir = resctrl();
    let own = dir.path().join("web");
    let class = class(&asked(None, &["L3:0=f", "MB:0=20"]), dir.path()).unwrap();
    assert!(untouched(dir.path()));
    assert_eq!(class.entrances(), [own.join("tasks")]);
    assert_eq!(class.leaves(), [&*own]);
    class.make().unwrap();
    let schemata = own.join("schemata");
    assert_eq!(fs::read_to_string(&schemata).unwrap(), "L3:0=f\nMB:0=20\n");
    // Which resctrl would have done.
    fs::remove_file(schemata).unwrap();
    class.remove().unwrap();
    assert!(untouched(dir.path()));
    class.remove().unwrap();
}

#[test]
fn a_class_with_a_name_is_made_once_and_stays() {
    let dir = resctrl();
    let silver = asked(Some("silver"), &["L3:0=f"]);
    let first = class(&silver, dir.path()).unwrap();
    first.make().unwrap();
    assert_eq!(first.leaves(), [] as [PathBuf; 0]);
    let schemata = dir.path().join("silver/schemata");
    assert_eq!(fs::read_to_string(&schemata).unwrap(), "L3:0=f\n");
    drop(first);
    // As the kernel shows it; the second one matches, and writes nothing.
    fs::write(&schemata, "    L3:0=00f;1=7ff\n").unwrap();
    let second = class(&silver, dir.path()).unwrap();
    second.make().unwrap();
    drop(second);
    assert_eq!(
        fs::read_to_string(&schemata).unwrap(),
        "    L3:0=00f;1=7ff\n"
    );
}

/// How many descriptors of this process are of that directory.
fn descriptors_of(dir: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let links = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link == dir).count()
}

#[test]
fn two_pods_that_ask_for_a_class_at_once_do_not_write_over_each_others() {
    let dir = resctrl();
    let schemata = dir.path().join("silver/schemata");
    let silver = |line| class(&asked(Some("silver"), &[line]), dir.path()).unwrap();
    // All of them have found that there is none.
    let (first, same, other) = (silver("L3:0=f"), silver("L3:0=0f"), silver("L3:0=ff"));
    first.make().unwrap();
    same.make().unwrap();
    assert_eq!(
        other.make().unwrap_err().to_string(),
        "linux.intelRdt.l3CacheSchema \"L3:0=ff\": the class is there and has something else"
    );
    drop((first, same, other));
    assert_eq!(fs::read_to_string(&schemata).unwrap(), "L3:0=f\n");
}

#[test]
fn a_class_that_another_pod_is_making_is_compared_when_it_is_whole() {
    let dir = resctrl();
    let lock = Lock::exclusive(dir.path()).unwrap();
    let silver = dir.path().join("silver");
    fs::create_dir(&silver).unwrap();
    fs::copy(dir.path().join("schemata"), silver.join("schemata")).unwrap();
    let asks = std::thread::spawn({
        let root = dir.path().to_owned();
        move || class(&asked(Some("silver"), &["L3:0=f"]), &root)
    });
    // Until it has come to the lock.
    while descriptors_of(dir.path()) < 2 && !asks.is_finished() {
        std::thread::yield_now();
    }
    fs::write(silver.join("schemata"), "    L3:0=00f;1=7ff\n").unwrap();
    drop(lock);
    asks.join().unwrap().unwrap();
}

#[test]
fn a_class_that_somebody_else_has_made_meanwhile_is_not_removed() {
    let dir = resctrl();
    let own = dir.path().join("web");
    let class = class(&asked(None, &["L3:0=f"]), dir.path()).unwrap();
    fs::create_dir(&own).unwrap();
    let error = class.make().unwrap_err().to_string();
    assert!(error.contains("make the class"), "{error}");
    drop(class);
    assert!(own.is_dir());
    assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
}

#[test]
fn a_container_is_monitored_by_a_group_of_its_own() {
    let dir = resctrl();
    for (name, at) in [(Some("gold"), "gold"), (Some("/"), "")] {
        let monitored = IntelRdt {
            monitoring: Some("linux.intelRdt.enableMonitoring"),
            ..asked(name, &[])
        };
        let class = class(&monitored, dir.path()).unwrap();
        let at = dir.path().join(at);
        let group = at.join("mon_groups/web");
        assert_eq!(class.entrances(), [at.join("tasks"), group.join("tasks")]);
        class.make().unwrap();
        assert!(group.is_dir());
        // No file comes with a group here, as if somebody had removed it.
        assert_eq!(class.entrances_left(), [at.join("tasks")]);
        drop(class);
        assert!(untouched(dir.path()) && at.is_dir());
    }
}

#[test]
fn what_has_the_containers_id_already_is_another_ones() {
    let dir = resctrl();
    let monitored = |class: Option<&str>| IntelRdt {
        monitoring: Some("linux.intelRdt.enableMonitoring"),
        ..asked(class, &[])
    };
    // Two of one id, of two namespaces of containerd, that have both found nothing.
    let [first, second] = [(); 2].map(|()| class(&monitored(Some("gold")), dir.path()).unwrap());
    first.make().unwrap();
    let error = second.make().unwrap_err().to_string();
    assert!(error.contains("make the monitoring group"), "{error}");
    drop(second);
    assert!(dir.path().join("gold/mon_groups/web").is_dir());
    // And one that comes later.
    assert_eq!(
        refusal(&monitored(Some("gold")), Some(dir.path())),
        "linux.intelRdt.enableMonitoring \"true\": the class has a monitoring group of the container's id already"
    );
    drop(first);
    assert!(untouched(dir.path()));

    // A class of its own in a folder has no place for groups: it goes again.
    let own = class(&monitored(None), dir.path()).unwrap();
    let error = own.make().unwrap_err().to_string();
    assert!(error.contains("make the monitoring group"), "{error}");
    assert!(untouched(dir.path()));

    let own = class(&asked(None, &[]), dir.path()).unwrap();
    own.make().unwrap();
    assert_eq!(
        refusal(&asked(None, &[]), Some(dir.path())),
        "linux.intelRdt \"web\": there is a class of the container's id already"
    );
    drop(own);
    assert!(untouched(dir.path()));
}

#[test]
fn what_resctrl_cannot_do_is_refused_before_anything_is_made() {
    let dir = resctrl();
    let root = Some(dir.path());
    let monitored = IntelRdt {
        monitoring: Some("linux.intelRdt.enableCMT"),
        ..asked(None, &[])
    };
    for (asked, root, expected) in [
        (
            asked(Some("gold"), &[]),
            None,
            "linux.intelRdt.closID \"gold\": no resctrl is mounted on this host",
        ),
        (
            asked(None, &["L3:0=f"]),
            None,
            "linux.intelRdt.l3CacheSchema \"L3:0=f\": no resctrl is mounted on this host",
        ),
        (
            monitored.clone(),
            None,
            "linux.intelRdt.enableCMT \"true\": no resctrl is mounted on this host",
        ),
        (
            asked(Some("silver"), &[]),
            root,
            "linux.intelRdt.closID \"silver\": there is no such class, and no schemata to make it with",
        ),
        (
            asked(None, &["L3CODE:0=f"]),
            root,
            "linux.intelRdt.l3CacheSchema \"L3CODE:0=f\": this host's resctrl does not control that",
        ),
        (
            asked(None, &["L3_MON:0=f"]),
            root,
            "linux.intelRdt.l3CacheSchema \"L3_MON:0=f\": this host's resctrl does not control that",
        ),
        (
            asked(None, &[":0=f"]),
            root,
            "linux.intelRdt.l3CacheSchema \":0=f\": this host's resctrl does not control that",
        ),
        (
            asked(Some("gold"), &["L3:0=f"]),
            root,
            "linux.intelRdt.l3CacheSchema \"L3:0=f\": the class is there and has something else",
        ),
        (
            asked(Some("/"), &["MB:0=50"]),
            root,
            "linux.intelRdt.l3CacheSchema \"MB:0=50\": the class is there and has something else",
        ),
    ] {
        assert_eq!(refusal(&asked, root), expected);
    }
    fs::remove_dir(dir.path().join("info/L3_MON")).unwrap();
    assert_eq!(
        refusal(&monitored, root),
        "linux.intelRdt.enableCMT \"true\": this host's resctrl monitors nothing"
    );
    assert!(untouched(dir.path()));
}

#[test]
fn schemata_that_the_kernel_refuses_leave_no_class_and_say_what_it_said() {
    let dir = resctrl();
    // A folder would take the file. A cgroup's is like resctrl's: nobody can make a file in it, and it has none
    // of this name.
    let cgroups = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
    let cgroups = cgroups
        .into_iter()
        .find(|dir| dir.join("cgroup.procs").exists());
    let Some(cgroups) = cgroups.filter(|_| rustix::process::geteuid().is_root()) else {
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "needs root and cgroups"
        );
        eprintln!("skipped: needs root and cgroups");
        return;
    };
    let place = cgroups.join(format!("duet-resctrl-{}", std::process::id()));
    let mut class = class(&asked(None, &["L3:0=5"]), dir.path()).unwrap();
    class.dir.clone_from(&place);
    fs::write(
        dir.path().join("info/last_cmd_status"),
        "mask is not contiguous\n",
    )
    .unwrap();
    let error = class.make().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "linux.intelRdt \"L3:0=5\": write the schemata, {}; resctrl says: mask is not contiguous",
            place.display()
        )
    );
    assert!(!place.exists());
}

#[test]
fn a_line_is_what_a_class_has_whatever_it_looks_like() {
    let has = "    L3:0=07f;1=7ff\n    MB:0= 30;1=100\n";
    for (line, matches_it) in [
        ("L3:0=7F", true),
        ("L3:1=7ff;0=0x7f", true),
        ("L3:0=7e", false),
        ("L3:2=7f", false),
        ("L3:0=7f;1=3", false),
        ("L2:0=7f", false),
        ("MB:0=30", true),
        ("MB:0=21", true),
        ("MB:0=31", false),
        ("MB:0=18446744073709551615", false),
        ("MB:0=x", false),
        ("L3", false),
        ("L3:", false),
    ] {
        assert_eq!(matches(line, has, Some(10)), matches_it, "{line}");
    }
    assert!(!matches("MB:0=21", has, None));
    // Under mba_MBps what was written is there as it was.
    let has = "    MB:0=1234;1=2000\n";
    assert!(matches("MB:0=1234;1=2000", has, Some(10)));
    assert!(!matches("MB:0=1235", has, Some(10)));
}
