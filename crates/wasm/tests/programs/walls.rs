//! What is between a guest's image and the process that runs it.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use duet_linux::filter::{ALLOW, BPF_JEQ, NUMBER, answer, jump, load, number, refused};
use duet_linux::seccomp;

use crate::harness::{Guest, Running, root};
use crate::servers::{Server, ask, of_both_previews};

/// A library that says in a file that it was loaded, and needs none itself.
const SPEAKS_UP: &str = r#"
    #ifdef __x86_64__
    #define CALL "syscall"
    #define REGISTER(name, x86, arm) register long name __asm__(x86)
    #define NUMBERS { 257, 3 }
    #else
    #define CALL "svc 0"
    #define REGISTER(name, x86, arm) register long name __asm__(arm)
    #define NUMBERS { 56, 57 }
    #endif
    __attribute__((constructor)) static void loaded(void) {
        REGISTER(number, "rax", "x8") = ((long[])NUMBERS)[0];
        REGISTER(at, "rdi", "x0") = -100;
        REGISTER(path, "rsi", "x1") = (long)"/loaded";
        REGISTER(flags, "rdx", "x2") = 0101;
        REGISTER(mode, "r10", "x3") = 0644;
        __asm__ volatile(CALL : "+r"(number), "+r"(at) : "r"(path), "r"(flags), "r"(mode) : "rcx", "r11", "memory");
    }
"#;

#[test]
fn an_image_cannot_name_a_library_for_the_process_that_runs_its_guest() {
    if !root() {
        return;
    }
    let image = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = image.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put(
        "etc/nsswitch.conf",
        "hosts: speaks files dns\nservices: speaks\n",
    );
    put("etc/hosts", "127.0.0.1 localhost a.friend\n");
    put("source.c", SPEAKS_UP);
    std::fs::create_dir(image.path().join("lib")).unwrap();
    library(
        &image.path().join("source.c"),
        &image.path().join("lib/libnss_speaks.so.2"),
    );

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for name in ["localhost", "a.friend"] {
        let address = format!("{name}:{port}");
        let guest = Guest::named("probe-p2.wasm").args(["connect", &address, "a question"]);
        let running = guest.within(image.path()).start();
        let ended = running.answered_at(&listener);
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (0, "an answer\n"),
            "{ended:?}"
        );
    }
    assert!(!image.path().join("loaded").exists());
}

#[test]
fn a_volume_behind_an_absolute_link_of_the_image_is_where_the_spec_says() {
    if !root() {
        return;
    }
    let image = tempfile::tempdir().unwrap();
    let token = image.path().join("run/secrets/account/token");
    std::fs::create_dir_all(token.parent().unwrap()).unwrap();
    std::fs::write(token, "the token").unwrap();
    std::fs::create_dir(image.path().join("etc")).unwrap();
    std::fs::write(image.path().join("etc/passwd"), "the image's").unwrap();
    std::fs::create_dir(image.path().join("var")).unwrap();
    let link = |to, from| std::os::unix::fs::symlink(to, image.path().join(from)).unwrap();
    link("/run", "var/run");
    link("../run", "var/relative");
    link("../chained", "var/chained");
    link("/run", "chained");
    // What leads to no directory, and to nothing.
    link("/run/secrets/account/token", "file");
    link("/nowhere", "dangling");
    let places = [
        "/var/run/secrets/account",
        "/var/relative",
        "/var/chained/secrets/account",
        "/file",
        "/dangling/place",
    ];
    for guest in ["probe-p1.wasm", "probe-p2.wasm"] {
        let cat = |path: &str| {
            let mut guest = Guest::named(guest).args(["cat", path]).within(image.path());
            guest.handoff.mounts = places.map(str::to_owned).to_vec();
            guest.run()
        };
        for way in ["/var/run", "/run", "/var/relative", "/var/chained"] {
            let ended = cat(&format!("{way}/secrets/account/token"));
            assert_eq!(
                (ended.code, ended.stdout.as_str()),
                (0, "the token"),
                "{guest}: {way}: {ended:?}"
            );
        }
        // What is opened for a link ends where the link leads, as `/` does at the root.
        assert_eq!(cat("/etc/passwd").stdout, "the image's");
        for way in ["/var/run/../../../etc/passwd", "/var/run/../etc/passwd"] {
            let ended = cat(way);
            assert_eq!(ended.code, 134, "{guest}: {way}: {ended:?}");
            assert!(
                ended.stderr.contains("Operation not permitted"),
                "{guest}: {way}: {ended:?}"
            );
        }
    }
}

