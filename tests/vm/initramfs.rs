//! The small machines: a kernel from Debian and an initramfs of what was built here.

use duet_tests::{command, image, machine};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of the kernel that are loaded, in that order.
const MODULES: &[&str] = &[
    "fs/overlayfs/overlay.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/bridge/bridge.ko",
    "drivers/net/veth.ko",
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
    "unshare",
];

/// Folders of Debian's packages that systemd's machine has. What starts there is told in `scenarios.service`.
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

/// Packages whose kernel tests run inside, as the static programs that they are.
const TESTED: &[&str] = &["duet-cgroup", "duet-launch"];

/// The machine whose first program is a script of ours.
pub(crate) fn plain() -> Machine {
    let dir = tempfile::Builder::new()
        .prefix("duet-vm-")
        .tempdir()
        .unwrap();
    let root = dir.path().join("root");
    for folder in [
        "bin", "dev", "proc", "sys", "run", "tmp", "etc", "tests", "images", "mnt", "lib",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let package = packages().join("kernel");
    with_modules(&package, &MODULES[..1], &root);
    with_duet(&root);
    for name in ["containerd", "ctr"] {
        with_libraries(
            &machine::program(name).expect("containerd is installed"),
            &root,
        );
    }
    for (index, test) in test_programs(TESTED).iter().enumerate() {
        copy(test, &root.join("tests").join(format!("{index}")));
    }
    image::write(&image::all(), &root.join("images/all.tar")).unwrap();
    let here = machine::workspace().join("tests/vm");
    copy(&here.join("init.sh"), &root.join("init"));
    copy(&here.join("checks.sh"), &root.join("checks.sh"));

    pack(dir, &package)
}

/// The machine whose first program is systemd, and whose tests are a service of it.
pub(crate) fn with_systemd() -> Machine {
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
        "tests",
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
    let system = packages.join("system");
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
    with_modules(&packages.join("kernel"), MODULES, &root);
    with_duet(&root);
    for name in ["systemctl", "dbus-daemon", "apparmor_parser"] {
        libraries(&root.join("usr/bin").join(name), &root);
    }
    for name in ["systemd", "systemd-executor"] {
        let program = root.join("usr/lib/systemd").join(name);
        if program.is_file() {
            libraries(&program, &root);
        }
    }
    for name in PROGRAMS {
        let program = machine::program(name);
        with_libraries(
            &program.unwrap_or_else(|| panic!("no {name} in PATH")),
            &root,
        );
    }
    let newer = std::env::var_os("DUET_TEST_CONTAINERD");
    let newer =
        PathBuf::from(newer.expect("DUET_TEST_CONTAINERD names the folder of containerd 2"));
    for name in ["containerd", "ctr"] {
        let program = newer.join(name);
        copy(&program, &root.join("sid").join(name));
        libraries(&program, &root);
    }
    for plugin in ["bridge", "host-local", "loopback"] {
        let from = Path::new(duet_tests::cni::Network::plugin_dir()).join(plugin);
        copy(&from, &root.join("usr/lib/cni").join(plugin));
    }
    for test in test_programs(&["duet-tests"]) {
        let name = test.file_name().unwrap().to_string_lossy();
        if name.starts_with("scenarios-") {
            copy(&test, &root.join("tests/scenarios"));
        }
    }
    let here = machine::workspace().join("tests/vm");
    copy(&here.join("init-systemd.sh"), &root.join("init"));
    copy(&here.join("scenarios.sh"), &root.join("scenarios.sh"));
    let units = root.join("etc/systemd/system");
    copy(
        &here.join("scenarios.service"),
        &units.join("scenarios.service"),
    );
    pack(dir, &packages.join("kernel"))
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

fn with_modules(package: &Path, modules: &[&str], root: &Path) {
    let release = only(&package.join("lib/modules")).join("kernel");
    for module in modules {
        let name = Path::new(module).file_name().unwrap();
        copy(&release.join(module), &root.join("lib").join(name));
    }
}

fn with_duet(root: &Path) {
    copy(&image::busybox(), &root.join("bin/busybox"));
    for name in [
        "containerd-shim-duet-v1",
        "duet-runner",
        "duet-compiler",
        "duet-holder",
        "duet-tools.wasm",
    ] {
        copy(&machine::binary(name), &root.join("bin").join(name));
    }
}

/// What comes of Debian, as the machine's own package lists offer it now, unpacked once. Two tests ask
/// for it at a time.
fn packages() -> PathBuf {
    static ONCE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ONCE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = machine::workspace().join("target/vm-debian");
    if !dir.is_dir() {
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

/// The tests of some packages, built as cargo builds them for this workspace: static programs.
fn test_programs(packages: &[&str]) -> Vec<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["test", "--no-run", "--message-format=json"])
        .current_dir(machine::workspace());
    for package in packages {
        cargo.args(["-p", package]);
    }
    let messages = command::start(&mut cargo)
        .wait_within(super::LIMIT)
        .ok()
        .stdout;
    let programs: Vec<_> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["kind"][0] == "test")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    assert!(!programs.is_empty(), "cargo built no tests of {packages:?}");
    programs
}

/// Copies a dynamically linked program to `bin` and the libraries that `ldd` lists to their places.
fn with_libraries(program: &Path, root: &Path) {
    copy(
        program,
        &root.join("bin").join(program.file_name().unwrap()),
    );
    libraries(program, root);
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
