//! Writes to the end of a file, where overlayfs writes them to its start.

use crate::filter::{ALLOW, BPF_JEQ, Insn, answer, argument, jump, load, refused};
use crate::kernel;

/// The first kernel whose overlayfs hands `RWF_APPEND` on to the file below ("ovl: propagate `IOCB_APPEND` flag on
/// writes to realfile", 5f034d34737e). One that does not writes at the offset that came with the flag, which is 0.
const HANDED_ON: (u32, u32) = (6, 7);

/// Whether this kernel is older.
#[must_use]
pub fn are_lost() -> bool {
    !kernel::is_at_least(HANDED_ON)
}

/// What a filter does with `pwritev2(2)` there: with `RWF_APPEND` and nothing else it is refused with `EOPNOTSUPP`, as
/// file systems refuse flags that they do not know. Who is refused sets `O_APPEND`, which overlayfs hands on.
#[must_use]
pub fn refusal() -> [Insn; 4] {
    const FLAGS: u32 = 5;
    [
        load(argument(FLAGS)),
        jump(BPF_JEQ, libc::RWF_APPEND.cast_unsigned(), 0, 1),
        answer(refused(libc::EOPNOTSUPP)),
        answer(ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd as _;

    use rustix::io::{Errno, ReadWriteFlags, pwritev2};

    use super::*;
    use crate::filter::{NUMBER, number};
    use crate::seccomp;

    #[test]
    fn only_a_write_that_is_to_append_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        // The filter stays with the thread that has it.
        let refused = std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                let asked = jump(BPF_JEQ, number(libc::SYS_pwritev2), 0, 4);
                let program = [&[load(NUMBER), asked][..], &refusal(), &[answer(ALLOW)]];
                seccomp::install(&program.concat()).unwrap();
                let write = |flags| {
                    let piece = [IoSlice::new(b"x")];
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
