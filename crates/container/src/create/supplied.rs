//! What the birth of a wasm guest needs besides: its compiled code, and what the runner is told.

use std::fs::File;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use duet_plan::Facts;
use duet_spec::Process;
use duet_wasm::{Handoff, Http};

use super::Linux;
use crate::error::{Error, WasmError};
use crate::kind::Guest;

/// How long a birth may wait for its module to be compiled: 100 s.
///
/// kubelet gives a Create two minutes; what is compiled later than that is for the next try.
const COMPILE_LIMIT: Duration = Duration::from_secs(100);

/// What a wasm guest's birth needs besides.
pub(super) struct Supplied {
    pub(super) module: OwnedFd,
    pub(super) handoff: File,
}

impl Linux {
    /// What the runner of `guest` is given; `listen` says where it finds sockets.
    pub(super) fn supply(
        &self,
        guest: Guest,
        process: &Process,
        listen: Vec<SocketAddr>,
        facts: &Facts,
    ) -> Result<Supplied, Error> {
        let options = &self.spec.options;
        let Guest { name, file, format } = guest;
        let deadline = Instant::now() + COMPILE_LIMIT;
        let compiled = self
            .ground
            .cache(self.cache_size)?
            .compiled(&file, &name, deadline)
            .map_err(WasmError::from)?;
        tracing::info!(container = %self.id, key = %compiled.key, source = ?compiled.source, unshared = ?compiled.unshared, crowded = ?compiled.crowded, "compiled");
        let mut http = Http::default();
        http.address = options.http_listen.map(|address| address.to_string());
        http.reuse = options.http_reuse.map_or(http.reuse, NonZeroU32::get);
        let handoff = Handoff {
            name: name.clone(),
            format,
            argv: process.args.clone(),
            env: duet_plan::guest_environment(process, facts.home.as_deref()),
            cwd: process.cwd.clone(),
            http,
            listen,
            config: options.config.clone(),
        };
        let failed = |step| {
            let path = PathBuf::from(&name);
            move |source| WasmError::File { step, path, source }
        };
        let module = compiled
            .tree()
            .map_err(failed("open the compiled code of"))?;
        // The runner maps it when it is started, whenever that is.
        let mut kept = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.iter().any(|kept| kept.key == compiled.key) {
            kept.push(compiled);
        }
        Ok(Supplied {
            module,
            handoff: handoff.seal().map_err(failed("write the handoff of"))?,
        })
    }
}
