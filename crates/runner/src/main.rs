//! The process of a wasm container: maps what the compiler made, runs it, and ends as it did.
//!
//! It is exec'd inside the container, at the end of the same plan as a native program: root changed,
//! user, capabilities and seccomp as the spec says. Descriptor 3 is the compiled code, 4 the
//! [handoff](duet_wasm::Handoff). Its arguments are the guest's, so that `ps` shows the guest; its
//! environment is nobody's. No compiler is linked in.
//!
//! | File | What for |
//! | --- | --- |
//! | `end.rs` | how a guest can end, in exit codes and words |
//! | `signals.rs` | TERM, INT and QUIT for a process 1 that has nobody else to ask |
//! | `guest.rs` | the guest's world: arguments, files, network |
//! | `module.rs` | WASI preview 1 |
//! | `component.rs` | WASI preview 2: commands; and which components are servers |
//! | `imports.rs` | what components can be linked with |
//! | `serve.rs`, `serve/` | `wasi:http` servers |
//! | `outgoing.rs` | the guest's own http requests |
#![forbid(unsafe_code)]

mod component;
mod end;
mod guest;
mod imports;
mod module;
mod outgoing;
mod serve;
mod signals;

use std::process::ExitCode;

use duet_wasm::{Format, Inherited};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::end::End;
use crate::signals::Signals;

fn main() -> ExitCode {
    // First: until this, a neighbour in the same PID namespace could attach to us.
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return End::Unfit("cannot be made undumpable".into()).report("duet-runner");
    }
    let Some(inherited) = Inherited::take() else {
        return End::Unfit("descriptors 3 and 4 are taken".into()).report("duet-runner");
    };
    let handoff = match inherited.handoff() {
        Ok(handoff) => handoff,
        Err(error) => {
            return End::Unfit(format!("descriptor 4 holds no handoff: {error}"))
                .report("duet-runner");
        }
    };
    let end = match Signals::install() {
        Err(error) => End::Unfit(format!("cannot handle signals: {error}")),
        Ok(signals) => match handoff.format {
            Format::Module => module::run(inherited, &handoff),
            Format::Component => component::run(inherited, &handoff, signals),
        },
    };
    end.report(&handoff.name)
}
