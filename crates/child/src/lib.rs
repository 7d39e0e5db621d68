//! The child half of a birth: what runs between `clone3` and `execve`.
//!
//! The child is a copy of a process with threads. Another thread may have held any lock when
//! the copy was made, the allocator's among them, and nobody is left to release it. So this
//! crate has no allocator, no formatting, no library call and no reachable panic: it walks the
//! plan's steps and makes system calls by hand. `no_std` without `alloc` makes most of that a
//! fact of the compiler.
//!
//! | File | What |
//! | --- | --- |
//! | `raw.rs` | the system call instruction |
//! | `syscalls.rs`, `syscalls/` | one function for each call, safe to use |
//! | `fault.rs` | a failed call |
//! | `code.rs` | what the child is given, and how it is looked up |
//! | `paths.rs` | walking and making paths below the root |
//! | `mounts.rs`, `masks.rs` | mounts, masked and read-only paths |
//! | `locks.rs` | the finished tree, locked against root of a user namespace |
//! | `devices.rs`, `console.rs` | `/dev` |
//! | `privileges.rs` | user, capabilities, seccomp |
//! | `program.rs` | cwd, the program, exec |
//! | `run.rs` | the loop over the steps, and the gate |
//!
//! `unsafe` is in `raw.rs`, `syscalls/` and the two files that say so below.
//!
//! Until the last step the process is not dumpable: a neighbour in a shared PID namespace can
//! neither trace it nor open what it holds. It starts by closing every descriptor that the plan
//! did not name, so a container that is created and not started keeps nobody's pipe open.
#![no_std]
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "argv and envp are pointers by nature")]
mod code;
mod console;
mod copy_up;
mod devices;
mod fault;
mod locks;
mod masks;
mod mounts;
mod paths;
mod privileges;
mod program;
#[expect(unsafe_code, reason = "a system call is an instruction")]
mod raw;
#[expect(unsafe_code, reason = "its entry point is unsafe to call")]
mod run;
#[expect(unsafe_code, reason = "system calls without libc")]
mod syscalls;

pub use code::Code;
pub use run::run;
