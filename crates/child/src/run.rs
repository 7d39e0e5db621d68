//! The loop over the steps, and the gate.

use core::ffi::{CStr, c_int};

use duet_step::{Exec, Message, Op, Reg, Step, Text};

use crate::code::Code;
use crate::fault::{Fault, unless};
use crate::program::enter;
use crate::syscalls::{self, Fd, PlainCall, plain};

/// What the child remembers between steps.
pub(crate) struct Child<'a> {
    pub(crate) code: &'a Code<'a>,
    registers: [Option<Fd>; Reg::COUNT],
    /// `/dev/null` of the container, verified, opened as a place only.
    pub(crate) null: Option<Fd>,
    /// The program, once it is found.
    pub(crate) found: Option<&'a CStr>,
    /// Where the program may be, if a system call filter forbids to look.
    pub(crate) unseen: &'a [Text],
    /// The number of the step at hand, which a failure is about.
    at: u32,
    /// A working directory that root may not enter, and the step that tried.
    refused: Option<(u32, &'a CStr)>,
}

/// Becomes the program that `code` describes, or sends [`Message::FAILED`] and ends.
///
/// Sends [`Message::READY`] and waits at the gate for one byte; a closed channel ends the process
/// without a word.
///
/// # Safety
///
/// The caller is a process of one thread whose memory is a copy (`clone3` without `CLONE_VM`),
/// and nothing that lives in that copy is used by anyone else. `code.argv` and `code.envp` end
/// with null and hold pointers to NUL-terminated strings.
pub unsafe fn run(code: &Code<'_>) -> ! {
    let mut child = Child {
        code,
        registers: [const { None }; Reg::COUNT],
        null: None,
        found: None,
        unseen: &[],
        at: 0,
        refused: None,
    };
    if let Err(fault) = child.settle() {
        child.fail(fault);
    }
    for step in code.steps {
        if let Err(fault) = child.step(step) {
            child.fail(fault);
        }
        child.at = child.at.wrapping_add(1);
    }
    // A plan that does not end in Exec is a mistake of the plan's.
    child.fail(Fault::check(libc::EINVAL))
}

// === impl Child ===

