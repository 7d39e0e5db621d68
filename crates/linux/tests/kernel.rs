//! The kernel does what the documentation of these functions says. Needs root.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use duet_linux::channel::{self, Heard};
use duet_linux::namespace::{self, Kind};
use duet_linux::program::Guarded;
use duet_linux::{bpf, file, memfd, mount, process};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountPropagationFlags;

/// Whether the test can run; without root it says so and is skipped.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert_ne!(
            std::env::var("DUET_TEST_REQUIRE").as_deref(),
            Ok("root"),
            "this test needs root"
        );
        eprintln!("skipped: needs root");
        assert!(
            std::env::var_os("DUET_TEST_REQUIRE").is_none(),
            "DUET_TEST_REQUIRE is set: nothing may be skipped"
        );
    }
    root
}

#[test]
fn what_is_mounted_on_demand_is_mounted_when_it_is_opened_as_a_place() {
    if !root() {
        return;
    }
    namespace::aside(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        rustix::mount::mount_change("/", private)?;
        let dir = tempfile::tempdir()?;
        mount::mount(Path::new("debug"), dir.path(), "debugfs", 0, "")?;
        // The kernel puts a tracefs there for whoever comes (`kernel/trace/trace.c`).
        let tracing = dir.path().join("tracing");
        let fstype = |entry: mount::Entry| (entry.point == tracing).then_some(entry.fstype);
        let there = || Ok::<_, std::io::Error>(mount::table()?.into_iter().find_map(fstype));
        assert_eq!(there()?, None);
        let place = mount::place(&tracing)?;
        assert_eq!(there()?.as_deref(), Some("tracefs"));
        let copy = mount::clone_open(&place, false)?;
        let file = rustix::fs::openat(&copy, "trace", OFlags::PATH, Mode::empty());
        assert!(file.is_ok(), "{file:?}");
        mount::unmount_detach(&tracing)?;
        mount::unmount_detach(dir.path())
    })
    .unwrap();
}

