//! The guest's numbers, and what each stands for.

use std::fs::File;
use std::net::{TcpListener, TcpStream};

use rustix::process::{Resource, getrlimit};
use wasmtime_wasi::p1::types::{Errno, Error, Fd};

use super::opened::{Directory, Opened};

/// wasmtime's number of standard input.
pub(super) const STDIN: u32 = 0;
/// wasmtime's number of standard output.
pub(super) const STDOUT: u32 = 1;
/// wasmtime's number of standard error.
pub(super) const STDERR: u32 = 2;
/// wasmtime's number of its first preopened directory. Others come after it.
pub(super) const ROOT: u32 = 3;

/// What a number stands for.
#[derive(Debug)]
pub(super) enum Descriptor {
    /// The process's own standard input.
    Stdin,
    /// The process's own standard output.
    Stdout,
    /// The process's own standard error.
    Stderr,
    /// A file, or a device that is nothing but bytes.
    File(Opened),
    /// A directory.
    Directory(Directory),
    /// A FIFO.
    Fifo(File),
    /// A socket that the guest was born with.
    Listener(TcpListener),
    /// A socket that it accepted.
    Connection(TcpStream),
}

/// What is open, by the guest's numbers.
///
/// How many there can be is the kernel's business: behind each, but for [streams](Descriptors::open_again), is a descriptor
/// of the process, which `RLIMIT_NOFILE` limits.
#[derive(Debug)]
pub(super) struct Descriptors(Vec<Option<Descriptor>>);

// === impl Descriptors ===

impl Descriptors {
    /// Standard streams, listeners, and then the directories, the root first: where systemd's protocol puts a
    /// socket, and where programs that were written for wasmtime's `--tcplisten` look for one.
    pub(super) fn new(listeners: Vec<TcpListener>, directories: Vec<Directory>) -> Self {
        let streams = [Descriptor::Stdin, Descriptor::Stdout, Descriptor::Stderr];
        let listeners = listeners.into_iter().map(Descriptor::Listener);
        let directories = directories.into_iter().map(Descriptor::Directory);
        Self(
            streams
                .into_iter()
                .chain(listeners)
                .chain(directories)
                .map(Some)
                .collect(),
        )
    }

    /// What `fd` stands for.
    pub(super) fn get(&self, fd: Fd) -> Result<&Descriptor, Error> {
        let place = self.0.get(index(fd)).and_then(Option::as_ref);
        place.ok_or_else(|| Errno::Badf.into())
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, fd: Fd) -> Result<&mut Descriptor, Error> {
        let place = self.0.get_mut(index(fd)).and_then(Option::as_mut);
        place.ok_or_else(|| Errno::Badf.into())
    }

    /// The socket `fd`, if it was accepted.
    pub(super) fn connection(&self, fd: Fd) -> Result<&TcpStream, Error> {
        match self.get(fd)? {
            Descriptor::Connection(socket) => Ok(socket),
            Descriptor::Listener(_) => Err(Errno::Notconn.into()),
            Descriptor::Directory(directory) => Err(no_socket(directory).into()),
            Descriptor::Stdin
            | Descriptor::Stdout
            | Descriptor::Stderr
            | Descriptor::File(_)
            | Descriptor::Fifo(_) => Err(Errno::Notsock.into()),
        }
    }

    /// The socket `fd`, if it listens.
    pub(super) fn listener(&self, fd: Fd) -> Result<&TcpListener, Error> {
        match self.get(fd)? {
            Descriptor::Listener(socket) => Ok(socket),
            // As the kernel for a socket that does not listen.
            Descriptor::Connection(_) => Err(Errno::Inval.into()),
            Descriptor::Directory(directory) => Err(no_socket(directory).into()),
            Descriptor::Stdin
            | Descriptor::Stdout
            | Descriptor::Stderr
            | Descriptor::File(_)
            | Descriptor::Fifo(_) => Err(Errno::Notsock.into()),
        }
    }

    /// Takes `fd` away.
    pub(super) fn remove(&mut self, fd: Fd) -> Result<Descriptor, Error> {
        let place = self.0.get_mut(index(fd)).and_then(Option::take);
        place.ok_or_else(|| Errno::Badf.into())
    }

    /// Puts `descriptor` where `fd` was.
    pub(super) fn put(&mut self, fd: Fd, descriptor: Descriptor) {
        if let Some(place) = self.0.get_mut(index(fd)) {
            *place = Some(descriptor);
        }
    }

    /// The same for a standard stream, behind which is no descriptor of its own.
    pub(super) fn open_again(&mut self, stream: Descriptor) -> Result<Fd, Error> {
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if u64::try_from(self.0.iter().flatten().count())? >= most {
            return Err(Errno::Mfile.into());
        }
        self.open(stream)
    }

    /// Gives `descriptor` the lowest free number, as a kernel does.
    pub(super) fn open(&mut self, descriptor: Descriptor) -> Result<Fd, Error> {
        let free = self.0.iter().position(Option::is_none);
        let at = free.unwrap_or(self.0.len());
        let fd = u32::try_from(at)?;
        match self.0.get_mut(at) {
            Some(place) => *place = Some(descriptor),
            None => self.0.push(Some(descriptor)),
        }
        Ok(fd.into())
    }
}

/// What a socket's call says of a directory.
///
/// Of the root it is what a guest without files would be told: programs ask so whether 3 is anything, the
/// public test suite among them.
fn no_socket(directory: &Directory) -> Errno {
    if directory.number == Fd::from(ROOT) {
        Errno::Badf
    } else {
        Errno::Notsock
    }
}

/// Where `fd` is in the table.
fn index(fd: Fd) -> usize {
    usize::try_from(u32::from(fd)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmtime_wasi::p1::types::Fdflags;

    use super::*;

    fn root() -> Arc<File> {
        Arc::new(File::open("/").unwrap())
    }

    fn descriptors(listeners: usize) -> Descriptors {
        let listener = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let root = Directory::new(ROOT.into(), root());
        Descriptors::new((0..listeners).map(listener).collect(), vec![root])
    }

    fn file(number: u32) -> Descriptor {
        Descriptor::File(Opened {
            number: number.into(),
            file: root(),
            sync: Fdflags::empty(),
        })
    }

    #[test]
    fn sockets_are_from_3_on_and_the_root_is_after_them() {
        let none = descriptors(0);
        assert!(
            matches!(none.get(3.into()).unwrap(), Descriptor::Directory(root) if root.number == Fd::from(3_u32))
        );
        let two = descriptors(2);
        for fd in [3_u32, 4] {
            assert!(matches!(
                two.get(fd.into()).unwrap(),
                Descriptor::Listener(_)
            ));
        }
        assert!(
            matches!(two.get(5.into()).unwrap(), Descriptor::Directory(root) if root.number == Fd::from(3_u32))
        );
        assert!(two.get(6.into()).is_err());
    }

    #[test]
    fn the_lowest_free_number_is_given() {
        let mut descriptors = descriptors(0);
        drop(descriptors.remove(1.into()).unwrap());
        assert!(descriptors.get(1.into()).is_err());
        let opened = descriptors.open(file(7)).unwrap();
        assert_eq!(u32::from(opened), 1);
        let opened = descriptors.open(file(8)).unwrap();
        assert_eq!(u32::from(opened), 4);
    }

    #[test]
    fn numbers_beyond_all_bounds_are_not_open() {
        assert!(descriptors(0).get(u32::MAX.into()).is_err());
    }
}
