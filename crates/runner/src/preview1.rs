//! WASI preview 1 for a container: wasmtime's, with what it lacks.
//!
//! wasmtime has no sockets and no FIFOs for preview 1, reads standard input with a thread of its own, lists a directory
//! anew for each piece of it, and refuses exit codes from 126 up. So the numbers that a guest knows its descriptors by
//! are ours ([`descriptors`]): files and directories are handed on to wasmtime under its own numbers, everything else is
//! done here, by the system call of the same name. A guest has its process to itself, so calls may block.
//!
//! | File | What for |
//! | --- | --- |
//! | `calls.rs` | the way from the guest's calls to ours |
//! | `descriptors.rs` | the guest's numbers, and what each stands for |
//! | `opened.rs` | what wasmtime has open, and the kernel's descriptor of it |
//! | `special.rs` | FIFOs, and what is not opened |
//! | `readdir.rs`, `listing.rs` | the entries of a directory |
//! | `attributes.rs` | what is known of a file |
//! | `reasons.rs` | why a call failed, where wasmtime does not say |
//! | `streams.rs` | reading and writing of sockets, FIFOs and standard streams |
//! | `ahead.rs` | what was read of standard input before it was asked for |
//! | `poll.rs` | waiting for several at once |
//! | `listen.rs` | the sockets a guest is born with |

mod ahead;
mod attributes;
mod calls;
mod descriptors;
mod listen;
mod listing;
mod opened;
mod poll;
mod readdir;
mod reasons;
mod special;
mod streams;

use std::net::TcpListener;

use duet_wasm::Handoff;
use rustix::fs::{FallocateFlags, fallocate};
use wasmtime::{Caller, Linker, Memory, Module, ResourceLimiter};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::{
    self, Advice, CiovecArray, Dircookie, Errno, Fd, Fdflags, Filedelta, Filesize, Filestat,
    Fstflags, IovecArray, Lookupflags, Size, Timestamp, Whence,
};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1};
use wiggle::{GuestMemory, GuestPtr};

pub(crate) use self::listen::listeners;

use self::ahead::Ahead;
use self::descriptors::{Descriptor, Descriptors};
use crate::guest::world;
use crate::limits::Limiter;

/// What wasmtime may copy of a guest's memory for one call that copies nothing: the default of 128 MiB would be the most
/// that a guest reads or writes at once.
const NO_COPY: usize = usize::MAX;

/// How many random bytes wasmtime is asked for at once, which makes them all before it writes one: 64 KiB.
const RANDOM: Size = 1 << 16;

type Result<T> = std::result::Result<T, types::Error>;

/// What a store holds for a module.
pub(crate) struct Preview1 {
    /// Files, clocks, arguments: what wasmtime does well.
    wasmtime: WasiP1Ctx,
    descriptors: Descriptors,
    input: Ahead,
    /// The guest's, once it has made a call.
    memory: Option<Memory>,
    limiter: Limiter,
}

/// A linker with all of preview 1.
pub(crate) fn linker(module: &Module) -> wasmtime::Result<Linker<Preview1>> {
    let mut linker = Linker::new(module.engine());
    wasi::add_to_linker(&mut linker, |world: &mut Preview1| world)?;
    calls::link(&mut linker)?;
    linker.func_wrap(calls::MODULE, "fd_prestat_get", prestat)?;
    Ok(linker)
}

/// `fd_prestat_get`, with an answer for preopened sockets, for which preview 1 has a tag but no name.
///
/// Whoever looks for preopened directories stops at the first number that is not open, and must not stop at
/// a socket: wasi-libc and Go pass over a tag they do not know, and the one known tag is a directory's.
fn prestat(mut caller: Caller<'_, Preview1>, number: i32, result: i32) -> wasmtime::Result<i32> {
    /// The tag after `PREOPENTYPE_DIR`, and nothing else.
    const SOCKET: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];
    let (mut memory, world) = calls::parts(&mut caller)?;
    if let Ok(Descriptor::Listener(_)) = world.descriptors.get(Fd::from(number)) {
        let place = GuestPtr::<[u8]>::new((result.cast_unsigned(), 8));
        memory.copy_from_slice(&SOCKET, place)?;
        return Ok(0);
    }
    wasi::fd_prestat_get(world, &mut memory, number, result)
}

// === impl Preview1 ===

