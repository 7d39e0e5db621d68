//! The guest's world: arguments, environment, files, network.
//!
//! Its files are the container's root, as it is mounted: volumes, read-only mounts and tmpfs come along
//! by themselves, and permissions are the kernel's, for the container's user. The plan gives wasm
//! containers no procfs, sysfs or devices, so there is nothing else to keep from it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use duet_wasm::Handoff;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::random::WasiRandomCtx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;

use crate::limits::Limiter;
use crate::outgoing::Outgoing;
use crate::serve::Logs;

/// How much native stack the fiber of a guest has: its own 1 MiB and as much for host calls below.
pub(crate) const STACK: usize = 2 << 20;

/// What a store holds for a component.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    table: ResourceTable,
    limiter: Limiter,
}

/// The part of the world that previews 1 and 2 share. Fails only if `/` cannot be opened.
pub(crate) fn world(handoff: &Handoff) -> wasmtime::Result<WasiCtxBuilder> {
    let mut world = surroundings(handoff);
    preopen(&mut world, handoff)?;
    Ok(world)
}

/// The root; and what the image has links to on the way to a volume, by the links' names, if one of them is absolute.
///
/// To the engine an absolute link leaves the preopen `/`, although it does not, and is refused (decision 4). A volume whose
/// place is behind one (a token's is `/var/run/secrets/kubernetes.io/serviceaccount`, and Debian's `/var/run` leads
/// to `/run`) could not be found by the name that the spec gives it. The kernel follows the link within
/// our root, which is all that there is to see of it.
fn preopen(world: &mut WasiCtxBuilder, handoff: &Handoff) -> wasmtime::Result<()> {
    world.preopened_dir("/", "/", FsPerms::ReadWrite)?;
    for link in refused_links(&handoff.mounts)? {
        // One that leads to no directory, or to one that this user may not read, is not there for the guest.
        drop(world.preopened_dir(link, link.to_string_lossy(), FsPerms::ReadWrite));
    }
    Ok(())
}

/// Those links on the way to `places`, each once, that the engine would not follow: absolute ones, and relative ones
/// that lead to such.
fn refused_links(places: &[String]) -> io::Result<BTreeSet<&Path>> {
    let ways = places.iter().flat_map(|place| Path::new(place).ancestors());
    let mut all: BTreeSet<_> = ways.filter(|way| way.parent().is_some()).collect();
    all.retain(|way| way.is_symlink());
    if all.is_empty() {
        return Ok(all);
    }
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let root = open("/", path, Mode::empty())?;
    all.retain(|way| {
        // As the engine does. Where it fails for another reason, opening the link will too.
        let beneath = way.strip_prefix("/").unwrap_or(way);
        openat2(&root, beneath, path, Mode::empty(), ResolveFlags::BENEATH).is_err()
    });
    Ok(all)
}

/// The files alone, for instances that share them.
///
/// What is done with them is done by other threads: those of a server have its requests' time to keep, and its
/// signals to hear, however long a file takes. A FIFO that somebody put on a volume may take for ever. Where there is
/// no thread for it (`has_threads`) they have to do it themselves.
pub(crate) fn files(handoff: &Handoff, has_threads: bool) -> wasmtime::Result<WasiFilesystemCtx> {
    let mut world = WasiCtxBuilder::new();
    world.allow_blocking_current_thread(!has_threads);
    preopen(&mut world, handoff)?;
    Ok(world.build().filesystem().clone())
}

/// All but the files.
fn surroundings(handoff: &Handoff) -> WasiCtxBuilder {
    let mut world = WasiCtxBuilder::new();
    world
        // One guest has this thread to itself; handing each read of a file to another thread would only cost. (Not so
        // for servers: `files`.)
        .allow_blocking_current_thread(true)
        .args(&handoff.argv)
        .inherit_stdio()
        .initial_cwd(&handoff.cwd)
        .inherit_network()
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true);
    for (name, value) in handoff.variables() {
        world.env(name, value);
    }
    world
}

// === impl Guest ===

impl Guest {
    /// A world of its own for one instance of a component.
    pub(crate) fn new(handoff: &Handoff) -> wasmtime::Result<Self> {
        let mut world = world(handoff)?;
        Ok(Self::with(world.build()))
    }

    /// The same for one that answers requests, finds `files` and prints to `logs`.
    pub(crate) fn serving(
        handoff: &Handoff,
        files: &WasiFilesystemCtx,
        logs: Option<&Logs>,
    ) -> Self {
        let mut world = surroundings(handoff);
        if let Some(Logs { stdout, stderr }) = logs {
            world.stdout(stdout.clone()).stderr(stderr.clone());
        }
        let mut wasi = world.build();
        files.clone_into(wasi.filesystem());
        Self::with(wasi)
    }

    fn with(wasi: WasiCtx) -> Self {
        Self {
            wasi,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing,
            table: ResourceTable::new(),
            limiter: Limiter::new(),
        }
    }

    /// What may become of its memory.
    pub(crate) fn limiter(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.limiter
    }

    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    pub(crate) fn random(&mut self) -> &mut WasiRandomCtx {
        self.wasi.random()
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }
}
