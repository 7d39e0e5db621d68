//! What each kind of plan promises.

use crate::{
    invariants,
    support::{facts, process, spec},
};
use duet_plan::{
    Descriptor, Error, Facts, Given, Kinds, Plan, Program, SourceKind, container, environment,
    exec, guest_environment,
};
use duet_spec::{Container, Namespace};
use duet_step::{Op, Step};
use std::path::Path;

pub(crate) fn edited(name: &str, edit: impl FnOnce(&mut serde_json::Value)) -> Container {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../spec/tests/fixtures")
        .join(name);
    let mut document = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    edit(&mut document);
    Container::parse(Path::new("/run/bundle"), document.to_string().as_bytes()).unwrap()
}

pub(crate) fn native(spec: &Container) -> Result<Plan, Error> {
    let plan = container(spec, &facts(spec), Program::Native)?;
    invariants::check(&plan);
    Ok(plan)
}

pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    plan.show()
        .lines()
        .map(|line| line.chars().skip(4).collect())
        .collect()
}

#[track_caller]
pub(crate) fn has(plan: &Plan, line: &str) {
    assert!(
        lines(plan).iter().any(|known| known == line),
        "no {line:?} in\n{}",
        plan.show()
    );
}

#[test]
fn a_missing_source_is_named() {
    let spec = spec("cri-default.json");
    for kind in [Program::Native, Program::Wasm] {
        let mut facts = facts(&spec);
        facts.sources.remove(Path::new("/pods/7/volumes/logs"));
        let error = container(&spec, &facts, kind).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mounts[11].source: /pods/7/volumes/logs: no such file or directory"
        );
    }
}

