//! The same births on cgroup v2, in a small machine.
//!
//! The machine that tests run on may have cgroup v1 only, and its cgroups are not ours to change. So
//! this test boots one: Debian's cloud kernel under software emulation, with an initramfs made of the
//! programs built here. Inside, `init.sh` mounts a cgroup v2 tree with all controllers, runs the kernel
//! tests of the crates, starts a containerd, and drives it with `ctr`. It says what it saw on the serial
//! console, one line a check.
//!
//! A second machine has systemd as its first process, unpacked from Debian's packages. Inside, the
//! harness of `tests/scenarios` runs as a service, and containerd's CRI has `SystemdCgroup = true`: what is about
//! systemd itself, and scenarios of every kind, as pods around a pause container and as pods of the shim's own
//! under a newer containerd. It is booted a second time with the cgroups of v1.
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

/// How long an emulated machine may take from power on to power off. The longest needs six minutes on two
/// idle cores.
const LIMIT: Duration = Duration::from_secs(1800);

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

/// The scenarios that `scenarios.sh` runs where systemd is the first process.
const UNDER_SYSTEMD: &[&str] = &[
    "systemd::limits_are_known_to_systemd_and_outlive_a_reload",
    "systemd::a_pod_of_cri_is_scopes_in_its_slice",
    "systemd::running_out_of_memory_ends_the_container_and_not_its_unit_first",
    "systemd::a_limit_of_one_task_is_enough_for_one",
    "apparmor::a_profile_confines_a_program_and_its_execs",
    "apparmor::a_profile_confines_a_guest",
    "apparmor::a_profile_that_is_not_loaded_is_named",
    "systemd::what_ran_out_of_memory_is_known_though_systemd_was_first_to_clean_up",
    // Those that nobody has listed here, too.
    "all of podsandbox",
    "all of shim",
    "all of kills",
];

/// Those that it runs where systemd keeps cgroup v1, with a v2 tree beside it.
const UNDER_SYSTEMD_ON_V1: &[&str] = &[
    "systemd::limits_are_known_to_systemd_and_outlive_a_reload",
    "systemd::running_out_of_memory_ends_the_container_and_not_its_unit_first",
    "all of hybrid",
];

#[test]
fn births_under_cgroup_v2() {
    let machine = initramfs::plain();
    judge(&boot(&machine, "cgroup_no_v1=all"), CHECKS);
}

#[test]
fn births_under_systemd() {
    let machine = initramfs::with_systemd();
    for (hierarchies, scenarios) in [("1", UNDER_SYSTEMD), ("0", UNDER_SYSTEMD_ON_V1)] {
        // Nothing of systemd's own on the console, and nothing started but the tests.
        let quiet = format!(
            "systemd.unified_cgroup_hierarchy={hierarchies} systemd.show_status=0 systemd.unit=scenarios.service"
        );
        judge(&boot(&machine, &quiet), scenarios);
    }
}

fn judge(console: &str, checks: &[&str]) {
    let failed: Vec<_> = checks
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

fn boot(machine: &initramfs::Machine, parameters: &str) -> String {
    // One at a time: what runs inside waits for so many seconds, and each has two processors.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "2",
        "-m",
        "3072",
        "-nographic",
        "-no-reboot",
    ])
    .args(["-nodefaults", "-serial", "stdio", "-cpu", "max"])
    .arg("-kernel")
    .arg(&machine.kernel)
    .arg("-initrd")
    .arg(&machine.initramfs)
    .arg("-append")
    // The kernel would panic if the timer of a machine that is starved is late at that check.
    .arg(format!(
        "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check {parameters}"
    ));
    command::start(&mut qemu).wait_within(LIMIT).stdout
}
