//! What is done before a user namespace is entered, for want of the right to do it inside.

use crate::{
    promises::{edited, lines},
    support::{facts, process},
};
use duet_plan::{Facts, Kinds, Plan, Program, container, exec};
use duet_spec::Scheduler;

/// Gives a container a user namespace of its own.
pub(crate) fn given(document: &mut serde_json::Value) {
    let ids = serde_json::json!([{ "containerID": 0, "hostID": 65_536, "size": 65_536 }]);
    document["linux"]["uidMappings"] = ids.clone();
    document["linux"]["gidMappings"] = ids;
    let namespaces = document["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(serde_json::json!({ "type": "user" }));
}

#[test]
fn limits_above_the_shims_are_raised_before_the_user_namespace() {
    let spec = edited("cri-default.json", |document| {
        given(document);
        document["process"]["rlimits"] = serde_json::json!([
            { "type": "RLIMIT_NOFILE", "soft": 10, "hard": 5000 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 4096 },
        ]);
    });
    let facts = Facts {
        hard_limits: [(7, 4096), (4, 4096)].into(),
        ..facts(&spec)
    };
    let limits = |plan: &Plan| -> Vec<String> {
        let lines = lines(plan).into_iter();
        let told = |line: &String| line.starts_with("limit ") || line.starts_with("root of");
        lines.filter(told).collect()
    };
    let own = ["limit nofile 10 5000", "limit core 0 4096"];
    let all = |enters| [&["limit nofile 5000 5000", enters], &own[..]].concat();
    let plan = container(&spec, &facts, Program::Native).unwrap();
    assert_eq!(limits(&plan), all("root of the user namespace"));
    // An exec that asks for none has its container's.
    let mut process = process("exec.json");
    process.rlimits.clear();
    let plan = exec(&process, &spec, &facts, Kinds::NATIVE).unwrap();
    assert_eq!(limits(&plan), all("root of the user namespace"));
}

#[test]
fn mounts_are_locked_against_those_alone_who_could_change_them() {
    let locked = |set: Option<&str>, user_namespace: bool| {
        let spec = edited("cri-default.json", |document| {
            if user_namespace {
                given(document);
            }
            if let Some(set) = set {
                document["process"]["capabilities"] = serde_json::json!({set: ["CAP_SYS_ADMIN"]});
            }
        });
        let facts = Facts {
            held: u64::MAX,
            ..facts(&spec)
        };
        let plan = container(&spec, &facts, Program::Native).unwrap();
        lines(&plan).contains(&"lock mounts".to_owned())
    };
    assert!(!locked(None, true));
    for set in ["bounding", "permitted", "inheritable"] {
        assert!(locked(Some(set), true), "{set}");
        assert!(!locked(Some(set), false), "{set}");
    }
}

#[test]
fn an_exec_may_have_a_deadline_unless_it_forks() {
    let spec = edited("cri-default.json", given);
    let facts = facts(&spec);
    let mut process = process("exec.json");
    process.scheduler = Some(Scheduler {
        policy: Scheduler::DEADLINE,
        ..Scheduler::default()
    });
    exec(&process, &spec, &facts, Kinds::NATIVE).unwrap();
    let beside = Kinds {
        container: Program::Wasm,
        process: Program::Native,
    };
    let error = exec(&process, &spec, &facts, beside)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("process.scheduler.policy: SCHED_DEADLINE"),
        "{error}"
    );
}
