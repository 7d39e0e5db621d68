//! A seccomp filter that the kernel refuses.

use std::panic::resume_unwind;
use std::thread;

use duet_linux::filter::Insn;
use duet_linux::seccomp::install;

use crate::hooks::text;
use crate::rig::{Bundle, with};

/// Everything is allowed but one call, whose filter comes in while Create answers.
const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
    "syscalls":[{"names":["acct"],"action":"SCMP_ACT_ERRNO"}]}"#;

/// Gives the calling thread as many filters as the kernel grants one (`MAX_INSNS_PER_PATH`): whatever
/// it starts has them too, and can install none of its own.
fn exhaust() {
    let instruction = |code, k| Insn {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    // A jump to the next one, and SECCOMP_RET_ALLOW.
    let (next, allow) = (instruction(0x05, 0), instruction(0x06, 0x7fff_0000));
    for length in [4096, 64, 1] {
        let mut program = vec![next; length];
        program[length - 1] = allow;
        while install(&program).is_ok() {}
    }
}

#[test]
fn the_reason_is_told_by_start_whatever_stands_at_the_gate() {
    // Nobody gets rid of a filter: they end with the thread.
    let thread = thread::spawn(|| {
        if rustix::process::geteuid().is_root() {
            exhaust();
        }
        with(async |rig| {
            let hook = rig.script("hook", "cat >/dev/null");
            let hooks: [for<'a> fn(Bundle<'a>, &str) -> Bundle<'a>; 4] = [
                |bundle, _| bundle,
                |bundle, _| bundle.hook("startContainer", &["/bin/true"], ""),
                |bundle, hook| bundle.hook("poststart", &[hook], ""),
                |bundle, hook| {
                    let bundle = bundle.hook("poststart", &[hook], "");
                    bundle.hook("startContainer", &["/bin/true"], "")
                },
            ];
            for hooked in hooks {
                for ended in [true, false] {
                    let bundle = rig.bundle("web", &["true"]).no_new_privileges();
                    let bundle = hooked(bundle.seccomp(PROFILE), &hook);
                    bundle.create().await.unwrap();
                    if ended {
                        assert_eq!(rig.pod.wait("web", None).await.unwrap().code, 1);
                    }
                    let error = text(&rig.pod.start("web", None).await.unwrap_err());
                    assert!(error.contains("ENOMEM, seccomp, step "), "{error}");
                    assert_eq!(rig.finish("web").await.code, 1);
                }
            }
        });
    });
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}
