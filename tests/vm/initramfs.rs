//! The small machine: a kernel from Debian and an initramfs of what was built here.

use duet_tests::machine::{self, Sandboxer};
use duet_tests::{command, image};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of the kernel that are loaded.
const MODULES: &[&str] = &[
    "fs/overlayfs/overlay.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/bridge/bridge.ko",
    "drivers/net/veth.ko",
    "drivers/block/brd.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// Programs of the machine that builds, which the harness needs in the one that is built.
const PROGRAMS: &[&str] = &[
    "containerd",
    "ctr",
    "ip",
    "setpriv",
    "tail",
    "timeout",
    "script",
    "mke2fs",
    "unshare",
    "env",
    "chcon",
    "runcon",
    "stat",
    "strace",
    "runc",
    "containerd-shim-runc-v2",
];

/// What the machine does by itself, after its first program `init.sh`.
const SCRIPTS: &[&str] = &[
    "plain.sh",
    "systemd.sh",
    "checks.sh",
    "selinux.sh",
    "columns.sh",
    "scenarios.sh",
];

/// Folders of Debian's packages that it has of systemd. What starts there is told in `scenarios.service`.
const FOLDERS: &[&str] = &[
    "bin",
    "sbin",
    "lib",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "etc/dbus-1",
    "etc/apparmor",
    "etc/apparmor.d",
    "usr/share/apparmor-features",
    "usr/share/dbus-1",
];

/// What to boot.
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    _dir: tempfile::TempDir,
}

/// Kernel tests of crates that run inside: their packages, their names, and where they lie there.
const TESTED: &[(&str, &str, &str)] = &[
    ("duet-cgroup", "kernel", "crates/cgroup"),
    ("duet-launch", "births", "crates/launch"),
    // As long as a harness, and beside others like one.
    ("duet-pod", "kernel", "tests/pod"),
];

/// Likewise the harnesses.
const HARNESSES: &[(&str, &str, &str)] = &[
    ("duet-tests", "scenarios", "tests/scenarios"),
    ("duet-tests", "oracle", "tests/oracle"),
    ("duet-tests", "run", "tests/run"),
];

/// How `make unit` and `make tests-built` have built them, so that nothing is built again.
const ALL_CRATES: &[&str] = &[
    "--workspace",
    "--exclude=duet-tests",
    "--exclude=duet-runner",
    "--exclude=duet-compiler",
];
const HARNESSES_ALONE: &[&str] = &["-p", "duet-tests"];

