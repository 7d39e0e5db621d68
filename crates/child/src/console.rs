//! The console: a terminal of the container's own devpts, its master given to the parent.

use duet_step::{Message, Reg};

use crate::devices::encode;
use crate::fault::{Fault, unless};
use crate::run::Child;
use crate::syscalls;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS: i64 = 0x1cd1;

impl Child<'_> {
    /// Allocates the console.
    ///
    /// Not through `/dev/ptmx` or `/dev/pts/0` of the container: by then these may lead anywhere
    /// (CVE-2025-52565). The devpts itself is asked, and the peer comes by descriptor.
    pub(crate) fn console(&mut self, uid: u32, rows: u16, cols: u16) -> Result<(), Fault> {
        let pts = self.register(Reg::Pts)?;
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        if syscalls::fstatfs(pts)? != DEVPTS {
            return Err(Fault::check(libc::ENODEV));
        }
        let master = syscalls::open_name(pts, c"ptmx", flags, 0)?;
        let (mode, device) = syscalls::fstat(master.number())?;
        if mode & libc::S_IFMT != libc::S_IFCHR || device != u64::from(encode(5, 2)?) {
            return Err(Fault::check(libc::ENODEV));
        }
        syscalls::terminal_unlock(&master)?;
        let user = syscalls::terminal_peer(&master)?;
        if (rows, cols) != (0, 0) {
            syscalls::terminal_size(&user, rows, cols)?;
        }
        // The group stays the one that devpts was mounted with.
        syscalls::fchown(user.number(), uid, u32::MAX)?;
        let message = Message {
            kind: Message::CONSOLE,
            step: 0,
            op: 0,
            errno: 0,
        };
        syscalls::send_with(self.code.channel, &message, &master)?;
        self.keep(Reg::Console, user.number())
    }

    /// Binds the console over `/dev/console`.
    pub(crate) fn bind_console(&self) -> Result<(), Fault> {
        let dev = self.register(Reg::Dev)?;
        let create = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        unless(
            libc::EEXIST,
            syscalls::open_name(dev, c"console", create, 0o600),
        )?;
        let at = syscalls::open_name(dev, c"console", libc::O_PATH, 0)?;
        let console = syscalls::clone_mount(self.register(Reg::Console)?, false)?;
        syscalls::attach(console.number(), at.number())
    }

    /// Makes the console the controlling terminal, and 0, 1 and 2.
    pub(crate) fn controlling_terminal(&self) -> Result<(), Fault> {
        let console = self.register(Reg::Console)?;
        let request = syscalls::ioctl_word(libc::TIOCSCTTY);
        syscalls::ioctl_number(console, request, 0)?;
        for number in 0..3 {
            syscalls::dup_to(console, number)?;
        }
        Ok(())
    }
}
