//! The same births on cgroup v2, in a small machine.
//!
//! The machine that tests run on may have cgroup v1 only, and its cgroups are not ours to change. So
//! this test boots one: Debian's cloud kernel under software emulation, with an initramfs made of the
//! programs built here. Inside, `init.sh` mounts a cgroup v2 tree with all controllers, runs the kernel
//! tests of the crates, starts a containerd, and drives it with `ctr`. It says what it saw on the serial
//! console, one line a check.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail loudly"
)]

mod initramfs;

use duet_tests::command;
use std::process::Command;
use std::time::Duration;

/// How long the emulated machine may take from power on to power off. It needs about a minute on
/// two idle cores.
const LIMIT: Duration = Duration::from_secs(600);

/// The checks of `init.sh`. One that is missing from the console fails the test like one that failed.
const CHECKS: &[&str] = &[
    "cgroup2-has-controllers",
    "crate-tests",
    "containerd-starts",
    "native-exit-code",
    "wasm-exit-code",
    "memory-limit-is-set",
    "cpu-limit-is-set",
    "process-is-in-its-cgroup",
    "devices-are-confined",
    "exec-joins-the-cgroup",
    "metrics-are-v2",
    "oom-is-killed",
    "exec-is-born-beside-init",
    "pause-and-resume",
    "nothing-is-left",
];

#[test]
fn births_under_cgroup_v2() {
    let machine = initramfs::build();
    let console = boot(&machine);
    let failed: Vec<_> = CHECKS
        .iter()
        .filter(|check| {
            !console
                .lines()
                .any(|line| line.trim() == format!("CHECK {check} ok"))
        })
        .collect();
    assert!(
        failed.is_empty(),
        "failed inside the machine: {failed:?}\n{console}"
    );
}

fn boot(machine: &initramfs::Machine) -> String {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "2",
        "-m",
        "1536",
        "-nographic",
        "-no-reboot",
    ])
    .args(["-nodefaults", "-serial", "stdio", "-cpu", "max"])
    .arg("-kernel")
    .arg(&machine.kernel)
    .arg("-initrd")
    .arg(&machine.initramfs)
    .args([
        "-append",
        "console=ttyS0 quiet panic=-1 cgroup_no_v1=all mitigations=off",
    ]);
    command::start(&mut qemu).wait_within(LIMIT).stdout
}
