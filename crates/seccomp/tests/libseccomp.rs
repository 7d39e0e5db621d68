//! Duet's programs answer as libseccomp's do, for random profiles and every call number.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail loudly"
)]

use duet_seccomp::{Arch, Filter, compile};
use duet_step::Insn;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek};

const AUDIT_X86_64: u32 = 0xC000_003E;
const AUDIT_X86: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

/// Calls with every shape of number: low, high, x32's own, multiplexed on 32-bit x86, 32-bit only.
const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "close",
    "mmap",
    "ioctl",
    "readv",
    "socket",
    "bind",
    "connect",
    "accept",
    "accept4",
    "listen",
    "send",
    "recv",
    "sendto",
    "sendmsg",
    "recvmmsg",
    "shutdown",
    "setsockopt",
    "semop",
    "semget",
    "semctl",
    "semtimedop",
    "msgsnd",
    "msgget",
    "shmat",
    "shmget",
    "clone",
    "clone3",
    "fork",
    "execve",
    "execveat",
    "personality",
    "ptrace",
    "waitpid",
    "rt_sigaction",
    "openat2",
    "faccessat2",
    "statx",
    "io_uring_setup",
    "futex_waitv",
    "getuid32",
    "mmap2",
    "time",
    "uname",
    "kexec_load",
    "preadv2",
    "pwritev2",
    "set_thread_area",
    "arch_prctl",
    "epoll_wait",
    "process_vm_readv",
    "bpf",
    "keyctl",
    "name_to_handle_at",
];

#[derive(Debug, Clone)]
struct Arg {
    index: u32,
    op: usize,
    value: u64,
    masked: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    name: &'static str,
    action: usize,
    args: Vec<Arg>,
}

/// The comparisons that profiles are made of. The orders (`<`, `<=`, `>=`, `>`) are judged by
/// arithmetic below: libseccomp 2.5 answers 0 < 0xffff_ffff with no.
const OPS: &[(&str, ScmpCompareOp)] = &[
    ("SCMP_CMP_NE", ScmpCompareOp::NotEqual),
    ("SCMP_CMP_EQ", ScmpCompareOp::Equal),
    ("SCMP_CMP_MASKED_EQ", ScmpCompareOp::MaskedEqual(0)),
];

fn actions() -> [(serde_json::Value, ScmpAction); 4] {
    [
        (json!({"action": "SCMP_ACT_ALLOW"}), ScmpAction::Allow),
        (
            json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
            ScmpAction::Errno(38),
        ),
        (
            json!({"action": "SCMP_ACT_KILL_PROCESS"}),
            ScmpAction::KillProcess,
        ),
        (json!({"action": "SCMP_ACT_TRAP"}), ScmpAction::Trap),
    ]
}

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..50,
        Just(0x7E02_0000),
        Just(0xFFFF_FFFF),
        Just(u64::MAX),
        any::<u64>()
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let arg =
        (0u32..6, 0..OPS.len(), values(), values()).prop_map(|(index, op, value, masked)| Arg {
            index,
            op,
            value,
            masked,
        });
    let one = (0usize..4, prop::collection::vec(arg, 0..3)).boxed();
    prop::sample::subsequence(NAMES, 1..NAMES.len()).prop_flat_map(move |names| {
        let count = names.len();
        prop::collection::vec(one.clone(), count).prop_map(move |shapes| {
            names
                .iter()
                .zip(shapes)
                .map(|(name, (action, mut args))| {
                    args.dedup_by_key(|arg| arg.index);
                    Entry { name, action, args }
                })
                .collect()
        })
    })
}

fn ours(entries: &[Entry]) -> Filter {
    let syscalls: Vec<_> = entries
        .iter()
        .map(|entry| {
            let mut call = actions()[entry.action].0.clone();
            call["names"] = json!([entry.name]);
            call["args"] = entry
                .args
                .iter()
                .map(|a| json!({"index": a.index, "value": a.value, "valueTwo": a.masked, "op": OPS[a.op].0}))
                .collect();
            call
        })
        .collect();
    let profile: LinuxSeccomp = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls,
    }))
    .unwrap();
    compile(&profile, Arch::X86_64).unwrap()
}

