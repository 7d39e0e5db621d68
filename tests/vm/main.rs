//! The same births on cgroup v2, in a small machine.
//!
//! The machine that tests run on may have cgroup v1 only, and its cgroups are not ours to change. So
//! this test boots one: Debian's cloud kernel under software emulation, with an initramfs made of the
//! programs built here. Inside, `plain.sh` mounts a cgroup v2 tree with all controllers, runs the kernel
//! tests of the crates, starts a containerd, and drives it with `ctr`; then the oracle compares Duet's
//! containers with runc's. It says what it saw on the serial console, one line a check.
//!
//! Booted with SELinux, that machine loads a policy of Debian's, and `selinux.sh` runs the scenarios about labels where it
//! is in force: with Duet, and with runc beside it.
//!
//! Booted again it has systemd as its first process, unpacked from Debian's packages. Inside, the
//! harness of `tests/scenarios` runs as a service, and containerd's CRI has `SystemdCgroup = true`: what is about
//! systemd itself, and scenarios of every kind, as pods around a pause container and as pods of the shim's own
//! under a newer containerd. It is booted once more with the cgroups of v1.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail loudly"
)]

mod initramfs;

use duet_tests::command;
use initramfs::Machine;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How long an emulated machine may take from power on to power off. The longest needs six minutes on two
/// idle cores.
const LIMIT: Duration = Duration::from_secs(1800);

/// What `hardware` asks about: a second node of memory, to which no processor is near, and a network device, at
/// whose other end qemu answers and leads nowhere.
const HARDWARE: &[&str] = &[
    "-object",
    "memory-backend-ram,id=near,size=2560M",
    "-object",
    "memory-backend-ram,id=far,size=512M",
    "-numa",
    "node,nodeid=0,cpus=0-1,memdev=near",
    "-numa",
    "node,nodeid=1,memdev=far",
    "-netdev",
    "user,id=net,restrict=on,ipv6=off",
    "-device",
    "virtio-net-pci,netdev=net,romfile=",
];

/// The checks of `checks.sh`. One that is missing from the console fails the test like one that failed.
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
    "a_container_of_duets_sees_what_one_of_runcs_sees",
    "stats::every_number_of_stats_is_the_kernels_and_none_of_runcs_is_missing",
    "all of oracle",
    "all of pod",
];

/// The scenarios that `scenarios.sh` runs where systemd is the first process.
const UNDER_SYSTEMD: &[&str] = &[
    "systemd::limits_are_known_to_systemd_and_outlive_a_reload",
    "systemd::a_pod_of_cri_is_scopes_in_its_slice",
    "systemd::running_out_of_memory_ends_the_container_and_not_its_unit_first",
    "systemd::a_limit_of_one_task_is_enough_for_one",
    "systemd::annotations_are_properties_of_the_unit_and_its_users_may_divide_its_cgroup",
    "apparmor::a_profile_confines_a_program_and_its_execs",
    "apparmor::a_profile_confines_a_guest",
    "apparmor::a_profile_that_is_not_loaded_is_named",
    "systemd::what_ran_out_of_memory_is_known_though_systemd_was_first_to_clean_up",
    "hardware::a_memory_policy_takes_memory_from_the_nodes_that_the_spec_names",
    "hardware::a_memory_policy_is_that_of_a_guests_memory",
    "hardware::memory_nodes_of_a_cgroup_are_where_the_memory_of_its_processes_is",
    "hardware::a_physical_network_device_is_the_initial_networks_again_when_its_containers_ends",
    // Those that nobody has listed here, too.
    "all of podsandbox",
    "all of shim",
    "all of kills",
    "a_pod_is_in_a_slice_of_systemds_that_goes_with_it",
    "all of run",
];

/// Those that it runs where systemd keeps cgroup v1, with a v2 tree beside it.
const UNDER_SYSTEMD_ON_V1: &[&str] = &[
    "systemd::limits_are_known_to_systemd_and_outlive_a_reload",
    "systemd::running_out_of_memory_ends_the_container_and_not_its_unit_first",
    "systemd::what_ran_out_of_memory_is_known_though_systemd_was_first_to_clean_up",
    "all of hybrid",
];

/// Those that `selinux.sh` runs where SELinux enforces a policy.
const UNDER_SELINUX: &[&str] = &[
    "selinux::a_label_confines_a_program_and_its_execs",
    "selinux::a_label_confines_a_guest",
    "selinux::a_label_that_the_policy_does_not_know_is_named",
    "all of podsandbox",
    "all of shim",
    "all of runc",
];

#[test]
fn births_under_cgroup_v2() {
    judge(
        &boot("first=plain.sh checks=checks.sh cgroup_no_v1=all"),
        CHECKS,
    );
}

#[test]
fn births_under_selinux() {
    // The files of other scenarios have no labels.
    if asked().is_some_and(|asked| !asked.contains("selinux")) {
        return;
    }
    let selinux = "first=plain.sh checks=selinux.sh cgroup_no_v1=all security=selinux";
    judge(&boot(selinux), UNDER_SELINUX);
}

#[test]
fn births_under_systemd() {
    judge(&boot(&systemd("1", "")), UNDER_SYSTEMD);
}

#[test]
fn births_under_systemd_on_cgroup_v1() {
    judge(&boot(&systemd("0", "")), UNDER_SYSTEMD_ON_V1);
}

/// What a kernel is told whose systemd is to mount the hierarchies of v2 alone (`1`) or those of v1, too.
fn systemd(unified: &str, further: &str) -> String {
    // Nothing of systemd's own on the console, and nothing started but the tests.
    format!(
        "first=systemd.sh systemd.unified_cgroup_hierarchy={unified} systemd.show_status=0 \
         systemd.unit=scenarios.service {further}"
    )
}

fn judge(console: &str, checks: &[&str]) {
    let checks = match asked() {
        None => checks,
        Some(_) => &["asked"],
    };
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

/// What is to run in the machines instead of what always does, as `DUET_TEST_VM` names it: filters of
/// scenarios, `shim/` before those for pods of the shim's own, `oracle/` before the oracle's, and `pod/` before
/// `duet-pod`'s kernel tests. One that begins with `-` leaves out what it names.
fn asked() -> Option<String> {
    let words = std::env::var("DUET_TEST_VM").ok()?;
    Some(words.split_whitespace().collect::<Vec<_>>().join(","))
}

fn boot(parameters: &str) -> String {
    // One at a time: what runs inside waits for so many seconds, and each has two processors.
    static ALONE: Mutex<()> = Mutex::new(());
    let machine = machine();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = asked().map(|asked| format!("duet.asked={asked}"));
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
    .args(HARDWARE)
    // What later processors can do is dear to emulate, and has Linux take a slow clock for the better one.
    .args(["-nodefaults", "-serial", "stdio", "-cpu", "Nehalem,+rdrand"])
    .arg("-kernel")
    .arg(&machine.kernel)
    .arg("-initrd")
    .arg(&machine.initramfs)
    .arg("-append")
    // The kernel would panic if the timer of a machine that is starved is late at that check; it would look for
    // memory that is far away.
    .arg(format!(
        "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check numa_balancing=disable {parameters} {}",
        asked.as_deref().unwrap_or_default()
    ));
    let running = command::start(&mut qemu);
    running
        .wait_within(LIMIT * if asked.is_some() { 4 } else { 1 })
        .stdout
}

/// The machine, which the tests that run at a time share.
fn machine() -> Arc<Machine> {
    static SHARED: Mutex<Weak<Machine>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let machine = Arc::new(initramfs::build());
        *shared = Arc::downgrade(&machine);
        machine
    })
}
