//! Mounts: made detached, changed while nobody can see them, attached by descriptor.

use core::ffi::CStr;

use duet_step::{Destination, Mount, Op, Reg, Slot, Source, Text, Texts};

use crate::copy_up::copy_up;
use crate::devices::encode;
use crate::fault::{Fault, unless};
use crate::paths::{Owner, ensure, resolve};
use crate::run::Child;
use crate::syscalls::{self, Config, Fd, NO_MAGICLINKS, PlainCall, plain};

/// `MOUNT_ATTR_RDONLY`.
pub(crate) const RDONLY: u64 = 1;
/// The bits of a mode that are not the file's type.
const PERMISSIONS: u32 = 0o7777;
/// The longest key of `fsconfig`, its NUL included; the kernel takes no longer one.
const KEY_MAX: usize = 256;
/// `MS_REC`, which may come with a propagation type.
const REC: u32 = 1 << 14;
const UNBINDABLE: u32 = 1 << 17;
const PRIVATE: u32 = 1 << 18;
const SLAVE: u32 = 1 << 19;
const SHARED: u32 = 1 << 20;
const PROPAGATION: u32 = UNBINDABLE | PRIVATE | SLAVE | SHARED;

impl Child<'_> {
    /// Sets the propagation of a mount, and of all below it with `MS_REC`.
    pub(crate) fn propagation(&self, path: Text, flags: u32) -> Result<(), Fault> {
        let path = self.code.text(path)?;
        let at = syscalls::openat2(libc::AT_FDCWD, path, libc::O_PATH, NO_MAGICLINKS)?;
        let recursive = flags & REC != 0;
        syscalls::mount_setattr(at.number(), recursive, 0, 0, flags & PROPAGATION)
    }

    /// Attaches the container's root where `pivot_root` can take it from.
    pub(crate) fn attach_root(
        &mut self,
        tree: Slot,
        at: Option<Text>,
        propagation: u32,
    ) -> Result<(), Fault> {
        let tree = self.code.slot(tree)?;
        let propagation = propagation & PROPAGATION;
        if propagation != 0 {
            syscalls::mount_setattr(tree, true, 0, 0, propagation)?;
        }
        match at {
            Some(at) => syscalls::attach_path(tree, self.code.text(at)?)?,
            // Root of a user namespace may not be allowed to walk there.
            None => syscalls::attach(tree, libc::AT_FDCWD)?,
        }
        self.keep(Reg::Root, tree)
    }

    /// Mounts a procfs that no path leads to.
    pub(crate) fn private_proc(&mut self) -> Result<(), Fault> {
        let context = syscalls::fsopen(c"proc")?;
        syscalls::fsconfig(&context, Config::Create)?;
        let proc = syscalls::fsmount(&context, 0)?;
        self.keep(Reg::Proc, proc.number())
    }

    /// Makes a mount, changes it, attaches it.
    pub(crate) fn mount(&mut self, mount: &Mount) -> Result<(), Fault> {
        let made;
        let (tree, set) = match mount.source {
            Source::Filesystem {
                fstype,
                source,
                options,
            } => {
                made = self.filesystem(fstype, source, options, mount.set)?;
                (made.number(), 0)
            }
            Source::Tree(slot) => (self.code.slot(slot)?, mount.set),
            Source::Host(path) => {
                let path = self.code.text(path)?;
                let place = syscalls::openat2(libc::AT_FDCWD, path, libc::O_PATH, 0)?;
                made = syscalls::clone_mount(place.number(), false)?;
                (made.number(), mount.set)
            }
            Source::Made(register) => (self.register(register)?, mount.set),
        };
        if mount.cut != 0 {
            syscalls::mount_setattr(tree, true, 0, 0, mount.cut)?;
        }
        let once = if mount.propagation_recursive {
            0
        } else {
            mount.propagation
        };
        if set | mount.clear | u64::from(once) != 0 {
            syscalls::mount_setattr(tree, false, set, mount.clear, once)?;
        }
        let (set, clear) = (mount.set_recursive, mount.clear_recursive);
        let below = mount.propagation ^ once;
        if set | clear | u64::from(below) != 0 {
            syscalls::mount_setattr(tree, true, set, clear, below)?;
        }
        let root = self.register(Reg::Root)?;
        let target = self.code.text(mount.target)?;
        if mount.inherit_mode {
            // Asked before it is made, for then it has no mode that anybody has chosen.
            if let Some(covered) = unless(libc::ENOENT, resolve(root, target))? {
                let (mode, _) = syscalls::fstat(covered.number())?;
                syscalls::fchmodat(tree, c".", mode & PERMISSIONS)?;
            }
        }
        if mount.copy_up {
            copy_up(root, target, tree)?;
        }
        let place = ensure(root, target, mount.kind, Owner::ROOT)?;
        // A link of the image may lead back to the root. What is stacked on that nobody sees, and
        // whose root lies below another mount may make no user namespace (`current_chrooted`).
        if syscalls::identity(place.number())? == syscalls::identity(root)? {
            return Err(Fault::check(libc::EBUSY));
        }
        syscalls::attach(tree, place.number())?;
        if let Some(register) = of_kernel(target) {
            self.keep(register, tree)?;
        }
        if let Some(register) = mount.keep {
            self.keep(register, tree)?;
        }
        Ok(())
    }

    /// Shows a mount of a `/dev` that was covered in the one that covers it.
    pub(crate) fn carry(&self, path: Text) -> Result<(), Fault> {
        let path = self.code.text(path)?;
        let Some(from) = unless(libc::ENOENT, resolve(self.register(Reg::Covered)?, path))? else {
            return Ok(());
        };
        let (mode, device) = syscalls::fstat(from.number())?;
        let kind = match mode & libc::S_IFMT {
            libc::S_IFDIR => Destination::Directory,
            // A mount may be one of a device, too; that of nothing is what files are hidden with.
            libc::S_IFBLK => return Ok(()),
            libc::S_IFCHR if device != u64::from(encode(1, 3)?) => return Ok(()),
            _ => Destination::File,
        };
        // What is mounted below it is carried by itself, if it may be seen.
        let copy = syscalls::clone_mount(from.number(), false)?;
        let to = ensure(self.register(Reg::Dev)?, path, kind, Owner::ROOT)?;
        syscalls::attach(copy.number(), to.number())
    }

    /// Makes a file system that a later step attaches.
    pub(crate) fn detached(
        &mut self,
        source: &Source,
        attributes: u64,
        register: Reg,
    ) -> Result<(), Fault> {
        let Source::Filesystem {
            fstype,
            source,
            options,
        } = *source
        else {
            return Err(Fault::check(libc::EINVAL));
        };
        let made = self.filesystem(fstype, source, options, attributes)?;
        self.keep(register, made.number())
    }

    /// A detached mount of a new file system.
    fn filesystem(
        &self,
        fstype: Text,
        source: Text,
        options: Texts,
        attributes: u64,
    ) -> Result<Fd, Fault> {
        let context = syscalls::fsopen(self.code.text(fstype)?)?;
        let source = self.code.text(source)?;
        if !source.is_empty() {
            syscalls::fsconfig(&context, Config::Text(c"source", source))?;
        }
        for option in self.code.texts(options)? {
            configure(&context, self.code.text(*option)?)?;
        }
        syscalls::fsconfig(&context, Config::Create)?;
        let attributes = u32::try_from(attributes).map_err(|_| Fault::check(libc::EINVAL))?;
        syscalls::fsmount(&context, attributes)
    }

    /// Changes attributes of a mount that is there.
    pub(crate) fn remount(&self, path: Text, set: u64, clear: u64) -> Result<(), Fault> {
        let at = resolve(self.register(Reg::Root)?, self.code.text(path)?)?;
        syscalls::mount_setattr(at.number(), false, set, clear, 0)
    }

    /// Makes the root mount read-only.
    pub(crate) fn read_only_root(&self) -> Result<(), Fault> {
        syscalls::mount_setattr(self.register(Reg::Root)?, false, RDONLY, 0, 0)
    }

    /// Makes the container's root the root, and lets the host's go.
    pub(crate) fn pivot(&self) -> Result<(), Fault> {
        let root = self.register(Reg::Root)?;
        plain(Op::Chdir, PlainCall::Fchdir, [root.cast_unsigned(), 0, 0])?;
        // Both arguments may be the same directory: the old root is then stacked on the new
        // one, and the cwd still leads to it. pivot_root(2) describes this.
        syscalls::pivot_root()?;
        syscalls::detach_cwd()?;
        syscalls::chdir(c"/")
    }
}