#[test]
fn when_a_guest_begins_no_memory_can_become_code_any_more() {
    if !root() {
        return;
    }
    for guest in [
        Guest::named("probe-p1.wasm").args(["exit", "0"]),
        Guest::named("probe-p2.wasm").args(["exit", "0"]),
        Guest::named("probe-p3.wasm").args(["args"]).preview3(),
    ] {
        let log = tempfile::NamedTempFile::new().unwrap();
        let ended = guest.traced("prctl,mmap,mprotect,munmap", log.path()).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        let log = std::fs::read_to_string(log.path()).unwrap();
        let calls: Vec<_> = log.lines().collect();
        let find = |call: &[&str]| {
            calls
                .iter()
                .rposition(|line| call.iter().all(|word| line.contains(word)))
        };
        let sealed = find(&["prctl(", "0x41"]).or_else(|| find(&["prctl(PR_SET_MDWE"]));
        let mapped = find(&["PROT_EXEC"]);
        assert!(mapped.is_some() && mapped < sealed, "{log}");
        assert!(find(&["PR_SET_NO_NEW_PRIVS, 1"]).is_some(), "{log}");
    }
}

#[test]
fn while_a_guest_runs_each_thread_has_the_filter_and_no_more_capabilities_than_a_guest_uses() {
    if !root() {
        return;
    }
    for guest in [
        Guest::named("probe-p1.wasm"),
        Guest::named("probe-p2.wasm"),
        Guest::named("probe-p3.wasm").preview3(),
    ] {
        let mut running = guest.args(["sleep", "60000"]).start();
        assert_eq!(running.line(), "asleep");
        assert!(walled_in(&running) >= 1);
    }
    for guest in of_both_previews() {
        let server = Server::start(guest);
        // One that is inside: with the threads that serve there is the clock then.
        let mut stream = server.connect();
        ask(&mut stream, "/sleep/60000", "");
        let mut guest = server.guest;
        assert!(guest.line().ends_with("asleep"));
        assert!(walled_in(&guest) >= 2);
    }
}

/// Sees that each thread of the runner is walled in, and says how many there are.
fn walled_in(running: &Running) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap();
    let threads: Vec<_> = threads.map(|thread| thread.unwrap().path()).collect();
    for thread in &threads {
        let status = std::fs::read_to_string(thread.join("status")).unwrap();
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
            lines.find(|(known, _)| *known == name).unwrap().1
        };
        assert_eq!(field("Seccomp"), "2", "{status}");
        assert_eq!(field("NoNewPrivs"), "1", "{status}");
        for (set, most) in [
            // DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID and NET_BIND_SERVICE.
            ("CapEff", 0x41e),
            ("CapPrm", 0x41e),
            ("CapInh", 0),
            ("CapAmb", 0),
        ] {
            let held = u64::from_str_radix(field(set), 16).unwrap();
            assert_eq!(held & !most, 0, "{set}: {status}");
        }
    }
    threads.len()
}

#[test]
fn where_there_are_no_filters_a_guest_runs_and_its_log_says_so() {
    if !root() {
        return;
    }
    // The second is what a container's own filter answers that forbids to ask for another.
    for (errno, said) in [
        (
            libc::EINVAL,
            "duet: the process of this guest has no filter of system calls: Invalid argument (os error 22)\n",
        ),
        (libc::EPERM, ""),
    ] {
        let ended = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let program = [
                load(NUMBER),
                jump(BPF_JEQ, number(libc::SYS_seccomp), 0, 1),
                answer(refused(errno)),
                answer(ALLOW),
            ];
            // It stays with this thread, and with what it starts.
            seccomp::install(&program).unwrap();
            Guest::named("probe-p1.wasm").args(["args"]).run()
        });
        let ended = ended.join().unwrap();
        assert_eq!((ended.code, ended.stderr.as_str()), (0, said), "{ended:?}");
    }
}

#[test]
fn files_are_found_where_a_containers_filter_does_not_know_openat2() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("one/two")).unwrap();
    std::fs::write(folder.path().join("file"), "text").unwrap();
    let path = folder.path().join("one/two/../../file");
    for guest in ["probe-p1.wasm", "probe-p2.wasm"] {
        let path = path.clone();
        let ended = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let program = [
                load(NUMBER),
                jump(BPF_JEQ, number(libc::SYS_openat2), 0, 1),
                answer(refused(libc::ENOSYS)),
                answer(ALLOW),
            ];
            seccomp::install(&program).unwrap();
            Guest::named(guest)
                .args(["cat", path.to_str().unwrap()])
                .run()
        });
        let ended = ended.join().unwrap();
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (0, "text"),
            "{ended:?}"
        );
    }
}

fn library(source: &Path, library: &Path) {
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-nostdlib", "-o"])
        .args([library, source])
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
