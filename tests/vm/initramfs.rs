//! The small machine: a kernel from Debian and an initramfs of what was built here.

use duet_tests::{command, image, machine};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to boot.
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    _dir: tempfile::TempDir,
}

/// Packages whose kernel tests run inside, as the static programs that they are.
const TESTED: &[&str] = &["duet-cgroup", "duet-launch"];

pub(crate) fn build() -> Machine {
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
    let package = kernel_package();
    let release = only(&package.join("lib/modules"));
    copy(
        &release.join("kernel/fs/overlayfs/overlay.ko"),
        &root.join("lib/overlay.ko"),
    );

    copy(&image::busybox(), &root.join("bin/busybox"));
    for name in ["containerd-shim-duet-v1", "duet-runner", "duet-compiler"] {
        copy(&machine::binary(name), &root.join("bin").join(name));
    }
    for name in ["containerd", "ctr"] {
        with_libraries(
            &machine::program(name).expect("containerd is installed"),
            &root,
        );
    }
    for (index, test) in test_programs().iter().enumerate() {
        copy(test, &root.join("tests").join(format!("{index}")));
    }
    image::write(&image::all(), &root.join("images/all.tar")).unwrap();
    let here = machine::workspace().join("tests/vm");
    copy(&here.join("init.sh"), &root.join("init"));
    copy(&here.join("checks.sh"), &root.join("checks.sh"));

    let initramfs = dir.path().join("initramfs");
    let pack = "find . | busybox cpio -o -H newc 2>/dev/null > ../initramfs";
    command::run(
        Command::new("busybox")
            .args(["sh", "-c", pack])
            .current_dir(&root),
    )
    .ok();
    Machine {
        kernel: kernel_image(&package),
        initramfs,
        _dir: dir,
    }
}

/// Debian's cloud kernel as the machine's own package lists offer it now, unpacked once.
fn kernel_package() -> PathBuf {
    let dir = machine::workspace().join("target/vm-kernel");
    if !dir.join("boot").is_dir() {
        let script = machine::workspace().join("tests/vm/kernel.sh");
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

/// The kernel tests, built as cargo builds them for this workspace: static programs.
fn test_programs() -> Vec<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["test", "--no-run", "--message-format=json"])
        .current_dir(machine::workspace());
    for package in TESTED {
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
    assert!(!programs.is_empty(), "cargo built no tests of {TESTED:?}");
    programs
}

/// Copies a dynamically linked program to `bin` and the libraries that `ldd` lists to their places.
fn with_libraries(program: &Path, root: &Path) {
    copy(
        program,
        &root.join("bin").join(program.file_name().unwrap()),
    );
    let listing = command::run(Command::new("ldd").arg(program)).ok().stdout;
    for path in listing
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
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
