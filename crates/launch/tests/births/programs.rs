//! How the program and its working directory are found.

use std::fs;

use duet_linux::process;
use duet_step::{Capabilities, Step};
use serde_json::json;

use crate::stage::stage;

#[test]
fn a_filter_that_hides_the_search_does_not_hide_the_program() {
    stage(|stage| {
        for errno in [1, 38] {
            let mut spec = stage.spec(["true"]);
            spec["process"]["env"] = json!(["PATH=/nowhere:/etc/hosts:/bin"]);
            spec["process"]["noNewPrivileges"] = json!(false);
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["openat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]
            });
            assert_eq!(stage.run(&spec).code, 0);
            // Nobody could look, so Start says it.
            spec["process"]["args"] = json!(["nope"]);
            let text = stage.live(&stage.plan(&spec)).unwrap_err().to_string();
            assert!(text.contains("file not found in $PATH"), "{text}");
        }
    });
}

#[test]
fn a_filter_that_kills_who_looks_for_the_program_kills_nobody() {
    const LOOKING: [&str; 3] = ["openat2", "fstatfs", "faccessat2"];
    stage(|stage| {
        let names: Vec<_> = syscalls::Sysno::iter()
            .map(|number| number.name())
            .filter(|name| !LOOKING.contains(name))
            .collect();
        let mut spec = stage.spec(["true"]);
        spec["process"]["env"] = json!(["PATH=/nowhere:/bin"]);
        spec["process"]["noNewPrivileges"] = json!(false);
        for profile in [
            json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
                   "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                   "syscalls": [{"names": LOOKING, "action": "SCMP_ACT_KILL"}]}),
            // With other arguments the default acts.
            json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
                   "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"},
                                {"names": LOOKING, "action": "SCMP_ACT_ALLOW",
                                 "args": [{"index": 0, "value": 0x7fff_0000, "op": "SCMP_CMP_EQ"}]}]}),
        ] {
            spec["linux"]["seccomp"] = profile;
            assert_eq!(stage.run(&spec).code, 0, "{spec}");
            let mut missing = spec.clone();
            missing["process"]["args"] = json!(["nope"]);
            let text = stage.live(&stage.plan(&missing)).unwrap_err().to_string();
            assert!(text.contains("file not found in $PATH"), "{text}");
        }
    });
}

#[test]
fn a_script_without_its_interpreter_says_so() {
    stage(|stage| {
        let script = stage.root().join("bin/script");
        fs::write(&script, "#!/bin/nope\n").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(script, executable).unwrap();
        let plan = stage.plan(&stage.spec(["script"]));
        let text = stage.live(&plan).unwrap_err().to_string();
        assert!(text.contains("the interpreter or loader"), "{text}");
    });
}

#[test]
fn a_working_directory_that_only_its_user_may_enter_is_entered_by_the_user() {
    stage(|stage| {
        let own = stage.root().join("own");
        fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(1000), Some(1000)).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(own, private).unwrap();
        let live = |uid: u32| {
            let mut spec = stage.spec(["pwd"]);
            spec["process"]["cwd"] = json!("/own");
            spec["process"]["user"] = json!({"uid": uid, "gid": uid});
            spec["process"]["capabilities"] = json!({});
            let mut plan = stage.plan(&spec);
            let chdir = |step: &Step| matches!(step, Step::Chdir(_));
            let chdir = plan.steps.iter().position(chdir).unwrap();
            // As on a network file system, where root is nobody: without CAP_DAC_OVERRIDE and
            // CAP_DAC_READ_SEARCH.
            let held = process::permitted_capabilities().unwrap() & !0b110;
            let nobody = Capabilities {
                effective: held,
                permitted: held,
                ..Capabilities::default()
            };
            plan.steps.insert(chdir, Step::Capabilities(nobody));
            stage.live(&plan)
        };
        assert_eq!(live(1000).unwrap().out, "/own\n");
        let text = live(1001).unwrap_err().to_string();
        assert!(
            text.contains("/own: permission denied (EACCES, chdir"),
            "{text}"
        );
    });
}
