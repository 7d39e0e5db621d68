//! One entry: machine code, a trailer that says whose and how long, and the proof that it is whole.
//!
//! The trailer is 80 bytes behind the code: a magic, the code's length, the entry's key, the code's
//! sha256. Hashing 30 MB of code at each start would cost more than starting it, so the hash is checked
//! once and the file's identity is then noted in the lock file: inode, size, and the times of its last
//! change. Nobody can write to a file without the kernel moving its `ctime`, which no call can set back.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{Mode, OFlags, openat};
use sha2::{Digest as _, Sha256};

use super::Key;
use crate::CODE;

const MAGIC: &[u8; 8] = b"duetcode";
const TRAILER: u64 = 80;

/// Completes what the compiler wrote with its trailer.
pub(super) fn seal(mut code: &File, key: Key) -> io::Result<()> {
    code.rewind()?;
    let (length, hash) = digest(code, u64::MAX)?;
    if length == 0 {
        return Err(io::Error::other("the compiler wrote nothing"));
    }
    code.seek(SeekFrom::End(0))?;
    code.write_all(&trailer(length, key, &hash))
}

/// Checks that `directory` holds the whole code of `key`, and that it is ours.
pub(super) fn check(directory: &OwnedFd, key: Key, lock: &File) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let code: File = openat(directory, CODE, flags, Mode::empty())?.into();
    let metadata = code.metadata()?;
    let ours = metadata.is_file()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o222 == 0
        && metadata.nlink() == 1;
    let length = metadata
        .len()
        .checked_sub(TRAILER)
        .filter(|length| *length > 0);
    let (true, Some(length)) = (ours, length) else {
        return Err(unfit("not an entry of ours"));
    };
    let mut found = [0; 80];
    code.read_exact_at(&mut found, length)?;
    let (head, hash) = found.split_at(48);
    let expected = trailer(length, key, &[0; 32]);
    if Some(head) != expected.get(..48) {
        return Err(unfit("cut off, or of another module"));
    }
    if noted(lock)? == identity(&code)? {
        return Ok(());
    }
    if digest(&code, length)? != (length, hash.try_into().map_err(io::Error::other)?) {
        return Err(unfit("changed since it was written"));
    }
    stamp(&code, lock)
}

/// Notes in the lock file that `code` is whole as it is now.
pub(super) fn stamp(code: &File, lock: &File) -> io::Result<()> {
    let identity = identity(code)?;
    // One write of a fixed length: two that check at the same time write the same.
    lock.write_all_at(identity.as_bytes(), 0)?;
    lock.set_len(identity.len() as u64)
}

fn noted(lock: &File) -> io::Result<String> {
    let mut text = String::new();
    let mut lock = lock;
    lock.rewind()?;
    lock.take(256).read_to_string(&mut text)?;
    Ok(text)
}

fn identity(code: &File) -> io::Result<String> {
    let m = code.metadata()?;
    Ok(format!(
        "{:016x} {:016x} {:016x}.{:08x} {:016x}.{:08x}\n",
        m.ino(),
        m.len(),
        m.mtime(),
        m.mtime_nsec(),
        m.ctime(),
        m.ctime_nsec()
    ))
}

fn trailer(length: u64, key: Key, hash: &[u8; 32]) -> Vec<u8> {
    [MAGIC.as_slice(), &length.to_le_bytes(), &key.0, hash].concat()
}

/// The length and sha256 of the first `limit` bytes.
fn digest(code: &File, limit: u64) -> io::Result<(u64, [u8; 32])> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < limit {
        let read = code.read_at(&mut buffer, at)? as u64;
        let wanted = usize::try_from(read.min(limit - at)).map_err(io::Error::other)?;
        let Some(bytes) = buffer.get(..wanted).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hash.update(bytes);
        at += bytes.len() as u64;
    }
    Ok((at, hash.finalize().into()))
}

fn unfit(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
