//! What the plans of hooks and of the host's programs promise.

use crate::{
    invariants,
    promises::{edited, has, lines, native},
    support::{facts, spec},
};
use duet_plan::{Helper, Plan, Program, container, hook};
use duet_spec::Moment;

#[test]
fn hooks_find_every_mount_and_nothing_read_only() {
    let hooks = |moment: &str| {
        edited("ctr-default.json", |document| {
            document["root"]["readonly"] = true.into();
            document["hooks"][moment] = serde_json::json!([{ "path": "/hook" }]);
        })
    };
    for moment in ["prestart", "createRuntime", "createContainer"] {
        for kind in [Program::Native, Program::Wasm] {
            let spec = hooks(moment);
            let plan = container(&spec, &facts(&spec), kind).unwrap();
            invariants::check(&plan);
            let at = |wanted: &str| lines(&plan).iter().position(|line| line == wanted).unwrap();
            let mounts = lines(&plan);
            let last = mounts
                .iter()
                .rposition(|line| line.starts_with("mount "))
                .unwrap();
            assert!(last < at("pause"), "{}", plan.show());
            assert!(at("pause") < at("read-only root"));
            assert!(at("read-only root") < at("pivot"));
        }
    }
    for moment in ["startContainer", "poststart", "poststop"] {
        let plan = native(&hooks(moment)).unwrap();
        assert!(lines(&plan).iter().all(|line| line != "pause"));
    }
}

#[test]
fn a_hook_in_the_container_may_do_what_the_container_may() {
    let spec = edited("ctr-default.json", |document| {
        let hook =
            serde_json::json!({ "path": "/bin/hook", "args": ["called", "so"], "env": ["A=1"] });
        document["hooks"]["startContainer"] = serde_json::json!([hook]);
    });
    let facts = facts(&spec);
    let [asked] = spec.hooks.at(Moment::StartContainer) else {
        panic!("one hook")
    };
    let plan = hook(asked, &spec, &facts).unwrap();
    invariants::check(&plan);
    has(&plan, "find /bin/hook");
    assert_eq!(plan.texts(plan.argv), ["called", "so"]);
    let own = native(&spec).unwrap();
    let bounding = |plan: &Plan| lines(plan).into_iter().find(|l| l.starts_with("bounding "));
    assert!(bounding(&plan).is_some() && bounding(&plan) == bounding(&own));
}

#[test]
fn a_helper_of_the_hosts_has_its_descriptors_and_no_others() {
    let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (args, env) = (strings(&["logger", "--x"]), strings(&["CONTAINER_ID=web"]));
    let helper = Helper {
        path: "/bin/logger",
        args: &args,
        env: &env,
        cwd: "/srv",
        descriptors: &[3, 4, 5],
    };
    let steps = [
        "new session",
        "chdir /",
        "open / as Root",
        "/dev/null on 0",
        "/dev/null on 1",
        "/dev/null on 2",
        "Passed(0) on 3",
        "Passed(1) on 4",
        "Passed(2) on 5",
        "umask 022",
        "chdir /srv",
        "find /bin/logger",
        "close from 6 on exec",
        "ready",
        "gate",
        "exec",
    ];
    let plan = helper.plan().unwrap();
    assert!(plan.show().starts_with("birth: no new namespace\n"));
    assert!(lines(&plan).ends_with(&strings(&steps)), "{}", plan.show());
    assert_eq!(plan.texts(plan.argv), ["logger", "--x"]);

    let spec = spec("ctr-default.json");
    let inside = helper.plan_in(&spec, &facts(&spec)).unwrap();
    assert!(lines(&inside).ends_with(&strings(&steps)));
    assert!(inside.pid_namespace.is_some());
}
