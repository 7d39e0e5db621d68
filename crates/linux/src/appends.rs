//! Writes to the end of a file, where overlayfs writes them to its start.

use std::io;

use crate::kernel;
use crate::seccomp::{self, Insn};

/// The first kernel whose overlayfs hands `RWF_APPEND` on to the file below ("ovl: propagate `IOCB_APPEND` flag on
/// writes to realfile", 5f034d34737e). One that does not writes at the offset that came with the flag, which is 0.
const HANDED_ON: (u32, u32) = (6, 7);

/// From now on, on a kernel that is older, `pwritev2(2)` with `RWF_APPEND` and nothing else is refused with
/// `EOPNOTSUPP`, as file systems refuse flags that they do not know. Who is refused sets `O_APPEND`, which overlayfs
/// hands on.
///
/// As for [`seccomp::install`], the thread must have said `no_new_privs`, and what it starts inherits it.
///
/// # Errors
///
/// The kernel's, or those of the filter that the process has already.
pub fn by_a_flag_are_refused_where_they_are_lost() -> io::Result<()> {
    if kernel::is_at_least(HANDED_ON) {
        return Ok(());
    }
    seccomp::install(&refusal())
}

/// Calls of another architecture have other numbers; no program of ours makes any.
fn refusal() -> [Insn; 6] {
    const LD_ABS: u16 = 0x20;
    const JEQ: u16 = 0x15;
    const RET: u16 = 0x06;
    /// Of `struct seccomp_data`: the number, and the lower half of the sixth argument.
    const NUMBER: u32 = 0;
    const FLAGS: u32 = 16 + 5 * 8;
    let insn = |code, jt, jf, k: u32| Insn { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_pwritev2).expect("numbers of calls are small");
    let flag = libc::RWF_APPEND.cast_unsigned();
    let refused = libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP.cast_unsigned();
    [
        insn(LD_ABS, 0, 0, NUMBER),
        insn(JEQ, 0, 3, number),
        insn(LD_ABS, 0, 0, FLAGS),
        insn(JEQ, 0, 1, flag),
        insn(RET, 0, 0, refused),
        insn(RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd as _;

    use rustix::io::{Errno, ReadWriteFlags, pwritev2};

    use super::*;

    #[test]
    fn only_a_write_that_is_to_append_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        // The filter stays with the thread that has it.
        let refused = std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                seccomp::install(&refusal()).unwrap();
                let write = |flags| {
                    let piece = [io::IoSlice::new(b"x")];
                    pwritev2(file.as_fd(), &piece, 1, flags)
                };
                assert_eq!(write(ReadWriteFlags::empty()), Ok(1));
                assert_eq!(write(ReadWriteFlags::DSYNC), Ok(1));
                write(ReadWriteFlags::APPEND)
            });
            filtered.join().unwrap()
        });
        assert_eq!(refused, Err(Errno::OPNOTSUPP));
        file.write_all(b"y").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "yx");
    }
}
