//! WASI preview 1 for a container: wasmtime's, with what it lacks.
//!
//! wasmtime has no sockets for preview 1, reads standard input with a thread of its own, and refuses exit
//! codes from 126 up. So the numbers that a guest knows its descriptors by are ours ([`descriptors`]):
//! files and directories are handed on to wasmtime under its own numbers, everything else is done here,
//! by the system call of the same name. A guest has its process to itself, so calls may block.
//!
//! | File | What for |
//! | --- | --- |
//! | `calls.rs` | the way from the guest's calls to ours |
//! | `descriptors.rs` | the guest's numbers, and what each stands for |
//! | `streams.rs` | reading and writing of sockets and standard streams |
//! | `ahead.rs` | what was read of standard input before it was asked for |
//! | `poll.rs` | waiting for several at once |
//! | `listen.rs` | the sockets a guest is born with |

mod ahead;
mod calls;
mod descriptors;
mod listen;
mod poll;
mod streams;

use std::net::TcpListener;

use duet_wasm::Handoff;
use wasmtime::{Caller, Linker, Memory, Module, ResourceLimiter};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::{
    self, Advice, CiovecArray, Dircookie, Errno, Fd, Filedelta, Filesize, Filestat, Fstflags,
    IovecArray, Lookupflags, Size, Timestamp, Whence,
};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1};
use wiggle::{GuestMemory, GuestPtr};

pub(crate) use self::listen::listeners;

