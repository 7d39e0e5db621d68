//! What the birth of a wasm guest needs besides: its compiled code, and what the runner is told.

use std::fs::File;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use duet_linux::selinux;
use duet_plan::Facts;
use duet_spec::annotations::{Options, Timeout};
use duet_spec::{Mount, MountKind, Process};
use duet_wasm::{Format, Handoff, Http, Preview, Tally};

use super::Linux;
use super::told::Account;
use crate::error::{Error, WasmError};
use crate::kind::Guest;
use crate::listeners::Way;

/// How long a birth may wait for its module to be compiled: 100 s.
///
/// kubelet gives a Create two minutes; what is compiled later than that is for the next try.
const COMPILE_LIMIT: Duration = Duration::from_secs(100);

/// What a wasm guest's birth needs besides.
pub(super) struct Supplied {
    pub(super) module: OwnedFd,
    pub(super) handoff: File,
    pub(super) account: Account,
    /// The way to the pod's listeners, for who asked for it.
    pub(super) way: Option<Way>,
}

impl Linux {
    /// What the runner of `guest` is given; `listen` says where it finds sockets, if it is to have any: the
    /// container's first process.
    pub(super) fn supply(
        &self,
        guest: Guest,
        process: &Process,
        listen: Option<Vec<SocketAddr>>,
        facts: &Facts,
    ) -> Result<Supplied, Error> {
        let options = &self.spec.options;
        let Guest {
            name,
            file,
            format,
            is_tool,
        } = guest;
        let preview = match format {
            Format::Component if options.preview3 && !is_tool => Preview::Three,
            Format::Component | Format::Module => Preview::Two,
        };
        let deadline = Instant::now() + COMPILE_LIMIT;
        let compiled = self
            .ground
            .cache(self.cache_size)?
            .compiled(&file, &name, preview, deadline)
            .map_err(WasmError::from)?;
        tracing::info!(container = %self.id, key = %compiled.key, source = ?compiled.source, unshared = ?compiled.unshared, crowded = ?compiled.crowded, "compiled");
        let is_first = listen.is_some();
        let mut handoff = Handoff {
            name: name.clone(),
            format,
            preview,
            argv: process.args.clone(),
            env: duet_plan::guest_environment(process, facts.home.as_deref()),
            cwd: process.cwd.clone(),
            mounts: self.volumes(),
            http: served(options),
            listen: listen.unwrap_or_default(),
            config: options.config.clone(),
        };
        let way = match format {
            Format::Component if is_first && options.http_pod_listener => Way::open(&handoff)?,
            Format::Component | Format::Module => None,
        };
        handoff.http.pod_listener = way.is_some();
        let failed = |step| {
            let path = PathBuf::from(&name);
            move |source| WasmError::File { step, path, source }
        };
        let module = compiled
            .tree()
            .map_err(failed("open the compiled code of"))?;
        let tally = Tally::new().map_err(failed("make the tally of"))?;
        let account = Account::open(&compiled, tally);
        // The runner maps it when it is started, whenever that is.
        let mut kept = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.iter().any(|kept| kept.key == compiled.key) {
            kept.push(compiled);
        }
        let handoff = handoff.seal().map_err(failed("write the handoff of"))?;
        // Files in memory have a label by who makes them, and a descriptor that the runner's label does not let it have
        // is taken from it at exec. Those of the container's own files it may read and write.
        if let Some(label) = self.spec.mount_label.as_ref()
            && selinux::is_loaded()
        {
            selinux::label(&handoff, label).map_err(failed("label the handoff of"))?;
            selinux::label(&account.tally, label).map_err(failed("label the tally of"))?;
        }
        Ok(Supplied {
            module,
            handoff,
            account,
            way,
        })
    }
}

impl Linux {
    /// Where the spec has something mounted that a guest sees.
    fn volumes(&self) -> Vec<String> {
        let seen = |mount: &&Mount| match &mount.kind {
            MountKind::Bind { .. } => true,
            MountKind::Filesystem { fstype, .. } => {
                fstype == "tmpfs" && mount.destination != "/dev"
            }
            MountKind::Cgroup { .. } => false,
        };
        let mounts = self.spec.mounts.iter().filter(seen);
        mounts.map(|mount| mount.destination.clone()).collect()
    }
}

/// How a `wasi:http` component is served, as far as annotations say.
fn served(options: &Options) -> Http {
    let otherwise = Http::default();
    let count = |count: Option<NonZeroU32>, otherwise| count.map_or(otherwise, NonZeroU32::get);
    Http {
        address: options.http_listen.map(|address| address.to_string()),
        reuse: count(options.http_reuse, otherwise.reuse),
        concurrency: count(options.http_concurrency, otherwise.concurrency),
        queue: options.http_queue.unwrap_or(otherwise.queue),
        timeout: match options.http_timeout {
            Some(Timeout::Within(time)) => Some(time),
            Some(Timeout::Never) => None,
            None => otherwise.timeout,
        },
        idle: options.http_idle.unwrap_or(otherwise.idle),
        drain: options.http_drain.unwrap_or(otherwise.drain),
        plain_log: options.http_plain_log,
        // Only for the first process, if it can have it.
        pod_listener: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_annotation_of_http_is_the_setting_of_its_name() {
        // No two alike, and none what it is without the annotation.
        let second = Duration::from_secs;
        let count = NonZeroU32::new;
        let asked = Options {
            http_listen: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            http_reuse: count(2),
            http_concurrency: count(3),
            http_queue: Some(4),
            http_timeout: Some(Timeout::Within(second(5))),
            http_idle: Some(second(6)),
            http_drain: Some(second(7)),
            http_plain_log: true,
            ..Options::default()
        };
        let expected = Http {
            address: Some("127.0.0.1:1".to_owned()),
            reuse: 2,
            concurrency: 3,
            queue: 4,
            timeout: Some(second(5)),
            idle: second(6),
            drain: second(7),
            plain_log: true,
            pod_listener: false,
        };
        assert_eq!(served(&asked), expected);
        // What means something else than to be left out.
        let endless = Options {
            http_timeout: Some(Timeout::Never),
            http_queue: Some(0),
            ..Options::default()
        };
        let expected = Http {
            timeout: None,
            queue: 0,
            ..Http::default()
        };
        assert_eq!(served(&endless), expected);
        assert_eq!(served(&Options::default()), Http::default());
    }
}
