//! Random valid specs: every plan that is made keeps the invariants.

use crate::{
    invariants,
    support::{facts, facts_v2, process, spec, tree},
};
use duet_plan::{Facts, Filesystem, Kinds, PodNamespaces, Program, Stdio, container, exec};
use duet_spec::{Container, Namespace};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

fn namespace() -> impl Strategy<Value = Namespace> {
    prop_oneof![
        Just(Namespace::Host),
        Just(Namespace::New),
        "/proc/[0-9]{1,4}/ns/x".prop_map(|path| Namespace::Path(path.into())),
    ]
}

fn mount() -> impl Strategy<Value = Value> {
    let option = prop::sample::select(vec![
        "ro",
        "rw",
        "nosuid",
        "nodev",
        "noexec",
        "noatime",
        "strictatime",
        "rro",
        "rnosuid",
        "nodiratime",
        "defaults",
    ]);
    let destination = prop_oneof![
        Just("/dev".to_owned()),
        Just("/dev/pts".to_owned()),
        Just("/sys/fs/cgroup".to_owned()),
        "(/[a-c.]{1,3}){1,3}x",
    ];
    let kind = prop_oneof![
        Just(("tmpfs", "")),
        Just(("devpts", "")),
        Just(("cgroup", "")),
        Just(("devtmpfs", "")),
        Just(("bind", "/src/dir")),
        Just(("bind", "/src/file.x")),
    ];
    let propagation = prop::sample::select(vec![
        "defaults",
        "rprivate",
        "slave",
        "rshared",
        "unbindable",
    ]);
    (destination, kind, prop::collection::vec(option, 0..4), propagation).prop_map(
        |(destination, (fstype, source), mut options, propagation)| {
            options.push(propagation);
            let (r#type, source) = (fstype, source);
            json!({ "destination": destination, "type": r#type, "source": source, "options": options })
        },
    )
}

prop_compose! {
    fn container_and_facts()(
        base in prop::sample::select(vec![
            "ctr-default.json", "ctr-terminal.json", "cri-default.json", "cri-restricted.json",
            "cri-privileged.json",
        ]),
        mounts in prop::collection::vec(mount(), 0..6),
        keep in any::<bool>(),
        root in prop::sample::select(vec![
            "", "private", "rprivate", "rslave", "shared", "rshared", "unbindable",
        ]),
        (pid, network, ipc, uts, cgroup) in
            (namespace(), namespace(), namespace(), namespace(), namespace()),
        (terminal, nnp, v2, held, supplied) in any::<(bool, bool, bool, bool, bool)>(),
        user in namespace(),
        last_capability in 0_u32..70,
    ) -> (Container, Facts) {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/tests/fixtures").join(base);
        let mut document: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        if !keep {
            document["mounts"] = json!([]);
        }
        document["mounts"].as_array_mut().unwrap().extend(mounts);
        document["linux"]["rootfsPropagation"] = root.into();
        document["process"]["terminal"] = terminal.into();
        document["process"]["noNewPrivileges"] = nnp.into();
        document["hostname"] = if uts == Namespace::Host { "".into() } else { "name".into() };
        if user != Namespace::Host {
            let ids = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
            document["linux"]["uidMappings"] = ids.clone();
            document["linux"]["gidMappings"] = ids;
            document["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "type": "user" }));
        }
        let json = document.to_string();
        let mut spec = Container::parse(Path::new("/run/bundle"), json.as_bytes()).unwrap();
        spec.namespaces.user = user;
        spec.namespaces.pid = pid;
        spec.namespaces.network = network;
        spec.namespaces.ipc = ipc;
        spec.namespaces.uts = uts;
        spec.namespaces.cgroup = cgroup;
        let mut facts = if v2 { facts_v2(&spec) } else { facts(&spec) };
        facts.cgroup.awaited = nnp && spec.namespaces.user == Namespace::Host;
        let stdio = Stdio { stdin: supplied, stdout: !supplied, stderr: supplied };
        let pod = PodNamespaces { network: held, ipc: held, uts: held };
        (spec, Facts { stdio, pod, last_capability, ..facts })
    }
}

const KINDS: [(Program, Program); 4] = [
    (Program::Native, Program::Native),
    (Program::Native, Program::Wasm),
    (Program::Wasm, Program::Native),
    (Program::Wasm, Program::Wasm),
];

proptest! {
    #[test]
    fn every_native_plan_holds_together((spec, facts) in container_and_facts()) {
        match container(&spec, &facts, Program::Native) {
            Ok(plan) => invariants::check(&plan),
            Err(error) => {
                // Nodes that nobody can make there.
                prop_assert_ne!(spec.namespaces.user, Namespace::Host);
                prop_assert!(error.to_string().starts_with("linux.devices: "), "{}", error);
            }
        }
    }

    #[test]
    fn every_wasm_plan_holds_together_or_names_what_it_refuses(
        (spec, facts) in container_and_facts()
    ) {
        match container(&spec, &facts, Program::Wasm) {
            Ok(plan) => {
                invariants::check(&plan);
                let shown = plan.show();
                for fstype in ["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devtmpfs"] {
                    prop_assert!(!shown.contains(&format!(" {fstype} {fstype} [")), "{}", shown);
                    prop_assert_ne!(Filesystem::from_name(fstype), Filesystem::Other);
                }
            }
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.starts_with("mounts[") || text.starts_with("linux.devices"), "{}", text);
            }
        }
    }

    #[test]
    fn every_exec_plan_holds_together((spec, facts) in container_and_facts()) {
        let facts = Facts { tree: tree(), ..facts };
        for name in ["exec.json", "exec-terminal.json"] {
            for (inside, beside) in KINDS {
                let kinds = Kinds { container: inside, process: beside };
                invariants::check(&exec(&process(name), &spec, &facts, kinds).unwrap());
            }
        }
    }

    #[test]
    fn describing_never_panics(step in any::<u32>(), op in any::<u32>(), errno in any::<i32>()) {
        let spec = spec("ctr-default.json");
        let plan = container(&spec, &facts(&spec), Program::Native).unwrap();
        prop_assert!(!plan.describe(step % 80, op % 40, errno).is_empty());
    }
}