use self::ahead::Ahead;
use self::descriptors::{Descriptor, Descriptors};
use crate::guest::world;
use crate::limits::Limiter;

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
        let (mut world, directories) = world(handoff)?;
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
        Ok(Self {
            wasmtime: world.build_p1(),
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

    /// wasmtime's number of a file or directory; `otherwise` if it is a socket.
    ///
    /// Standard streams have one, too: for those wasmtime knows what can be asked of them.
    fn file(&self, fd: Fd, otherwise: Errno) -> Result<Fd> {
        match self.descriptors.get(fd)? {
            Descriptor::Stdin => Ok(descriptors::STDIN.into()),
            Descriptor::Stdout => Ok(descriptors::STDOUT.into()),
            Descriptor::Stderr => Ok(descriptors::STDERR.into()),
            Descriptor::File(number) => Ok(*number),
            Descriptor::Listener(_) | Descriptor::Connection(_) => Err(otherwise.into()),
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

/// Methods that are wasmtime's once it is told its own numbers; of a socket they answer with an error.
macro_rules! on_files {
    ($( async fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty, else $errno:ident for $($number:ident)+; )*) => { $(
        async fn $name(&mut self, memory: &mut GuestMemory<'_>, $($argument: $type),*) -> Result<$result> {
            $(let $number = self.file($number, Errno::$errno)?;)+
            self.wasmtime.$name(memory, $($argument),*).await
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
        fn random_get(buffer: GuestPtr<u8>, length: Size) -> ();
        fn sched_yield() -> ();
        fn proc_raise(signal: types::Signal) -> ();
    }

    on_files! {
        // What the kernel says of a socket.
        async fn fd_advise(fd: Fd, offset: Filesize, length: Filesize, advice: Advice) -> (), else Spipe for fd;
        async fn fd_datasync(fd: Fd) -> (), else Inval for fd;
        async fn fd_sync(fd: Fd) -> (), else Inval for fd;
        async fn fd_filestat_set_size(fd: Fd, size: Filesize) -> (), else Inval for fd;
        async fn fd_filestat_set_times(fd: Fd, accessed: Timestamp, modified: Timestamp, flags: Fstflags) -> (), else Inval for fd;
        async fn fd_pread(fd: Fd, buffers: IovecArray, offset: Filesize) -> Size, else Spipe for fd;
        async fn fd_pwrite(fd: Fd, buffers: CiovecArray, offset: Filesize) -> Size, else Spipe for fd;
        async fn fd_seek(fd: Fd, offset: Filedelta, whence: Whence) -> Filesize, else Spipe for fd;
        async fn fd_readdir(fd: Fd, buffer: GuestPtr<u8>, length: Size, cookie: Dircookie) -> Size, else Notdir for fd;
        async fn path_create_directory(fd: Fd, path: GuestPtr<str>) -> (), else Notdir for fd;
        async fn path_filestat_get(fd: Fd, flags: Lookupflags, path: GuestPtr<str>) -> Filestat, else Notdir for fd;
        async fn path_filestat_set_times(
            fd: Fd, lookup: Lookupflags, path: GuestPtr<str>, accessed: Timestamp, modified: Timestamp, flags: Fstflags
        ) -> (), else Notdir for fd;
        async fn path_link(
            from: Fd, lookup: Lookupflags, old: GuestPtr<str>, to: Fd, new: GuestPtr<str>
        ) -> (), else Notdir for from to;
        async fn path_readlink(fd: Fd, path: GuestPtr<str>, buffer: GuestPtr<u8>, length: Size) -> Size, else Notdir for fd;
        async fn path_remove_directory(fd: Fd, path: GuestPtr<str>) -> (), else Notdir for fd;
        async fn path_rename(from: Fd, old: GuestPtr<str>, to: Fd, new: GuestPtr<str>) -> (), else Notdir for from to;
        async fn path_symlink(target: GuestPtr<str>, fd: Fd, path: GuestPtr<str>) -> (), else Notdir for fd;
        async fn path_unlink_file(fd: Fd, path: GuestPtr<str>) -> (), else Notdir for fd;
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
            Descriptor::File(number) => self.wasmtime.fd_close(memory, number).await,
            // wasmtime's standard streams stay open: their numbers must never be a file's.
            Descriptor::Stdin
            | Descriptor::Stdout
            | Descriptor::Stderr
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
        match self.descriptors.get(fd)? {
            Descriptor::Listener(socket) => streams::fdstat(socket),
            Descriptor::Connection(socket) => streams::fdstat(socket),
            Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr | Descriptor::File(_) => {
                let fd = self.file(fd, Errno::Badf)?;
                self.wasmtime.fd_fdstat_get(memory, fd).await
            }
        }
    }

    fn fd_fdstat_set_flags(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: types::Fdflags,
    ) -> Result<()> {
        match self.descriptors.get(fd)? {
            Descriptor::Listener(socket) => streams::set_flags(socket, flags),
            Descriptor::Connection(socket) => streams::set_flags(socket, flags),
            Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr | Descriptor::File(_) => {
                let fd = self.file(fd, Errno::Badf)?;
                self.wasmtime.fd_fdstat_set_flags(memory, fd, flags)
            }
        }
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
        match self.descriptors.get(fd)? {
            Descriptor::Listener(_) | Descriptor::Connection(_) => Ok(streams::filestat()),
            Descriptor::Stdin | Descriptor::Stdout | Descriptor::Stderr | Descriptor::File(_) => {
                let fd = self.file(fd, Errno::Badf)?;
                self.wasmtime.fd_filestat_get(memory, fd).await
            }
        }
    }

    async fn fd_read(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
    ) -> Result<Size> {
        match self.descriptors.get(fd)? {
            Descriptor::File(number) => self.wasmtime.fd_read(memory, *number, buffers).await,
            Descriptor::Stdin => streams::read(memory, buffers, &mut self.input, &std::io::stdin()),
            Descriptor::Connection(socket) => {
                streams::receive(memory, buffers, socket, types::Riflags::empty())
            }
            Descriptor::Listener(_) => Err(Errno::Notconn.into()),
            Descriptor::Stdout | Descriptor::Stderr => Err(Errno::Badf.into()),
        }
    }

    async fn fd_write(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
    ) -> Result<Size> {
        match self.descriptors.get(fd)? {
            Descriptor::File(number) => self.wasmtime.fd_write(memory, *number, buffers).await,
            Descriptor::Stdout => streams::write(memory, buffers, &std::io::stdout()),
            Descriptor::Stderr => streams::write(memory, buffers, &std::io::stderr()),
            Descriptor::Connection(socket) => streams::send(memory, buffers, socket),
            Descriptor::Listener(_) => Err(Errno::Notconn.into()),
            Descriptor::Stdin => Err(Errno::Badf.into()),
        }
    }

    // === Sockets ===

    fn sock_accept(
        &mut self,
        _: &mut GuestMemory<'_>,
        fd: Fd,
        flags: types::Fdflags,
    ) -> Result<Fd> {
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

    async fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        lookup: Lookupflags,
        path: GuestPtr<str>,
        flags: types::Oflags,
        base: types::Rights,
        inheriting: types::Rights,
        status: types::Fdflags,
    ) -> Result<Fd> {
        let fd = self.file(fd, Errno::Notdir)?;
        let opened = self
            .wasmtime
            .path_open(memory, fd, lookup, path, flags, base, inheriting, status)
            .await?;
        self.descriptors.open(Descriptor::File(opened))
    }

    fn fd_allocate(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        offset: Filesize,
        length: Filesize,
    ) -> Result<()> {
        let fd = self.file(fd, Errno::Nodev)?;
        self.wasmtime.fd_allocate(memory, fd, offset, length)
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