fn theirs(entries: &[Entry]) -> Vec<Insn> {
    let mut ctx = ScmpFilterContext::new(ScmpAction::Errno(1)).unwrap();
    for arch in [ScmpArch::X8664, ScmpArch::X86, ScmpArch::X32] {
        ctx.add_arch(arch).unwrap();
    }
    for entry in entries {
        let Ok(call) = ScmpSyscall::from_name(entry.name) else {
            continue;
        };
        let action = actions()[entry.action].1;
        let args: Vec<_> = entry
            .args
            .iter()
            .map(|a| match OPS[a.op].1 {
                ScmpCompareOp::MaskedEqual(_) => {
                    ScmpArgCompare::new(a.index, ScmpCompareOp::MaskedEqual(a.value), a.masked)
                }
                op => ScmpArgCompare::new(a.index, op, a.value),
            })
            .collect();
        ctx.add_rule_conditional(action, call, &args).unwrap();
    }
    let mut file = tempfile();
    ctx.export_bpf(&mut file).unwrap();
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
        .chunks_exact(8)
        .map(|b| Insn {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect()
}

fn tempfile() -> File {
    let path = std::env::temp_dir().join(format!(
        "duet-bpf-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// Runs a classic BPF program over one `struct seccomp_data`, as the kernel would.
fn run(program: &[Insn], nr: u32, arch: u32, args: [u64; 6]) -> u32 {
    let mut data = [0u32; 16];
    data[0] = nr;
    data[1] = arch;
    for (index, arg) in args.iter().enumerate() {
        data[4 + 2 * index] = (arg & 0xFFFF_FFFF) as u32;
        data[5 + 2 * index] = (arg >> 32) as u32;
    }
    let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
    let mut scratch = [0u32; 16];
    loop {
        let i = program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            0x20 => a = data[i.k as usize / 4],
            0x06 => return i.k,
            0x05 => at += i.k as usize,
            0x15 => jump(a == i.k),
            0x25 => jump(a > i.k),
            0x35 => jump(a >= i.k),
            0x45 => jump(a & i.k != 0),
            0x54 => a &= i.k,
            0x02 => scratch[i.k as usize] = a,
            0x60 => a = scratch[i.k as usize],
            0x07 => x = a,
            0x87 => a = x,
            other => panic!("instruction {other:#x}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn the_verdicts_equal_libseccomps(entries in entries(), extra in prop::collection::vec(values(), 6)) {
        let ours = ours(&entries).program;
        let theirs = theirs(&entries);
        let mut probes: Vec<[u64; 6]> = vec![[0; 6], [u64::MAX; 6], extra.try_into().unwrap()];
        for subcall in 1..25 {
            probes.push([subcall; 6]);
        }
        for entry in &entries {
            for arg in &entry.args {
                for value in [arg.value, arg.value.wrapping_add(1), arg.value.wrapping_sub(1), arg.masked, arg.value & arg.masked] {
                    let mut probe = [0; 6];
                    probe[arg.index as usize] = value;
                    probes.push(probe);
                }
            }
        }
        for (arch, bit) in [(AUDIT_X86_64, 0), (AUDIT_X86, 0), (AUDIT_X86_64, X32_BIT)] {
            for nr in (0..560).map(|nr| nr | bit) {
                for probe in &probes {
                    let (a, b) = (run(&ours, nr, arch, *probe), run(&theirs, nr, arch, *probe));
                    // Beyond the profile Duet answers ENOSYS where libseccomp has no opinion.
                    let beyond = a == 0x0005_0026 && b == 0x0005_0001;
                    prop_assert!(a == b || beyond, "{nr:#x} on {arch:#x} with {probe:x?}: {a:#x}, libseccomp {b:#x}; {:?}", entries.iter().filter(|e| syscalls::x86_64::Sysno::new(nr as usize).is_some_and(|s| s.name() == e.name)).collect::<Vec<_>>());
                }
            }
        }
        prop_assert_eq!(run(&ours, 1, 0xC000_00B7, [0; 6]), run(&theirs, 1, 0xC000_00B7, [0; 6]));
    }
}

#[test]
fn orders_compare_all_64_bits() {
    const EDGES: [u64; 9] = [
        0,
        1,
        0xFFFF_FFFE,
        0xFFFF_FFFF,
        0x1_0000_0000,
        0x1_0000_0001,
        0x1_FFFF_FFFF,
        u64::MAX - 1,
        u64::MAX,
    ];
    type Order = fn(&u64, &u64) -> bool;
    let orders: [(&str, Order); 4] = [
        ("SCMP_CMP_LT", u64::lt),
        ("SCMP_CMP_LE", u64::le),
        ("SCMP_CMP_GE", u64::ge),
        ("SCMP_CMP_GT", u64::gt),
    ];
    for (op, holds) in orders {
        for value in EDGES {
            let profile: LinuxSeccomp = serde_json::from_value(json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                              "args": [{"index": 2, "value": value, "op": op}]}],
            }))
            .unwrap();
            let program = compile(&profile, Arch::X86_64).unwrap().program;
            for arg in EDGES {
                let allowed = run(&program, 0, AUDIT_X86_64, [0, 0, arg, 0, 0, 0]) == 0x7FFF_0000;
                assert_eq!(allowed, holds(&arg, &value), "{arg:#x} {op} {value:#x}");
            }
        }
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let entries = [Entry {
        name: "statx",
        action: 0,
        args: vec![],
    }];
    let program = ours(&entries).program;
    assert_eq!(run(&program, 332, AUDIT_X86_64, [0; 6]), 0x7FFF_0000);
    assert_eq!(run(&program, 331, AUDIT_X86_64, [0; 6]), 0x0005_0001);
    assert_eq!(run(&program, 333, AUDIT_X86_64, [0; 6]), 0x0005_0026);
}

#[test]
fn a_container_like_profile_is_less_than_half_as_long() {
    let refused = [
        "mount",
        "reboot",
        "kexec_load",
        "ptrace",
        "bpf",
        "keyctl",
        "setns",
        "unshare",
    ];
    let entries: Vec<_> = syscalls::x86_64::Sysno::iter()
        .map(|call| call.name())
        .filter(|name| !refused.contains(name))
        .map(|name| Entry {
            name,
            action: 0,
            args: vec![],
        })
        .collect();
    let (ours, theirs) = (ours(&entries).program.len(), theirs(&entries).len());
    assert!(
        2 * ours < theirs,
        "{ours} instructions, libseccomp {theirs}"
    );
}

#[test]
fn a_call_that_somebody_answers_makes_a_listener() {
    let filter = |flags: serde_json::Value, action: &str| {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags,
            "syscalls": [{"names": ["mkdirat"], "action": action}]});
        compile(&serde_json::from_value(profile).unwrap(), Arch::X86_64).unwrap()
    };
    let tsync = json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]);
    let notified = filter(tsync.clone(), "SCMP_ACT_NOTIFY");
    // NEW_LISTENER and LOG; the kernel takes no TSYNC with it.
    assert_eq!((notified.flags, notified.listener), (8 | 2, true));
    let plain = filter(tsync, "SCMP_ACT_LOG");
    assert_eq!((plain.flags, plain.listener), (1 | 2, false));
    let patient = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    assert_eq!(filter(patient, "SCMP_ACT_NOTIFY").flags, 8 | 32);
}