/// Where what is mounted at a path is kept, if that is one whose insides are protected.
pub(crate) fn of_kernel(path: &CStr) -> Option<Reg> {
    match path.to_bytes() {
        b"/proc" => Some(Reg::Procfs),
        b"/sys" => Some(Reg::Sysfs),
        _ => None,
    }
}

/// Says one option, `key` or `key=value`, to a file system that is being made.
fn configure(context: &Fd, option: &CStr) -> Result<(), Fault> {
    let bytes = option.to_bytes_with_nul();
    let Some(equals) = bytes.iter().position(|byte| *byte == b'=') else {
        return syscalls::fsconfig(context, Config::Flag(option));
    };
    let mut key = [0; KEY_MAX];
    // One byte stays for the NUL.
    if equals >= KEY_MAX {
        return Err(Fault::check(libc::ENAMETOOLONG));
    }
    for (to, from) in key.iter_mut().zip(bytes.iter().take(equals)) {
        *to = *from;
    }
    let key = CStr::from_bytes_until_nul(&key).ok();
    let value = bytes
        .get(equals.saturating_add(1)..)
        .and_then(|value| CStr::from_bytes_with_nul(value).ok());
    let (key, value) = key.zip(value).ok_or(Fault::check(libc::EINVAL))?;
    syscalls::fsconfig(context, Config::Text(key, value))
}