impl Preview1 {
    /// The guest's world, with `listeners` at 3 and beyond, and its files after them.
    pub(crate) fn new(handoff: &Handoff, listeners: Vec<TcpListener>) -> wasmtime::Result<Self> {
        let mut world = world(handoff)?;
        // Preview 1 has no working directory; wasi-libc starts in /, and who wants another reads the
        // environment.
        let has = |name| handoff.variables().any(|(known, _)| known == name);
        if handoff.cwd != "/" && !has("PWD") {
            world.env("PWD", &handoff.cwd);
        }
        if !listeners.is_empty() {
            // Of systemd's protocol what a guest can check: it has no process id to compare.
            world.env("LISTEN_FDS", listeners.len().to_string());
        }
        let mut wasmtime = world.build_p1();
        let directories = opened::preopened(&mut wasmtime)?;
        Ok(Self {
            wasmtime,
            descriptors: Descriptors::new(listeners, directories),
            input: Ahead::default(),
            memory: None,
            limiter: Limiter::new(),
        })
    }

    /// What wasmtime keeps of it.
    pub(crate) fn wasmtime(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasmtime
    }

    /// What may become of its memory.
    pub(crate) fn limiter(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.limiter
    }

    /// wasmtime's number of a file or directory; `otherwise` if it is a socket or a FIFO.
    ///
    /// Standard streams have one, too: for those wasmtime knows what can be asked of them.
    fn file(&self, fd: Fd, otherwise: Errno) -> Result<Fd> {
        match self.descriptors.get(fd)? {
            Descriptor::Stdin => Ok(descriptors::STDIN.into()),
            Descriptor::Stdout => Ok(descriptors::STDOUT.into()),
            Descriptor::Stderr => Ok(descriptors::STDERR.into()),
            Descriptor::File(file) => Ok(file.number),
            Descriptor::Directory(directory) => Ok(directory.number),
            Descriptor::Fifo(_) | Descriptor::Listener(_) | Descriptor::Connection(_) => {
                Err(otherwise.into())
            }
        }
    }
}

/// Methods that are wasmtime's.
macro_rules! wasmtimes {
    ($( fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty; )*) => { $(
        fn $name(&mut self, memory: &mut GuestMemory<'_>, $($argument: $type),*) -> Result<$result> {
            self.wasmtime.$name(memory, $($argument),*)
        }
    )* };
}

/// Methods that are wasmtime's once it is told its own numbers; of a socket or a FIFO they answer with an error.
macro_rules! on_files {
    ($( async fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty, else $errno:ident for $($number:ident)+; )*) => { $(
        async fn $name(&mut self, memory: &mut GuestMemory<'_>, $($argument: $type),*) -> Result<$result> {
            $(let $number = self.file($number, Errno::$errno)?;)+
            self.wasmtime.$name(memory, $($argument),*).await
        }
    )* };
}

/// Methods that are wasmtime's and change what is at one or two places.
macro_rules! at_places {
    ($( async fn $name:ident($($argument:ident: $type:ty),*), at $($number:ident $path:ident),+; )*) => { $(
        async fn $name(&mut self, memory: &mut GuestMemory<'_>, $($argument: $type),*) -> Result<()> {
            let done = {
                $(let $number = self.file($number, Errno::Notdir)?;)+
                self.wasmtime.$name(memory, $($argument),*).await
            };
            done.map_err(|error| self.reason(memory, error, true, &[$(($number, $path)),+]))
        }
    )* };
}

