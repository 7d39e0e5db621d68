//! The process of a wasm container: maps what the compiler made, runs it, and ends as it did.
//!
//! It is exec'd inside the container, at the end of the same plan as a native program: root changed,
//! user, capabilities and seccomp as the spec says. Descriptor 3 is the compiled code, 4 the
//! [handoff](duet_wasm::Handoff), 5 the directory in which the container's memory is counted, 6 the [tally](duet_wasm::Tally), and 7, if the handoff says so, the way to
//! the pod's [listeners](duet_wasm::listeners). Its arguments are the guest's, so that `ps` shows the guest; its
//! environment is nobody's. No compiler is linked in.
//!
//! | File | What for |
//! | --- | --- |
//! | `end.rs` | how a guest can end, in exit codes and words |
//! | `signals.rs` | TERM, INT and QUIT for a process 1 that has nobody else to ask |
//! | `guest.rs` | the guest's world: arguments, files, network |
//! | `module.rs` | WASI preview 1: commands |
//! | `preview0.rs` | WASI preview 0, for modules of before 2020 |
//! | `preview1.rs`, `preview1/` | what they can call |
//! | `component.rs` | WASI preview 2: commands; and which components are servers |
//! | `preview3.rs` | WASI preview 3, for those who may have it |
//! | `config.rs` | `wasi:config` |
//! | `keyvalue.rs`, `keyvalue/` | `wasi:keyvalue` |
//! | `imports.rs` | what components can be linked with |
//! | `limits.rs` | growing memory past the container's limit |
//! | `cgroup.rs` | what that limit is, and what is in use of it |
//! | `room.rs` | what if the process's own limits leave no room for the guest |
//! | `threads.rs` | how many threads there are for a guest, and what if there are none |
//! | `walls.rs`, `walls/` | what the process takes from itself |
//! | `rest.rs` | what only starting needed |
//! | `tally.rs` | what the shim is told: memory, requests, traps |
//! | `serve.rs`, `serve/` | `wasi:http` servers |
//! | `outputs.rs` | what their requests print, while nobody reads it |
//! | `outgoing.rs`, `outgoing/` | the guest's own http requests |
#![forbid(unsafe_code)]

mod cgroup;
mod component;
mod config;
mod end;
mod guest;
mod imports;
mod keyvalue;
mod limits;
mod module;
mod outgoing;
mod outputs;
mod preview0;
mod preview1;
mod preview3;
mod rest;
mod room;
mod serve;
mod signals;
mod tally;
mod threads;
mod walls;

use std::ffi::OsStr;
use std::io;
use std::process::ExitCode;

use duet_wasm::{Blocks, Format, Http, Inherited, Preview, WRITE_BLOCKS};
use rustix::process::{
    DumpableBehavior, Gid, Signal, Uid, geteuid, set_dumpable_behavior,
    set_parent_process_death_signal,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::end::End;
use crate::signals::Signals;

/// What all runners of the same code fill alike is shared by them.
#[global_allocator]
static ALLOCATOR: Blocks = Blocks;

fn main() -> ExitCode {
    // First: until this, a neighbour in the same PID namespace could attach to us.
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return End::Unfit("cannot be made undumpable".into()).report("duet-runner");
    }
    if let Some(format) = std::env::var_os(WRITE_BLOCKS) {
        return for_the_cache(&format);
    }
    let Some((inherited, memory, tally)) = Inherited::take() else {
        return End::Unfit("descriptors 3 to 6 are taken".into()).report("duet-runner");
    };
    limits::follow(memory);
    tally::follow(tally);
    let handoff = match inherited.handoff() {
        Ok(handoff) => handoff,
        Err(error) => {
            return End::Unfit(format!("descriptor 4 holds no handoff: {error}"))
                .report("duet-runner");
        }
    };
    threads::may_be_scarce(&handoff.name);
    let end = match prepared() {
        Err(end) => end,
        Ok(signals) => match handoff.format {
            Format::Module => module::run(inherited, &handoff),
            Format::Component => component::run(inherited, &handoff, signals),
        },
    };
    end.report(&handoff.name)
}

fn prepared() -> Result<Signals, End> {
    let signals = Signals::install()
        .map_err(|error| End::Unfit(format!("cannot handle signals: {error}")))?;
    // Afterwards: it opens a file of the image's, and whoever waits for what that is can be told to stop.
    walls::of_the_image()?;
    Ok(signals)
}

/// Not a container: the cache wants to know what loading its new entry fills.
fn for_the_cache(format: &OsStr) -> ExitCode {
    let written = give_up_root()
        .and_then(|()| Inherited::for_the_cache())
        .map_err(wasmtime::Error::from)
        .and_then(|entry| {
            if format == Format::Module.as_str() {
                let _loaded = module::load(&entry)?;
                entry.write_blocks()?;
            } else {
                let preview = Preview::of_this_process();
                let _loaded = component::load(&entry, Http::default().concurrency, preview)?;
                entry.write_blocks()?;
            }
            Ok(())
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => End::Unfit(format!("{error:#}")).report("duet-runner"),
    }
}

/// Loading code runs none of it if it is what our compiler writes; a compiler that a module got the better
/// of may have written anything. So what it was confined by confines this process too.
fn give_up_root() -> io::Result<()> {
    /// The user and group that own nothing.
    const NOBODY: u32 = 65534;
    set_no_new_privs(true)?;
    duet_wasm::enter_room()?;
    if !geteuid().is_root() {
        return Ok(());
    }
    std::fs::write("/proc/self/oom_score_adj", "1000")?;
    duet_linux::namespace::leave_the_host()?;
    // There is one thread.
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    // After the change of user, which would forget it.
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}