#[test]
fn the_mount_namespace_is_always_the_containers_own() {
    let spec = edited("ctr-default.json", |document| {
        let namespaces = document["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
    });
    assert!(matches!(native(&spec), Err(Error::MountNamespace)));
}

#[test]
fn a_sysctl_of_the_host_is_refused() {
    let cases = [
        (
            "net.core.somaxconn",
            "linux.sysctl.net/core/somaxconn: the container has no network namespace of its own",
        ),
        (
            "kernel.shmmax",
            "linux.sysctl.kernel/shmmax: the container has no IPC namespace of its own",
        ),
        (
            "vm.swappiness",
            "linux.sysctl.vm/swappiness: is not a parameter of a namespace: it would change the host",
        ),
        (
            "kernel.hostname",
            "linux.sysctl.kernel/hostname: is set by the field hostname",
        ),
    ];
    for (key, text) in cases {
        let spec = edited("ctr-default.json", |document| {
            document["linux"]["namespaces"] = serde_json::json!([{ "type": "mount" }]);
            document["linux"]["sysctl"] = serde_json::json!({ key: "1" });
        });
        assert_eq!(native(&spec).unwrap_err().to_string(), text);
    }
}

#[test]
fn a_host_name_needs_a_namespace() {
    let spec = edited("ctr-default.json", |document| {
        document["hostname"] = "box".into();
        document["linux"]["namespaces"] = serde_json::json!([{ "type": "mount" }]);
    });
    let text = native(&spec).unwrap_err().to_string();
    assert_eq!(
        text,
        "hostname: box: the container has no UTS namespace of its own"
    );
}

#[test]
fn nothing_but_known_files_may_cover_procfs() {
    let with = |destination: &str| {
        edited("ctr-default.json", |document| {
            let mount = serde_json::json!({
                "destination": destination, "source": "/src/host", "options": ["bind"]
            });
            document["mounts"].as_array_mut().unwrap().push(mount);
        })
    };
    native(&with("/proc/uptime")).unwrap();
    native(&with("/process")).unwrap();
    for destination in [
        "/proc",
        "/proc/self/attr",
        "/proc/sys/kernel",
        "/x/../proc/self",
    ] {
        let spec = with(destination);
        let mut facts = facts(&spec);
        for found in facts.sources.values_mut() {
            found.kind = SourceKind::Directory;
        }
        let refused = container(&spec, &facts, Program::Native);
        assert!(
            matches!(refused, Err(Error::InsideProc { .. })),
            "{destination}"
        );
    }
}

#[test]
fn without_a_dev_mount_the_images_directory_gets_the_nodes() {
    let spec = edited("ctr-default.json", |document| {
        let mounts = document["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    let plan = native(&spec).unwrap();
    has(&plan, "make directory /dev 0:0");
    has(&plan, "open /dev as Dev");
    has(&plan, "make node null in Dev 20666 1:3 0:0");
}

#[test]
fn nothing_is_made_in_a_dev_of_the_host() {
    for mount in [
        serde_json::json!({ "destination": "/dev", "source": "/dev", "options": ["rbind"] }),
        serde_json::json!({ "destination": "/dev", "type": "devtmpfs" }),
    ] {
        let spec = edited("ctr-terminal.json", |document| {
            let mounts = document["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
            mounts.push(mount);
        });
        let plan = native(&spec).unwrap();
        has(&plan, "open /dev as Dev");
        has(&plan, "open /dev/pts as Pts");
        let made = |step: &Step| matches!(step, Step::Node(_) | Step::Symlink(..));
        assert!(!plan.steps.iter().any(made), "{}", plan.show());
    }
}

#[test]
fn a_shared_root_is_shared_only_when_it_is_the_root() {
    let plan = native(&spec("cri-privileged.json")).unwrap();
    let lines = lines(&plan);
    let place = |line: &str| {
        lines
            .iter()
            .position(|known| known.starts_with(line))
            .unwrap()
    };
    assert!(place("propagation rslave") < place("attach root"));
    assert!(place("pivot") < place("propagation shared"));
    has(
        &plan,
        "mount /var/lib/kubelet from /var/lib/kubelet/... rshared",
    );
}

#[test]
fn of_a_bind_without_a_propagation_runcs_default_holds() {
    let with = |propagation: Option<&str>| {
        let spec = edited("ctr-default.json", |document| {
            let mount = serde_json::json!({
                "destination": "/data", "source": "/src", "options": ["rbind", "ro", "noatime"]
            });
            document["mounts"].as_array_mut().unwrap().push(mount);
            document["linux"]["rootfsPropagation"] = propagation.into();
        });
        native(&spec).unwrap()
    };
    has(
        &with(None),
        "mount /data from /src/... +ro +noatime -atime rslave",
    );
    has(
        &with(Some("rprivate")),
        "mount /data from /src/... +ro +noatime -atime rprivate",
    );
    has(
        &with(Some("rshared")),
        "mount /data from /src/... +ro +noatime -atime",
    );
}

#[test]
fn a_shared_bind_is_the_hosts_peer_only_under_a_shared_root() {
    let with = |root: Option<&str>, option: &str| {
        let spec = edited("ctr-default.json", |document| {
            let mount = serde_json::json!({
                "destination": "/data", "source": "/src", "options": ["rbind", option]
            });
            document["mounts"].as_array_mut().unwrap().push(mount);
            document["linux"]["rootfsPropagation"] = root.into();
        });
        native(&spec).unwrap()
    };
    let bind = "mount /data from /src/...";
    has(&with(None, "rshared"), &format!("{bind} rslave rshared"));
    has(
        &with(Some("rprivate"), "shared"),
        &format!("{bind} rprivate shared"),
    );
    has(
        &with(Some("rshared"), "rshared"),
        &format!("{bind} rshared"),
    );
    has(
        &with(Some("rprivate"), "rslave"),
        &format!("{bind} rprivate"),
    );
    has(&with(None, "rslave"), &format!("{bind} rslave"));
}

#[test]
fn a_pids_namespace_by_path_is_entered_before_the_birth() {
    let plan = native(&spec("cri-privileged.json")).unwrap();
    let slot = plan.pid_namespace.unwrap();
    let expected = Descriptor::Namespace {
        path: "/proc/1/ns/pid".into(),
        kind: libc::CLONE_NEWPID.cast_unsigned(),
    };
    assert_eq!(plan.slots[usize::from(slot.0)], expected);
    assert_eq!(plan.clone, u64::from(libc::CLONE_NEWNS.cast_unsigned()));
}

#[test]
fn an_exec_joins_what_the_container_has_of_its_own() {
    let mut spec = spec("cri-default.json");
    spec.namespaces.pid = Namespace::Host;
    let plan = exec(&process("exec.json"), &spec, &facts(&spec), Kinds::NATIVE).unwrap();
    invariants::check(&plan);
    assert_eq!(plan.clone, 0);
    assert_eq!(plan.pid_namespace, None);
    has(&plan, "join mount+network+ipc+uts namespace of InitPidfd");
    assert!(plan.slots.contains(&Descriptor::Given(Given::InitPidfd)));
}

#[test]
fn who_keeps_the_parents_keyring_joins_none() {
    let spec = spec("cri-default.json");
    for keyring in [None, Some("_ses.one".to_owned())] {
        let facts = Facts {
            keyring: keyring.clone(),
            ..facts(&spec)
        };
        let first = container(&spec, &facts, Program::Native).unwrap();
        let further = exec(&process("exec.json"), &spec, &facts, Kinds::NATIVE).unwrap();
        for plan in [first, further] {
            invariants::check(&plan);
            let joins = plan
                .steps
                .iter()
                .any(|step| matches!(step, Step::Keyring(_)));
            assert_eq!(joins, keyring.is_some());
        }
    }
}

#[test]
fn a_label_is_written_before_anything_is_given_up() {
    let labelled = |kind, confined| {
        let spec = edited("cri-default.json", |document| {
            document["process"]["apparmorProfile"] = "cri-containerd.apparmor.d".into();
            document["process"]["selinuxLabel"] = "a:b:c:s0".into();
        });
        let facts = Facts {
            apparmor: confined,
            selinux: confined,
            ..facts(&spec)
        };
        container(&spec, &facts, kind).map(|plan| (spec, facts, plan))
    };
    for kind in [Program::Native, Program::Wasm] {
        let (spec, facts, first) = labelled(kind, true).unwrap();
        let mut process = process("exec.json");
        let inherited = exec(&process, &spec, &facts, Kinds::NATIVE).unwrap();
        for plan in [&first, &inherited] {
            invariants::check(plan);
            has(
                plan,
                "label self/attr/apparmor/exec = exec cri-containerd.apparmor.d",
            );
            has(plan, "label self/attr/exec = a:b:c:s0");
            has(plan, "label self/attr/keycreate = a:b:c:s0");
        }
        process.apparmor_profile = Some("unconfined".to_owned());
        process.oom_score_adj = None;
        let own = exec(&process, &spec, &facts, Kinds::NATIVE).unwrap();
        invariants::check(&own);
        has(&own, "label self/attr/apparmor/exec = exec unconfined");

        let missing = labelled(kind, false).unwrap_err().to_string();
        assert_eq!(
            missing,
            "process.apparmorProfile: cri-containerd.apparmor.d: AppArmor is not enabled in this kernel"
        );
    }
}

#[test]
fn without_apparmor_unconfined_asks_for_nothing() {
    let spec = edited("ctr-default.json", |document| {
        document["process"]["apparmorProfile"] = "unconfined".into();
    });
    let plan = native(&spec).unwrap();
    assert!(!plan.show().contains("label"), "{}", plan.show());
    let spec = edited("ctr-default.json", |document| {
        document["process"]["selinuxLabel"] = "a:b:c:s0".into();
    });
    assert_eq!(
        native(&spec).unwrap_err().to_string(),
        "process.selinuxLabel: a:b:c:s0: SELinux is not enabled in this kernel"
    );
}

#[test]
fn a_profile_that_is_not_loaded_and_a_score_that_is_too_low_are_named() {
    let spec = edited("cri-default.json", |document| {
        document["process"]["apparmorProfile"] = "strict".into();
        document["process"]["oomScoreAdj"] = (-5).into();
    });
    let facts = Facts {
        apparmor: true,
        ..facts(&spec)
    };
    let plan = container(&spec, &facts, Program::Native).unwrap();
    let fails = |kind: &dyn Fn(&Step) -> bool, errno| {
        let step = plan.steps.iter().position(kind).unwrap();
        plan.describe(u32::try_from(step).unwrap(), Op::Write as u32, errno)
    };
    let text = fails(&|step| matches!(step, Step::Label(..)), libc::ENOENT);
    let start = "process.apparmorProfile: strict: no such profile is loaded (ENOENT, write, step ";
    assert!(text.starts_with(start), "{text}");
    let text = fails(&|step| matches!(step, Step::OomScoreAdj(_)), libc::EACCES);
    let start = "process.oomScoreAdj: -5: the shim lacks CAP_SYS_RESOURCE, which a score below \
                 its own needs (EACCES, write, step ";
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn capabilities_that_cannot_be_given_are_named() {
    // CAP_SYS_TIME and CAP_SYS_RESOURCE.
    let held = !(1 << 25 | 1 << 24);
    let spec = spec("cri-privileged.json");
    let facts = Facts {
        held,
        ..facts(&spec)
    };
    let error = container(&spec, &facts, Program::Native).unwrap_err();
    let text = "process.capabilities.permitted: CAP_SYS_RESOURCE CAP_SYS_TIME: not held by \
                containerd, and so not by the shim: see CapabilityBoundingSet in its unit";
    assert_eq!(error.to_string(), text);
    let mut process = process("exec.json");
    process.capabilities = None;
    let error = exec(&process, &spec, &facts, Kinds::NATIVE).unwrap_err();
    assert_eq!(error.to_string(), text);
    // What is not asked for need not be held.
    let spec = crate::support::spec("cri-default.json");
    let facts = Facts {
        held,
        ..crate::support::facts(&spec)
    };
    container(&spec, &facts, Program::Native).unwrap();
}

#[test]
fn an_exec_without_capabilities_has_its_containers() {
    let spec = spec("cri-restricted.json");
    let mut process = process("exec.json");
    process.capabilities = None;
    process.oom_score_adj = None;
    let plan = exec(&process, &spec, &facts(&spec), Kinds::NATIVE).unwrap();
    has(&plan, "bounding [net_bind_service]");
    has(&plan, "oom_score_adj -997");
    has(&plan, "limit nofile 1024 524288");
    has(&plan, "umask 027");
}

#[test]
fn capabilities_that_the_kernel_does_not_know_are_left_out() {
    let spec = spec("cri-privileged.json");
    let facts = Facts {
        last_capability: 37,
        ..facts(&spec)
    };
    let plan = container(&spec, &facts, Program::Native).unwrap();
    has(&plan, "bounding 0x3fffffffff");
}

#[test]
fn home_is_made_up_only_when_it_is_missing() {
    let mut process = process("exec.json");
    let home = |process: &_, home| environment(process, home).last().cloned().unwrap();
    assert_eq!(home(&process, Some("/root")), "HOME=/root");
    assert_eq!(home(&process, None), "HOME=/");
    process.env = vec!["HOME=".to_owned()];
    assert_eq!(environment(&process, Some("/h")), ["HOME=/h"]);
    process.env = vec!["HOME=/own".to_owned()];
    assert_eq!(environment(&process, Some("/h")), ["HOME=/own"]);
}

#[test]
fn a_guest_has_a_home_only_if_its_image_knows_one() {
    let mut process = process("exec.json");
    process.env = vec!["A=1".to_owned()];
    assert_eq!(guest_environment(&process, None), ["A=1"]);
    assert_eq!(guest_environment(&process, Some("/h")), ["A=1", "HOME=/h"]);
}

#[test]
fn a_program_is_looked_for_in_the_containers_path() {
    let with = |args: &[&str], env: &[&str]| {
        let mut spec = spec("ctr-default.json");
        spec.process.args = args.iter().map(ToString::to_string).collect();
        spec.process.env = env.iter().map(ToString::to_string).collect();
        native(&spec).unwrap()
    };
    has(&with(&["./run"], &[]), "find ./run");
    has(&with(&["run"], &["PATH=/a:.::/b/"]), "find /a/run /b/run");
    let usual = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    has(
        &with(&["run"], &[]),
        &format!("find {}", usual.map(|dir| format!("{dir}/run")).join(" ")),
    );
}

#[test]
fn a_failed_step_is_described() {
    let mut spec = spec("ctr-default.json");
    spec.process.args = vec!["nope".to_owned()];
    let plan = native(&spec).unwrap();
    let total = plan.steps.len();
    let number = |kind: &dyn Fn(&Step) -> bool| {
        u32::try_from(plan.steps.iter().position(kind).unwrap()).unwrap()
    };
    let mqueue = number(
        &|step| matches!(step, Step::Mount(mount) if plan.text(mount.target) == "/dev/mqueue"),
    );
    assert_eq!(
        plan.describe(mqueue, Op::Fsmount as u32, libc::EPERM),
        format!(
            "mount /dev/mqueue: operation not permitted (EPERM, fsmount, step {} of {total})",
            mqueue + 1
        )
    );
    assert_eq!(
        plan.describe(0, Op::Step as u32, 4095),
        format!(
            "join cgroup by /sys/fs/cgroup/memory/default/one/tasks: unknown errno (errno 4095, step 1 of {total})"
        )
    );
    let find = number(&|step| matches!(step, Step::FindProgram(_)));
    assert_eq!(
        plan.describe(find, Op::Access as u32, libc::ENOENT),
        format!(
            "exec: \"nope\": executable file not found in $PATH (ENOENT, access, step {} of {total}, \
             PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)",
            find + 1
        )
    );
    assert_eq!(
        plan.describe(find, Op::Access as u32, libc::EACCES),
        format!(
            "exec: \"nope\": permission denied (EACCES, access, step {} of {total})",
            find + 1
        )
    );
    let exec = number(&|step| matches!(step, Step::Exec(_)));
    assert_eq!(
        plan.describe(exec, Op::Execve as u32, libc::ENOENT),
        format!(
            "exec: \"nope\": no such file or directory: the interpreter or loader that it names \
             (ENOENT, execve, step {total} of {total})"
        )
    );
    assert!(
        plan.describe(exec, Op::Access as u32, libc::ENOENT)
            .contains("executable file not found in $PATH")
    );
    // Numbers from a confused child are no reason to panic.
    assert!(
        plan.describe(u32::MAX, u32::MAX, i32::MIN)
            .contains("after the last step")
    );
}