/// Makes it: one for all that is booted.
pub(crate) fn build() -> Machine {
    let dir = tempfile::Builder::new()
        .prefix("duet-vm-")
        .tempdir()
        .unwrap();
    let root = dir.path().join("root");
    for folder in [
        "usr/bin",
        "usr/lib/cni",
        "usr/lib64",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "var",
        "root",
        "mnt",
        "images",
        "tests",
        "crates",
        "etc/systemd/system",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("usr/sbin", "bin"),
        ("var/run", "../run"),
    ] {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    let packages = packages();
    with_system(&packages.join("system"), &root);
    with_policy(&packages.join("selinux"), &root);
    with_modules(&packages.join("kernel"), &root);
    with_duet(&root);
    with_containerds(&root);
    with_tests(&root);
    for sandboxer in [Sandboxer::Podsandbox, Sandboxer::Shim] {
        let _archive = image::write_all(&root.join("images"), sandboxer);
    }
    let here = machine::workspace().join("tests/vm");
    for script in SCRIPTS {
        copy(&here.join(script), &root.join(script));
    }
    copy(&here.join("init.sh"), &root.join("init"));
    let units = root.join("etc/systemd/system");
    copy(
        &here.join("scenarios.service"),
        &units.join("scenarios.service"),
    );
    pack(dir, &packages.join("kernel"))
}

/// Debian's systemd, D-Bus and AppArmor, and the libraries that they need.
fn with_system(system: &Path, root: &Path) {
    for folder in FOLDERS.iter().filter(|folder| system.join(folder).is_dir()) {
        let into = root.join(folder);
        fs::create_dir_all(&into).unwrap();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(system.join(folder).join("."))
            .arg(into)
            .status();
        assert!(
            copied.unwrap().success(),
            "{folder} of {}",
            system.display()
        );
    }
    for name in ["systemctl", "dbus-daemon", "apparmor_parser", "setfiles"] {
        libraries(&root.join("usr/bin").join(name), root);
    }
    for name in ["systemd", "systemd-executor"] {
        let program = root.join("usr/lib/systemd").join(name);
        if program.is_file() {
            libraries(&program, root);
        }
    }
}

/// SELinux' policy, where containerd and Duet look for it.
fn with_policy(policy: &Path, root: &Path) {
    let into = root.join("etc/selinux");
    fs::create_dir_all(&into).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(policy.join("."))
        .arg(&into)
        .status();
    assert!(copied.unwrap().success(), "{}", policy.display());
    fs::write(
        into.join("config"),
        "SELINUX=enforcing\nSELINUXTYPE=default\n",
    )
    .unwrap();
}

/// This machine's containerd and what it and the harness call, and the containerd of another suite.
fn with_containerds(root: &Path) {
    for name in PROGRAMS {
        let program = machine::program(name).unwrap_or_else(|| panic!("no {name} in PATH"));
        copy(&program, &root.join("bin").join(name));
        libraries(&program, root);
    }
    let newer = std::env::var_os("DUET_TEST_CONTAINERD");
    let newer =
        PathBuf::from(newer.expect("DUET_TEST_CONTAINERD names the folder of containerd 2"));
    for name in ["containerd", "ctr"] {
        let program = newer.join(name);
        copy(&program, &root.join("sid").join(name));
        libraries(&program, root);
    }
    for plugin in ["bridge", "host-local", "loopback"] {
        let from = Path::new(duet_tests::cni::Network::plugin_dir()).join(plugin);
        copy(&from, &root.join("usr/lib/cni").join(plugin));
    }
}

/// The kernel tests of crates, and the harnesses.
fn with_tests(root: &Path) {
    for (selection, wanted) in [(ALL_CRATES, TESTED), (HARNESSES_ALONE, HARNESSES)] {
        let programs = test_programs(selection);
        for (package, name, place) in wanted {
            let program = programs
                .iter()
                .find(|(id, target, _)| target == name && id.contains(&format!("#{package}@")));
            let (_, _, program) = program.unwrap_or_else(|| panic!("no test {name} of {package}"));
            // What debuggers read is twice as much as the program.
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o").arg(root.join(place));
            command::run(strip.arg(program)).ok();
        }
    }
}

fn pack(dir: tempfile::TempDir, package: &Path) -> Machine {
    let initramfs = dir.path().join("initramfs");
    let pack = "find . | busybox cpio -o -H newc 2>/dev/null > ../initramfs";
    command::run(
        Command::new("busybox")
            .args(["sh", "-c", pack])
            .current_dir(dir.path().join("root")),
    )
    .ok();
    Machine {
        kernel: kernel_image(package),
        initramfs,
        _dir: dir,
    }
}

fn with_modules(package: &Path, root: &Path) {
    let release = only(&package.join("lib/modules")).join("kernel");
    for module in MODULES {
        let name = Path::new(module).file_name().unwrap();
        copy(&release.join(module), &root.join("lib").join(name));
    }
}

fn with_duet(root: &Path) {
    copy(&image::busybox(), &root.join("bin/busybox"));
    for name in [
        "containerd-shim-duet-v1",
        "duet",
        "duet-runner",
        "duet-compiler",
        "duet-holder",
        "duet-tools.wasm",
    ] {
        copy(&machine::binary(name), &root.join("bin").join(name));
    }
}

/// What comes of Debian, as the machine's own package lists offer it now, unpacked once.
fn packages() -> PathBuf {
    let dir = machine::workspace().join("target/vm-debian");
    // What an earlier script has made lacks the policy.
    if !dir.join("selinux").is_dir() {
        let script = machine::workspace().join("tests/vm/packages.sh");
        command::run(Command::new("sh").arg(script).arg(&dir)).ok();
    }
    dir
}

fn kernel_image(package: &Path) -> PathBuf {
    let mut images: Vec<_> = entries(&package.join("boot"));
    images.retain(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("vmlinuz")
    });
    images.pop().expect("the package holds a kernel")
}

/// The test programs of a selection of packages, by package and name: static, as all of this workspace.
fn test_programs(selection: &[&str]) -> Vec<(String, String, PathBuf)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["test", "--no-run", "--message-format=json"])
        .args(selection)
        .current_dir(machine::workspace());
    let messages = command::start(&mut cargo)
        .wait_within(super::LIMIT)
        .ok()
        .stdout;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["kind"][0] == "test")
        .filter_map(|message| {
            let program = message["executable"].as_str()?.into();
            let package = text(&message["package_id"]);
            Some((package, text(&message["target"]["name"]), program))
        })
        .collect()
}

/// Copies the libraries that `ldd` lists for a program to their places, but for those that are there.
fn libraries(program: &Path, root: &Path) {
    let there = [
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu/systemd",
    ]
    .map(|dir| root.join(dir));
    let mut ldd = Command::new("ldd");
    ldd.arg(program)
        .env("LD_LIBRARY_PATH", std::env::join_paths(there).unwrap());
    let listing = command::run(&mut ldd).ok().stdout;
    assert!(
        !listing.contains("not found"),
        "{}:\n{listing}",
        program.display()
    );
    for path in listing
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !Path::new(word).starts_with(root))
    {
        copy(Path::new(path), &root.join(path.trim_start_matches('/')));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(to, mode).unwrap();
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn only(dir: &Path) -> PathBuf {
    entries(dir)
        .pop()
        .unwrap_or_else(|| panic!("{} is empty", dir.display()))
}