#[test]
fn an_architecture_whose_calls_cannot_be_made_here_changes_nothing() {
    let filter = |architectures: &[&str]| {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures,
            "syscalls": [{"names": ["read", "socket"], "action": "SCMP_ACT_ALLOW"}]});
        compile(&serde_json::from_value(profile).unwrap(), Arch::X86_64).unwrap()
    };
    let foreign = [
        "AARCH64",
        "ARM",
        "LOONGARCH64",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "RISCV64",
        "S390",
        "S390X",
    ]
    .map(|name| format!("SCMP_ARCH_{name}"));
    let mut all = vec!["SCMP_ARCH_X86"];
    all.extend(foreign.iter().map(String::as_str));
    assert_eq!(filter(&all), filter(&["SCMP_ARCH_X86"]));
    assert_ne!(filter(&all), filter(&[]));
}

#[test]
fn what_cannot_be_done_is_named() {
    let refuse = |profile: serde_json::Value| {
        compile(&serde_json::from_value(profile).unwrap(), Arch::X86_64)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refuse(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000})),
        "linux.seccomp: errnoRet = 5000, the largest is 4095"
    );
    assert_eq!(
        refuse(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}]})),
        "linux.seccomp: SCMP_ACT_NOTIFY is not supported for write"
    );
    assert_eq!(
        refuse(json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        "linux.seccomp: SCMP_ACT_NOTIFY is not supported as the default action"
    );
    assert_eq!(
        refuse(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]})),
        "linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: not supported by Duet"
    );
    assert_eq!(
        refuse(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]})),
        "linux.seccomp.syscalls: read: args.index = 6, the last is 5"
    );
}