#[test]
fn a_device_in_a_root_is_not_opened() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("cat");
    // Of no driver: to open it would be ENXIO.
    let device = rustix::fs::makedev(4095, 1);
    let mode = Mode::from(0o666);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        FileType::CharacterDevice,
        mode,
        device,
    )
    .unwrap();
    let opened = File::open(&node).unwrap_err();
    assert_eq!(opened.raw_os_error(), Some(libc::ENXIO));
    fs::write(dir.path().join("file"), "text").unwrap();
    let root = file::place(dir.path()).unwrap();
    let refused = file::open_in_root(&root, Path::new("/cat")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    let mut text = String::new();
    let mut file = file::open_in_root(&root, Path::new("/file")).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

#[test]
fn fresh_namespaces_are_new_and_their_loopback_is_up() {
    if !root() {
        return;
    }
    let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let kinds = [Kind::Ipc, Kind::Net, Kind::Uts];
    let made = namespace::fresh(&kinds).unwrap();
    for (kind, file) in kinds.iter().zip(&made) {
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert!(link.to_string_lossy().starts_with(kind.name()), "{link:?}");
        let own = fs::read_link(format!("/proc/thread-self/ns/{}", kind.name())).unwrap();
        assert_ne!(link, own);
    }
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    namespace::aside(|| {
        namespace::enter(&made[1], Kind::Net.flag())?;
        let server = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(server.local_addr()?)?;
        client.write_all(b"hello")?;
        drop(client);
        let mut text = String::new();
        server.accept()?.0.read_to_string(&mut text)?;
        assert_eq!(text, "hello");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_guarded_program_keeps_its_name_and_cannot_be_written_to() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echoer");
    fs::copy("/bin/cat", &path).unwrap();
    let guarded = Guarded::of(path.clone()).unwrap();
    let mut command = guarded.command();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(guarded);
    // `spawn` returns before the kernel has laid out the arguments; an echo comes after that.
    let mut echo = [0];
    child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut echo)
        .unwrap();
    let proc = |name: &str| format!("/proc/{}/{name}", child.id());
    let cmdline = fs::read(proc("cmdline")).unwrap();
    assert!(cmdline.starts_with(path.as_os_str().as_encoded_bytes()));
    assert_eq!(fs::read_to_string(proc("comm")).unwrap(), "echoer\n");
    let exe = fs::read_link(proc("exe")).unwrap();
    assert_eq!(exe.file_name(), path.file_name());
    assert!(fs::read_dir(proc("fd")).unwrap().all(|entry| {
        let link = fs::read_link(entry.unwrap().path()).unwrap_or_default();
        link != Path::new("/")
    }));

    // As an attacker does: a descriptor that outlives the process, which made it busy.
    let held = File::open(proc("exe")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    let refused = OpenOptions::new().append(true).open(again).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    OpenOptions::new().append(true).open(path).unwrap();
}

#[test]
fn an_end_is_a_code_or_a_signal_and_is_told_once() {
    let child = |script: &str| {
        Command::new("/bin/sh")
            .args(["-c", script])
            .spawn()
            .unwrap()
    };
    let pidfd = |child: &std::process::Child| {
        process::pidfd_open(i32::try_from(child.id()).unwrap()).unwrap()
    };
    let seven = pidfd(&child("exit 7"));
    assert_eq!(process::wait(&seven).unwrap().code, 7);
    assert_eq!(
        process::wait(&seven).unwrap_err().raw_os_error(),
        Some(libc::ECHILD)
    );
    let asleep = pidfd(&child("exec sleep 100"));
    assert!(process::try_wait(&asleep).unwrap().is_none());
    // A real-time signal, which no enum of named signals has.
    process::send_signal(&asleep, 40).unwrap();
    assert_eq!(process::wait(&asleep).unwrap().code, 128 + 40);
    let gone = process::send_signal(&asleep, 0).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn a_channel_carries_a_descriptor_and_knows_silence_from_an_end() {
    let (ours, theirs) = channel::pair().unwrap();
    let soon = || Instant::now() + Duration::from_millis(10);
    let heard = channel::receive::<1>(&ours, soon()).unwrap();
    assert!(matches!(heard, Heard::Silence), "{heard:?}");
    channel::send_byte(&theirs, 7).unwrap();
    // What another test has just forked has a copy of the other end until it executes.
    let later = || Instant::now() + Duration::from_secs(30);
    let heard = channel::receive::<1>(&ours, later()).unwrap();
    assert!(
        matches!(&heard, Heard::Message(message) if message.bytes == [7]),
        "{heard:?}"
    );
    drop(theirs);
    let heard = channel::receive::<1>(&ours, later()).unwrap();
    assert!(matches!(heard, Heard::Closed), "{heard:?}");
}

#[test]
fn what_is_run_from_a_read_only_copy_cannot_be_written() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("program");
    fs::write(&file, "x").unwrap();
    let copy = mount::clone_read_only(&file).unwrap();
    let way = format!("/proc/self/fd/{}", copy.as_raw_fd());
    assert_eq!(fs::read_to_string(&way).unwrap(), "x");
    let refused = OpenOptions::new().write(true).open(&way).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn a_device_program_is_verified_attached_and_detached() {
    if !root() {
        return;
    }
    // r0 = 0; exit: no device at all.
    let none = [
        bpf::Insn {
            code: 0xb7,
            ..bpf::Insn::default()
        },
        bpf::Insn {
            code: 0x95,
            ..bpf::Insn::default()
        },
    ];
    // Not even an exit.
    assert!(bpf::load_device_program("bad", &none[..1]).is_err());
    let program = bpf::load_device_program("duet-test", &none).unwrap();
    let table = mount::table().unwrap();
    let Some(unified) = table.iter().find(|entry| entry.fstype == "cgroup2") else {
        eprintln!("skipped the rest: no cgroup2 is mounted");
        return;
    };
    let path = unified
        .point
        .join(format!("duet-linux-{}", std::process::id()));
    fs::create_dir(&path).unwrap();
    let cgroup = File::open(&path).unwrap();
    let attached = bpf::attach(&cgroup, &program);
    let detached = bpf::detach(&cgroup, &program);
    let again = bpf::detach(&cgroup, &program);
    fs::remove_dir(&path).unwrap();
    attached.unwrap();
    detached.unwrap();
    assert!(again.is_err());
}

#[test]
fn a_sealed_file_says_its_name() {
    let file = memfd::sealed("handoff", b"{}").unwrap();
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert_eq!(link, Path::new("/memfd:handoff (deleted)"));
}

#[test]
fn hard_limits_are_those_that_procfs_shows() {
    // A row for each limit, in the order of their numbers; the hard one in the third column.
    let shown = fs::read_to_string("/proc/self/limits").unwrap();
    for (number, row) in (0..).zip(shown.lines().skip(1)) {
        let hard = row[47..].split_whitespace().next().unwrap();
        let hard = hard.parse().unwrap_or(u64::MAX);
        assert_eq!(process::hard_limit(number), Some(hard), "{row}");
    }
    assert_eq!(process::hard_limit(16), None);
}