impl Child<'_> {
    /// Leaves the parent's world: signals, descriptors, dumpability, file mode mask.
    fn settle(&self) -> Result<(), Fault> {
        syscalls::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
        let mut ignored = self.code.ignored;
        while ignored != 0 {
            let bit = ignored.trailing_zeros();
            syscalls::default_signal(bit.wrapping_add(1))?;
            ignored &= ignored.wrapping_sub(1);
        }
        syscalls::block_signals(0)?;
        // Not close-on-exec but closed: while the child stands at the gate, the end of a pipe
        // that it was born with would keep the pipe's reader waiting.
        let mut from = 3_u32;
        for number in self.code.keep {
            let number = u32::try_from(*number).map_err(|_| Fault::check(libc::EBADF))?;
            if number > from {
                syscalls::close_range(from, number.wrapping_sub(1))?;
            }
            from = number.wrapping_add(1);
        }
        syscalls::close_range(from, u32::MAX)?;
        // Modes are meant as they are written, until the plan sets the program's mask.
        plain(Op::Step, PlainCall::Umask, [0; 3]).map(|_| ())
    }

    fn fail(&self, fault: Fault) -> ! {
        let message = Message {
            kind: Message::FAILED,
            step: self.at,
            op: fault.op as u32,
            errno: fault.errno,
        };
        // There is nobody else to tell when this fails too; the parent sees the channel close.
        syscalls::send(self.code.channel, &message).unwrap_or(());
        syscalls::exit(1)
    }

    /// The descriptor in a register.
    pub(crate) fn register(&self, register: Reg) -> Result<c_int, Fault> {
        let held = self.registers.get(register as usize);
        held.and_then(Option::as_ref)
            .map(Fd::number)
            .ok_or(Fault::check(libc::EBADF))
    }

    /// Keeps a copy of a descriptor in a register, out of the way of the program's own numbers.
    pub(crate) fn keep(&mut self, register: Reg, file: c_int) -> Result<(), Fault> {
        let lifted = syscalls::dup_above(file, Code::FIRST_OWN)?;
        if let Some(place) = self.registers.get_mut(register as usize) {
            *place = Some(lifted);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Fault> {
        match *step {
            Step::Await | Step::Gate => self.wait(),
            Step::JoinCgroup(tasks) | Step::JoinClass(tasks) => self.join(tasks),
            Step::Setns(slot, flags) => syscalls::setns(self.code.slot(slot)?, flags),
            Step::Unshare(flags) => syscalls::unshare(flags),
            Step::TimeNamespace(offsets) => self.time_namespace(offsets),
            Step::Detached(ref source, attributes, register) => {
                self.detached(source, attributes, register)
            }
            Step::HostDir(path) => syscalls::chdir(self.code.text(path)?),
            Step::MappedRoot => self.mapped_root(),
            Step::Fork(flags) => self.fork(flags),
            Step::Loopback => syscalls::loopback_up(),
            Step::Setsid => plain(Op::Step, PlainCall::Setsid, [0; 3]).map(|_| ()),
            Step::Propagation(path, flags) => self.propagation(path, flags),
            Step::AttachRoot {
                tree,
                at,
                propagation,
            } => self.attach_root(tree, at, propagation),
            Step::Open(path, register) => self.open(path, register),
            Step::PrivateProc => self.private_proc(),
            Step::Mount(ref mount) => self.mount(mount),
            Step::Carry(path) => self.carry(path),
            Step::MakeDir(path, uid, gid) => self.make_dir(path, uid, gid),
            Step::Node(ref node) => self.node(node),
            Step::Symlink(base, target, path) => self.symlink(base, target, path),
            Step::Console { uid, rows, cols } => self.console(uid, rows, cols),
            Step::BindConsole => self.bind_console(),
            Step::Remount(path, set, clear) => self.remount(path, set, clear),
            Step::ReadOnlyRoot => self.read_only_root(),
            Step::Pivot => self.pivot(),
            Step::LockMounts => self.lock_mounts(),
            Step::Sysctl(path, value) => self.sysctl(path, value),
            Step::ReadOnly(path) => self.read_only(path),
            Step::Mask(path) => self.mask(path),
            Step::Hostname(name) => syscalls::sethostname(self.code.text(name)?.to_bytes()),
            Step::Domainname(name) => syscalls::setdomainname(self.code.text(name)?.to_bytes()),
            Step::Hold(signals) => syscalls::block_signals(signals),
            Step::Umask(mask) => plain(Op::Step, PlainCall::Umask, [mask, 0, 0]).map(|_| ()),
            Step::Rlimit {
                resource,
                soft,
                hard,
            } => syscalls::setrlimit(resource, soft, hard),
            Step::OomScoreAdj(value) => self.oom_score_adj(value),
            Step::Label(attribute, value) => self.label(attribute, value),
            Step::IoPriority(value) => {
                const WHO_PROCESS: u32 = 1;
                let args = [WHO_PROCESS, 0, value.cast_unsigned()];
                plain(Op::Step, PlainCall::IoprioSet, args).map(|_| ())
            }
            Step::Scheduler(ref scheduler) => syscalls::sched_setattr(scheduler),
            Step::Personality(domain) => {
                plain(Op::Step, PlainCall::Personality, [domain, 0, 0]).map(|_| ())
            }
            Step::MemoryPolicy { mode, first, len } => {
                syscalls::set_mempolicy(mode, self.code.groups(first, len)?)
            }
            Step::Affinity { first, len } => {
                syscalls::sched_setaffinity(self.code.groups(first, len)?)
            }
            Step::ControllingTerminal => self.controlling_terminal(),
            Step::Dup(slot, number) => syscalls::dup_to(self.code.slot(slot)?, number),
            Step::Null(number) => self.null_to(number),
            Step::Keyring(name) => {
                let joined = syscalls::join_session_keyring(self.code.text(name)?);
                unless(libc::ENOSYS, joined).map(|_| ())
            }
            Step::NoNewPrivileges => syscalls::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(|_| ()),
            Step::Seccomp(program, flags) => {
                let listener = syscalls::seccomp(self.code.program(program)?, flags)?;
                match listener {
                    None => Ok(()),
                    Some(listener) => self.tell(Message::LISTENER, listener),
                }
            }
            Step::Groups { first, len } => syscalls::setgroups(self.code.groups(first, len)?),
            Step::User { uid, gid } => {
                self.user(uid, gid)?;
                self.chdir_as_user()
            }
            Step::Bounding(mask) => self.bounding(mask),
            Step::Capabilities(ref sets) => self.capabilities(sets),
            Step::Chdir(path) => self.chdir(path),
            Step::FindProgram(candidates) => self.find_program(candidates),
            Step::CloseFrom(number) => syscalls::cloexec_from(number),
            Step::Pause => self.tell(Message::PAUSED, 0),
            Step::Ready => self.say(Message::READY, 0),
            Step::Exec(exec) => self.exec(exec),
        }
    }

    fn join(&self, tasks: Text) -> Result<(), Fault> {
        let tasks = self.code.text(tasks)?;
        let tasks = syscalls::openat2(libc::AT_FDCWD, tasks, libc::O_WRONLY, 0)?;
        syscalls::write(tasks.number(), b"0")
    }

    /// Goes to the working directory. Where root may not go, on a network file system whose
    /// server knows no root, the user goes as soon as there is one.
    fn chdir(&mut self, path: Text) -> Result<(), Fault> {
        let path = self.code.text(path)?;
        match enter(path) {
            Err(fault) if fault.errno == libc::EACCES => {
                self.refused = Some((self.at, path));
                Ok(())
            }
            done => done,
        }
    }

    fn chdir_as_user(&mut self) -> Result<(), Fault> {
        let Some((step, path)) = self.refused.take() else {
            return Ok(());
        };
        let entered = enter(path);
        if entered.is_err() {
            self.at = step;
        }
        entered
    }

    /// Hands the rest of the plan to a new child of the parent's, and ends.
    ///
    /// Whoever has joined another user namespace is not in the PID namespace that it makes: that
    /// is its children's. procfs wants both of one owner.
    fn fork(&self, flags: u32) -> Result<(), Fault> {
        let Some((pid, pidfd)) = syscalls::clone_beside(flags)? else {
            return Ok(());
        };
        let born = Message {
            kind: Message::BORN,
            step: pid,
            op: 0,
            errno: 0,
        };
        if let Err(fault) = syscalls::send_with(self.code.channel, &born, &pidfd) {
            // Nobody knows of the new process, which would keep the channel open at its gate.
            syscalls::kill(&pidfd).unwrap_or(());
            return Err(fault);
        }
        syscalls::exit(0)
    }

    /// Tells the parent how far it has come, and waits for its word.
    fn tell(&self, kind: u32, what: u32) -> Result<(), Fault> {
        self.say(kind, what)?;
        self.wait()
    }

    fn say(&self, kind: u32, what: u32) -> Result<(), Fault> {
        let message = Message {
            kind,
            step: what,
            op: 0,
            errno: 0,
        };
        syscalls::send(self.code.channel, &message)
    }

    fn wait(&self) -> Result<(), Fault> {
        if syscalls::read_byte(self.code.channel)?.is_some() {
            return Ok(());
        }
        // The parent has dropped its end, or is no more.
        syscalls::exit(1)
    }

    fn exec(&self, exec: Exec) -> Result<(), Fault> {
        // Nothing but exec: a seccomp filter may already be in force that allows no more.
        match exec {
            Exec::Path => self.run_program(),
            Exec::Slot(slot) => self.code.exec_file(self.code.slot(slot)?),
        }
    }
}