impl WasiSnapshotPreview1 for Preview1 {
    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.wasmtime.set_hostcall_fuel(fuel);
    }

    wasmtimes! {
        fn args_get(argv: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> ();
        fn args_sizes_get() -> (Size, Size);
        fn environ_get(environ: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> ();
        fn environ_sizes_get() -> (Size, Size);
        fn clock_res_get(clock: types::Clockid) -> Timestamp;
        fn clock_time_get(clock: types::Clockid, precision: Timestamp) -> Timestamp;
        fn sched_yield() -> ();
        fn proc_raise(signal: types::Signal) -> ();
    }

    on_files! {
        // What the kernel says of a socket, or a FIFO; but it can set the times of the latter.
        async fn fd_advise(fd: Fd, offset: Filesize, length: Filesize, advice: Advice) -> (), else Spipe for fd;
        async fn fd_filestat_set_size(fd: Fd, size: Filesize) -> (), else Inval for fd;
        async fn fd_filestat_set_times(fd: Fd, accessed: Timestamp, modified: Timestamp, flags: Fstflags) -> (), else Inval for fd;
        async fn fd_seek(fd: Fd, offset: Filedelta, whence: Whence) -> Filesize, else Spipe for fd;
        async fn path_readlink(fd: Fd, path: GuestPtr<str>, buffer: GuestPtr<u8>, length: Size) -> Size, else Notdir for fd;
    }

    at_places! {
        async fn path_create_directory(fd: Fd, path: GuestPtr<str>), at fd path;
        async fn path_filestat_set_times(
            fd: Fd, lookup: Lookupflags, path: GuestPtr<str>, accessed: Timestamp, modified: Timestamp, flags: Fstflags
        ), at fd path;
        async fn path_link(
            from: Fd, lookup: Lookupflags, old: GuestPtr<str>, to: Fd, new: GuestPtr<str>
        ), at from old, to new;
        async fn path_rename(from: Fd, old: GuestPtr<str>, to: Fd, new: GuestPtr<str>), at from old, to new;
        async fn path_symlink(target: GuestPtr<str>, fd: Fd, path: GuestPtr<str>), at fd path;
        async fn path_unlink_file(fd: Fd, path: GuestPtr<str>), at fd path;
    }

    // wasmtime makes all of them before it looks where they go, and ends a guest that asks for more than 64 MiB.
    fn random_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        buffer: GuestPtr<u8>,
        length: Size,
    ) -> Result<()> {
        memory.as_slice_mut(buffer.as_array(length))?;
        let mut done = 0;
        while done < length {
            let piece = RANDOM.min(length - done);
            self.wasmtime.random_get(memory, buffer.add(done)?, piece)?;
            done += piece;
        }
        Ok(())
    }

    // wasmtime's own refuses codes from 126 up.
    fn proc_exit(&mut self, _: &mut GuestMemory<'_>, code: types::Exitcode) -> wasmtime::Error {
        I32Exit(code.cast_signed()).into()
    }

    async fn poll_oneoff(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<types::Subscription>,
        events: GuestPtr<types::Event>,
        count: Size,
    ) -> Result<Size> {
        self.poll(memory, subscriptions, events, count).await
    }

    // === Descriptors ===

    async fn fd_close(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<()> {
        match self.descriptors.remove(fd)? {
            Descriptor::File(file) => self.wasmtime.fd_close(memory, file.number).await,
            Descriptor::Directory(directory) => {
                self.wasmtime.fd_close(memory, directory.number).await
            }
            // wasmtime's standard streams stay open: their numbers must never be a file's.
            Descriptor::Stdin
            | Descriptor::Stdout
            | Descriptor::Stderr
            | Descriptor::Fifo(_)
            | Descriptor::Listener(_)
            | Descriptor::Connection(_) => Ok(()),
        }
    }

    async fn fd_renumber(&mut self, memory: &mut GuestMemory<'_>, from: Fd, to: Fd) -> Result<()> {
        self.descriptors.get(from)?;
        self.descriptors.get(to)?;
        if from == to {
            return Ok(());
        }
        self.fd_close(memory, to).await?;
        let descriptor = self.descriptors.remove(from)?;
        self.descriptors.put(to, descriptor);
        Ok(())
    }

    async fn fd_fdstat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
    ) -> Result<types::Fdstat> {
        let sync = match self.descriptors.get(fd)? {
            Descriptor::Listener(socket) => return streams::fdstat(socket),
            Descriptor::Connection(socket) => return streams::fdstat(socket),
            Descriptor::Fifo(fifo) => return Ok(special::fdstat(fifo)),
            Descriptor::File(file) => file.sync,
            Descriptor::Stdin
            | Descriptor::Stdout
            | Descriptor::Stderr
            | Descriptor::Directory(_) => Fdflags::empty(),
        };
        let fd = self.file(fd, Errno::Badf)?;
        let mut stat = self.wasmtime.fd_fdstat_get(memory, fd).await?;
        stat.fs_flags |= sync;
        Ok(stat)
    }

    fn fd_fdstat_set_flags(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Fdflags,
    ) -> Result<()> {
        let same = match self.descriptors.get(fd)? {
            Descriptor::Listener(socket) => return streams::set_flags(socket, flags),
            Descriptor::Connection(socket) => return streams::set_flags(socket, flags),
            Descriptor::Fifo(fifo) => return streams::set_flags(fifo, flags),
            Descriptor::File(file) => file.sync & flags,
            Descriptor::Stdin
            | Descriptor::Stdout
            | Descriptor::Stderr
            | Descriptor::Directory(_) => Fdflags::empty(),
        };
        let fd = self.file(fd, Errno::Badf)?;
        self.wasmtime.fd_fdstat_set_flags(memory, fd, flags - same)
    }

    fn fd_fdstat_set_rights(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        base: types::Rights,
        inheriting: types::Rights,
    ) -> Result<()> {
        let fd = self.file(fd, Errno::Notsup)?;
        self.wasmtime
            .fd_fdstat_set_rights(memory, fd, base, inheriting)
    }

    async fn fd_filestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<Filestat> {
        let known = match self.descriptors.get(fd)? {
            Descriptor::Listener(_) | Descriptor::Connection(_) => return Ok(streams::filestat()),
            Descriptor::Fifo(fifo) => return attributes::of(fifo),
            Descriptor::File(file) => attributes::of(&*file.file).ok(),
            Descriptor::Directory(directory) => attributes::of(&*directory.file).ok(),
            Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr => None,
        };
        if let Some(known) = known {
            return Ok(known);
        }
        // wasmtime also knows what to do where a filter of the container's forbids `statx`.
        let fd = self.file(fd, Errno::Badf)?;
        self.wasmtime.fd_filestat_get(memory, fd).await
    }

    async fn fd_read(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
    ) -> Result<Size> {
        match self.descriptors.get(fd)? {
            Descriptor::File(file) => {
                self.wasmtime.set_hostcall_fuel(NO_COPY);
                self.wasmtime.fd_read(memory, file.number, buffers).await
            }
            Descriptor::Stdin => streams::read(memory, buffers, &mut self.input, &std::io::stdin()),
            Descriptor::Fifo(fifo) => streams::take(memory, buffers, fifo),
            Descriptor::Connection(socket) => {
                streams::receive(memory, buffers, socket, types::Riflags::empty())
            }
            Descriptor::Listener(_) => Err(Errno::Notconn.into()),
            Descriptor::Stdout | Descriptor::Stderr | Descriptor::Directory(_) => {
                Err(Errno::Badf.into())
            }
        }
    }

    async fn fd_write(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
    ) -> Result<Size> {
        match self.descriptors.get(fd)? {
            Descriptor::File(file) => {
                self.wasmtime.set_hostcall_fuel(NO_COPY);
                let written = self.wasmtime.fd_write(memory, file.number, buffers).await?;
                file.written(written)
            }
            Descriptor::Stdout => streams::write(memory, buffers, &std::io::stdout()),
            Descriptor::Stderr => streams::write(memory, buffers, &std::io::stderr()),
            Descriptor::Fifo(fifo) => streams::put(memory, buffers, fifo),
            Descriptor::Connection(socket) => streams::send(memory, buffers, socket),
            Descriptor::Listener(_) => Err(Errno::Notconn.into()),
            Descriptor::Stdin | Descriptor::Directory(_) => Err(Errno::Badf.into()),
        }
    }

    // === Sockets ===

    fn sock_accept(&mut self, _: &mut GuestMemory<'_>, fd: Fd, flags: Fdflags) -> Result<Fd> {
        let accepted = streams::accept(self.descriptors.listener(fd)?, flags)?;
        self.descriptors.open(Descriptor::Connection(accepted))
    }

    fn sock_recv(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
        flags: types::Riflags,
    ) -> Result<(Size, types::Roflags)> {
        let count = streams::receive(memory, buffers, self.descriptors.connection(fd)?, flags)?;
        Ok((count, types::Roflags::empty()))
    }

    fn sock_send(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
        _: types::Siflags,
    ) -> Result<Size> {
        streams::send(memory, buffers, self.descriptors.connection(fd)?)
    }

    fn sock_shutdown(
        &mut self,
        _: &mut GuestMemory<'_>,
        fd: Fd,
        how: types::Sdflags,
    ) -> Result<()> {
        streams::shutdown(self.descriptors.connection(fd)?, how)
    }

    // === Files, where it is not enough to hand on a number ===

    async fn fd_pread(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
        offset: Filesize,
    ) -> Result<Size> {
        if let Descriptor::File(file) = self.descriptors.get(fd)? {
            return streams::read_at(memory, buffers, &file.file, offset);
        }
        let fd = self.file(fd, Errno::Spipe)?;
        self.wasmtime.fd_pread(memory, fd, buffers, offset).await
    }

    async fn fd_pwrite(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
        offset: Filesize,
    ) -> Result<Size> {
        if let Descriptor::File(file) = self.descriptors.get(fd)? {
            self.wasmtime.set_hostcall_fuel(NO_COPY);
            let written = self
                .wasmtime
                .fd_pwrite(memory, file.number, buffers, offset)
                .await?;
            return file.written(written);
        }
        let fd = self.file(fd, Errno::Spipe)?;
        self.wasmtime.fd_pwrite(memory, fd, buffers, offset).await
    }

    async fn fd_datasync(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<()> {
        if let Descriptor::Directory(directory) = self.descriptors.get_mut(fd)? {
            return directory.sync();
        }
        let fd = self.file(fd, Errno::Inval)?;
        self.wasmtime.fd_datasync(memory, fd).await
    }

    async fn fd_sync(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<()> {
        if let Descriptor::Directory(directory) = self.descriptors.get_mut(fd)? {
            return directory.sync();
        }
        let fd = self.file(fd, Errno::Inval)?;
        self.wasmtime.fd_sync(memory, fd).await
    }

    async fn fd_readdir(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffer: GuestPtr<u8>,
        length: Size,
        cookie: Dircookie,
    ) -> Result<Size> {
        self.read_directory(memory, fd, buffer, length, cookie)
    }

    async fn path_filestat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
    ) -> Result<Filestat> {
        if let Descriptor::Directory(directory) = self.descriptors.get(fd)? {
            let follow = flags.contains(Lookupflags::SYMLINK_FOLLOW);
            let path = memory.as_cow_str(path)?;
            if let Some(known) = attributes::at(&*directory.file, &path, follow) {
                return known;
            }
        }
        let fd = self.file(fd, Errno::Notdir)?;
        self.wasmtime
            .path_filestat_get(memory, fd, flags, path)
            .await
    }

    async fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        lookup: Lookupflags,
        path: GuestPtr<str>,
        flags: types::Oflags,
        base: types::Rights,
        _: types::Rights,
        status: Fdflags,
    ) -> Result<Fd> {
        self.open(memory, fd, lookup, path, flags, base, status)
            .await
    }

    // wasmtime takes what is behind a slash at the end for the directory itself, and removes that by no name.
    async fn path_remove_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Result<()> {
        let number = self.file(fd, Errno::Notdir)?;
        let name = memory.as_cow_str(path)?.trim_end_matches('/').len();
        let name = match Size::try_from(name)? {
            0 => path,
            length => GuestPtr::new((path.offset_base(), length)),
        };
        let done = self
            .wasmtime
            .path_remove_directory(memory, number, name)
            .await;
        done.map_err(|error| self.reason(memory, error, true, &[(fd, path)]))
    }

    // wasmtime, which is for more systems than one, offers none.
    fn fd_allocate(
        &mut self,
        _: &mut GuestMemory<'_>,
        fd: Fd,
        offset: Filesize,
        length: Filesize,
    ) -> Result<()> {
        let file = match self.descriptors.get(fd)? {
            Descriptor::File(file) => &file.file,
            Descriptor::Fifo(_) => return Err(Errno::Spipe.into()),
            Descriptor::Listener(_) | Descriptor::Connection(_) => return Err(Errno::Nodev.into()),
            Descriptor::Stdin
            | Descriptor::Stdout
            | Descriptor::Stderr
            | Descriptor::Directory(_) => return Err(Errno::Badf.into()),
        };
        let how = FallocateFlags::empty();
        Ok(fallocate(&**file, how, offset, length).map_err(streams::errno)?)
    }

    fn fd_tell(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<Filesize> {
        let fd = self.file(fd, Errno::Spipe)?;
        self.wasmtime.fd_tell(memory, fd)
    }

    fn fd_prestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<types::Prestat> {
        let fd = self.file(fd, Errno::Badf)?;
        self.wasmtime.fd_prestat_get(memory, fd)
    }

    fn fd_prestat_dir_name(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<u8>,
        length: Size,
    ) -> Result<()> {
        let fd = self.file(fd, Errno::Notdir)?;
        self.wasmtime.fd_prestat_dir_name(memory, fd, path, length)
    }
}
