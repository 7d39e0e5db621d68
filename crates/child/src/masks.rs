//! Paths that the container may not change, or may not see, and what is written to procfs.

use core::ffi::{CStr, c_int};

use duet_step::{Reg, Text};

use crate::fault::{Fault, unless};
use crate::mounts::{RDONLY, of_kernel};
use crate::paths::resolve;
use crate::run::Child;
use crate::syscalls::{self, Config, Fd};

impl Child<'_> {
    /// Opens a path of the container when it is there.
    fn existing(&self, path: Text) -> Result<Option<Fd>, Fault> {
        let (base, path) = self.base(self.code.text(path)?)?;
        unless(libc::ENOENT, resolve(base, path))
    }

    /// Where a path is walked from, and what remains of it.
    ///
    /// What was mounted at `/proc` and `/sys` is not looked for: through a link of the image it may
    /// lie where a later mount has covered the way, and a guest may have renamed it meanwhile.
    /// Protection would then be skipped as that of something missing.
    fn base<'p>(&self, path: &'p CStr) -> Result<(c_int, &'p CStr), Fault> {
        let kept = [(Reg::Procfs, &b"/proc"[..]), (Reg::Sysfs, b"/sys")];
        for (register, prefix) in kept {
            let rest = path.to_bytes_with_nul().strip_prefix(prefix);
            let rest = rest.and_then(|rest| CStr::from_bytes_with_nul(rest).ok());
            let (Some(rest), Ok(kept)) = (rest, self.register(register)) else {
                continue;
            };
            match rest.to_bytes().first() {
                None => return Ok((kept, c"/")),
                // A way that leads out again is walked from the root, as it is meant.
                Some(b'/') if !leads_up(rest) => return Ok((kept, rest)),
                Some(_) => {}
            }
        }
        Ok((self.register(Reg::Root)?, path))
    }

    /// Binds a path onto itself, read-only.
    pub(crate) fn read_only(&mut self, path: Text) -> Result<(), Fault> {
        let Some(at) = self.existing(path)? else {
            return Ok(());
        };
        let tree = syscalls::clone_mount(at.number(), true)?;
        // Everything below too: a mount of the container's own must not be a way around.
        syscalls::mount_setattr(tree.number(), true, RDONLY, 0, 0)?;
        syscalls::attach(tree.number(), at.number())?;
        // It covers the one that was kept.
        match of_kernel(self.code.text(path)?) {
            Some(register) => self.keep(register, tree.number()),
            None => Ok(()),
        }
    }

    /// Hides a path.
    pub(crate) fn mask(&mut self, path: Text) -> Result<(), Fault> {
        let Some(at) = self.existing(path)? else {
            return Ok(());
        };
        let (mode, _) = syscalls::fstat(at.number())?;
        if mode & libc::S_IFMT != libc::S_IFDIR {
            let null = syscalls::clone_mount(self.null_place()?, false)?;
            return syscalls::attach(null.number(), at.number());
        }
        if let Ok(empty) = self.register(Reg::Empty) {
            let empty = syscalls::clone_mount(empty, false)?;
            return syscalls::attach(empty.number(), at.number());
        }
        // The first is attached before it is cloned: up to Linux 6.14 a detached mount cannot be.
        let context = syscalls::fsopen(c"tmpfs")?;
        syscalls::fsconfig(&context, Config::Text(c"source", c"tmpfs"))?;
        syscalls::fsconfig(&context, Config::Flag(c"ro"))?;
        syscalls::fsconfig(&context, Config::Create)?;
        let empty = syscalls::fsmount(&context, u32::try_from(RDONLY).unwrap_or(1))?;
        syscalls::attach(empty.number(), at.number())?;
        self.keep(Reg::Empty, empty.number())
    }

    /// Writes a sysctl through the private procfs.
    pub(crate) fn sysctl(&self, path: Text, value: Text) -> Result<(), Fault> {
        let sys = self.proc(c"sys", libc::O_PATH | libc::O_DIRECTORY)?;
        let path = self.code.text(path)?;
        let file = syscalls::openat2(sys.number(), path, libc::O_WRONLY, syscalls::PROCFS)?;
        syscalls::write(file.number(), self.code.text(value)?.to_bytes())
    }

    /// Writes the caller's badness for the OOM killer.
    pub(crate) fn oom_score_adj(&self, value: Text) -> Result<(), Fault> {
        let file = self.proc(c"self/oom_score_adj", libc::O_WRONLY)?;
        syscalls::write(file.number(), self.code.text(value)?.to_bytes())
    }

    /// Writes a security attribute of the caller.
    pub(crate) fn label(&self, attribute: Text, value: Text) -> Result<(), Fault> {
        let file = self.proc(self.code.text(attribute)?, libc::O_WRONLY)?;
        // In one call: the kernel takes each write for a whole label.
        syscalls::write(file.number(), self.code.text(value)?.to_bytes())
    }

    /// Makes a time namespace, sets its clocks, and enters it.
    ///
    /// Whoever makes one is not in it: its children would be, and who executes a program from
    /// Linux 6.1 on. `setns` is right in all.
    pub(crate) fn time_namespace(&self, offsets: Text) -> Result<(), Fault> {
        const NEWTIME: u32 = libc::CLONE_NEWTIME.cast_unsigned();
        syscalls::unshare(NEWTIME)?;
        let offsets = self.code.text(offsets)?.to_bytes();
        if !offsets.is_empty() {
            // In one call, before anybody is in it: the kernel takes no second one.
            let file = self.proc(c"self/timens_offsets", libc::O_WRONLY)?;
            syscalls::write(file.number(), offsets)?;
        }
        let made = self.own_namespace(c"time_for_children")?;
        syscalls::setns(made.number(), NEWTIME)
    }

    /// A namespace of the caller's.
    pub(crate) fn own_namespace(&self, name: &CStr) -> Result<Fd, Fault> {
        let namespaces = self.proc(c"self/ns", libc::O_PATH | libc::O_DIRECTORY)?;
        // One of the links that procfs makes up, in a procfs that is ours.
        syscalls::openat2(namespaces.number(), name, libc::O_RDONLY, 0)
    }

    pub(crate) fn proc(&self, path: &CStr, flags: c_int) -> Result<Fd, Fault> {
        syscalls::openat2(self.register(Reg::Proc)?, path, flags, syscalls::PROCFS)
    }
}

fn leads_up(path: &CStr) -> bool {
    let mut names = path.to_bytes().split(|byte| *byte == b'/');
    names.any(|name| name == b"..")
}
