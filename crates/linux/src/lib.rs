//! The kernel calls Duet makes, one function each.
//!
//! What `rustix` or `nix` wraps safely is used through them. What neither wraps is here once:
//!
//! | File | Call | Why not through a safe wrapper | Since |
//! | --- | --- | --- | --- |
//! | `clone.rs` | `clone3(2)` | not wrapped | Linux 5.3 (`CLONE_INTO_CGROUP` 5.7) |
//! | `mount_attr.rs` | `mount_setattr(2)` | not wrapped | Linux 5.12 |
//! | `bpf.rs` | `bpf(2)`: load, attach, detach, query | not wrapped | Linux 4.15 |
//! | `pidfd_signal.rs` | `pidfd_send_signal(2)` | rustix takes no real-time signals | Linux 5.1 |
//! | `seccomp.rs` | `seccomp(2)` | not wrapped | Linux 3.17 |
//! | `code.rs` | `prctl(2)`: `PR_SET_MDWE` | not wrapped | Linux 6.3 |
//! | `dispositions.rs` | `rt_sigaction(2)`, to ask | nix and rustix only set, libc hides two signals | – |
//! | `heap.rs` | `mallopt(3)`, `malloc_trim(3)` | not wrapped | – |
//! | `loop_device.rs` | `ioctl(2)` of `loop(4)` | not wrapped | Linux 5.8 (`LOOP_CONFIGURE`) |
//! | `names.rs` | `__nss_configure_lookup` | not wrapped | – |
//! | `owner.rs` | `ioctl_ns(2)`: the user namespace of another | not wrapped | Linux 4.9 |
//! | `shared.rs` | `mmap(2)` of a number in a file | unsafe in both | – |
//! | `text.rs` | `madvise(2)` on the program itself | unsafe in both | – |
//!
//! The other `unsafe` code of the workspace is the child half of a birth (`duet-child`), which
//! may call no library at all, the one call in `duet-launch` that starts it, and two files of `duet-wasm`.
#![deny(unsafe_code)]

pub mod appends;
#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]
pub mod bpf;
pub mod channel;
#[expect(unsafe_code, reason = "clone3(2) has no safe wrapper")]
pub mod clone;
#[expect(unsafe_code, reason = "prctl(2) has no wrapper for this")]
pub mod code;
#[expect(
    unsafe_code,
    reason = "rt_sigaction(2) has no safe wrapper that only asks"
)]
mod dispositions;
pub mod file;
pub mod filter;
#[expect(
    unsafe_code,
    reason = "mallopt(3) and malloc_trim(3) have no safe wrapper"
)]
pub mod heap;
pub mod kernel;
#[expect(unsafe_code, reason = "the ioctls of loop(4) have no safe wrapper")]
pub mod loop_device;
pub mod memfd;
pub mod mount;
#[expect(unsafe_code, reason = "mount_setattr(2) has no safe wrapper")]
mod mount_attr;
#[expect(unsafe_code, reason = "a function of glibc's alone")]
pub mod names;
pub mod namespace;
pub mod net;
#[expect(unsafe_code, reason = "ioctl_ns(2) has no safe wrapper")]
pub mod owner;
#[expect(
    unsafe_code,
    reason = "pidfd_send_signal(2) has no wrapper for every signal"
)]
mod pidfd_signal;
pub mod process;
pub mod program;
pub mod rtnetlink;
#[expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]
pub mod seccomp;
pub mod selinux;
#[expect(unsafe_code, reason = "mmap(2) has no safe wrapper")]
pub mod shared;
pub mod signals;
#[expect(unsafe_code, reason = "madvise(2) has no safe wrapper")]
pub mod text;
