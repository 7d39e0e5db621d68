//! The calls that guests make most, without what wasmtime's own linking adds to each.
//!
//! That looks for the guest's memory by its name and puts a future on the heap, every time. The memory stays
//! the same one, and none of these calls waits for anything but the kernel: files are read and written on this
//! thread, as [`world`](crate::guest::world) allows.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmtime::{AsContextMut as _, Caller, Extern, Linker, Memory, Result};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use super::Preview1;

/// What preview 1 is called by those who import it.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

/// Links each function by the future that `wasmtime-wasi` generates for it.
macro_rules! at_once {
    ($linker:ident: $( $name:ident($($argument:ident: $type:ty),*); )*) => { $(
        $linker.func_wrap(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, Preview1>, $($argument: $type),*| -> Result<i32> {
                let (mut memory, world) = parts(&mut caller)?;
                let mut call = pin!(wasi::$name(world, &mut memory, $($argument),*));
                match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Err(wasmtime::Error::msg(concat!(stringify!($name), " waits"))),
                }
            },
        )?;
    )* };
}

/// Links each function that has no future.
macro_rules! plainly {
    ($linker:ident: $( $name:ident($($argument:ident: $type:ty),*); )*) => { $(
        $linker.func_wrap(
            MODULE,
            stringify!($name),
            |mut caller: Caller<'_, Preview1>, $($argument: $type),*| -> Result<i32> {
                let (mut memory, world) = parts(&mut caller)?;
                wasi::$name(world, &mut memory, $($argument),*)
            },
        )?;
    )* };
}

/// Links them in place of what is there.
pub(super) fn link(linker: &mut Linker<Preview1>) -> Result<()> {
    linker.allow_shadowing(true);
    plainly! { linker:
        clock_time_get(clock: i32, precision: i64, result: i32);
        fd_tell(fd: i32, result: i32);
        random_get(buffer: i32, length: i32);
        sched_yield();
        sock_accept(fd: i32, flags: i32, result: i32);
        sock_recv(fd: i32, buffers: i32, count: i32, flags: i32, received: i32, flags_out: i32);
        sock_send(fd: i32, buffers: i32, count: i32, flags: i32, sent: i32);
    }
    at_once! { linker:
        fd_fdstat_get(fd: i32, result: i32);
        fd_filestat_get(fd: i32, result: i32);
        fd_pwrite(fd: i32, buffers: i32, count: i32, offset: i64, written: i32);
        fd_read(fd: i32, buffers: i32, count: i32, read: i32);
        fd_seek(fd: i32, offset: i64, whence: i32, result: i32);
        fd_write(fd: i32, buffers: i32, count: i32, written: i32);
        path_filestat_get(fd: i32, flags: i32, path: i32, length: i32, result: i32);
        poll_oneoff(subscriptions: i32, events: i32, count: i32, result: i32);
    }
    Ok(())
}

/// The guest's memory, and its world.
pub(super) fn parts<'a>(
    caller: &'a mut Caller<'_, Preview1>,
) -> Result<(GuestMemory<'a>, &'a mut Preview1)> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => look_for_memory(caller)?,
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, world) = memory.data_and_store_mut(caller);
    world.set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(bytes), world))
}

/// Under its name, once: a store has one guest, and what it exports is what it is born with.
#[cold]
fn look_for_memory(caller: &mut Caller<'_, Preview1>) -> Result<Memory> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("missing required memory export"));
    };
    caller.data_mut().memory = Some(memory);
    Ok(memory)
}
