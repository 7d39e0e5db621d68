//! The instances of a server: made for a request, and kept for others if they may be used again.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use duet_wasm::{Handoff, Inherited, Needs, Preview, server_config};
use http::Request;
use hyper::body::Incoming;
use tokio::time::timeout;
use wasmtime::component::Component;
use wasmtime::{Config, Engine, PoolingAllocationConfig, ResourcesRequired, Store};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

use crate::guest::{Guest, STACK, files};
use crate::imports::{exports, linker};
use crate::limits::{self, Uncounted};
use crate::outputs;
use crate::preview3::{self, Service, ServicePre};
use crate::room;
use crate::serve::clock::{Clock, Inside};
use crate::serve::log::{Logs, Said};
use crate::serve::requests::{About, Sender};
use crate::serve::threads;

/// How many memories are given back to the kernel at a time: 16, so half a MiB of a small guest's waits.
const DEPARTING: usize = 16;

/// Of what a container may have, so much for each of them. Those that wait are in use as the kernel counts, and what
/// they take no other instance can grow into.
const FOR_EACH: u64 = 64 << 20;

/// What a memory in a pool can have: the 4 GiB that code is compiled for. One of 64 bits cannot have more, either.
const PLACE: usize = 4 << 30;

/// In how many places a guest of preview 3 can wait at the same time without giving its stack back: 8 on the
/// average. Most never do; each of the others is one of its calls.
const WAITING: u32 = 8;

/// How long making an instance for nobody may take: a second. A guest may do what it likes then.
const TRIAL: Duration = Duration::from_secs(1);

/// Makes instances, and keeps those that may serve again.
pub(crate) struct Instances {
    pre: Prepared,
    handoff: Handoff,
    /// Opened once for all of them.
    files: WasiFilesystemCtx,
    clock: Arc<Clock>,
    /// What each may have. Of the limit when the server began: to ask for each would take longer than to make one.
    may_have: Uncounted,
    idle: Mutex<Vec<Instance>>,
}

/// A component whose imports are resolved, by the preview that it is made for.
enum Prepared {
    Two(ProxyPre<Guest>),
    Three(ServicePre<Guest>),
}

/// What an instance of it exports.
enum Exported {
    Two(Proxy),
    Three(Service),
}

/// One instance, and how many requests it may still serve.
struct Instance {
    store: Store<Guest>,
    exported: Exported,
    /// Where it prints.
    logs: Option<Logs>,
    left: u32,
}

// === impl Instances ===

impl Instances {
    /// Resolves the component's imports, once for all requests.
    ///
    /// `told` says when the server was told to stop, `has_threads` whether there are any for its files.
    pub(crate) fn prepare(
        component: &Component,
        handoff: &Handoff,
        told: Arc<AtomicBool>,
        has_threads: bool,
    ) -> wasmtime::Result<Self> {
        let engine = component.engine().clone();
        Ok(Self {
            pre: prepare(component)?,
            handoff: handoff.clone(),
            files: files(handoff, has_threads)?,
            clock: Clock::new(engine, told, handoff.http.drain),
            may_have: Uncounted::now(),
            idle: Mutex::default(),
        })
    }

    /// Whether there is room for one, where a limit may be in the way: or else each client would be told, and not
    /// who started this.
    pub(crate) async fn have_room(&self) -> Result<(), String> {
        if !room::is_limited() {
            return Ok(());
        }
        let _ticking = self.ticking();
        // One that computes when it is made would keep this thread for ever, and the server from listening.
        if !self.clock.is_there() {
            return Ok(());
        }
        match timeout(TRIAL, self.make(0, &Arc::default())).await {
            Ok(Err(error)) => room::wanting(&error).map_or(Ok(()), Err),
            // Whatever else it does when it is made, it does for requests.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Has the clock tick until what is returned is dropped.
    pub(crate) fn ticking(&self) -> Inside {
        self.clock.enter()
    }

    /// Has a guest answer a request. It may go on after it gave its answer to `sender`.
    pub(crate) async fn call(
        &self,
        about: &About,
        request: Request<Incoming>,
        sender: Sender,
    ) -> wasmtime::Result<()> {
        let _ticking = self.ticking();
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => self.make(about.id, &about.said).await?,
        };
        if let Some(logs) = &instance.logs {
            logs.begin(about.id, &about.said);
        }
        // A guest that is still computing when the clock ticks goes on after the others.
        instance.store.set_epoch_deadline(1);
        let store = &mut instance.store;
        // Whoever asked may have gone.
        let tell = move |answer| drop(sender.send(answer));
        let called = match &instance.exported {
            Exported::Two(proxy) => {
                let mut http = store.data_mut().http();
                let request = http.new_incoming_request(Scheme::Http, request)?;
                let response = http.new_response_outparam_from_callback(move |answer| {
                    tell(answer.map_err(|code| format!("{code:?}")));
                })?;
                let handler = proxy.wasi_http_incoming_handler();
                handler.call_handle(store, request, response).await
            }
            Exported::Three(service) => preview3::answer(service, store, request, tell).await,
        };
        match &called {
            Ok(()) => self.put_back(instance),
            // Its memory is in no state to be used again.
            Err(_) => about.breaks(),
        }
        called
    }

    async fn make(&self, id: u64, said: &Arc<Said>) -> wasmtime::Result<Instance> {
        let is_plain = self.handoff.http.plain_log;
        let logs = outputs::opened().map(|all| Logs::new(all, is_plain, id, said));
        let guest = Guest::serving(&self.handoff, &self.files, logs.as_ref());
        let engine = match &self.pre {
            Prepared::Two(pre) => pre.engine(),
            Prepared::Three(pre) => pre.engine(),
        };
        let mut store = Store::new(engine, guest);
        store.limiter(Guest::limiter);
        self.bound(&mut store);
        store.epoch_deadline_async_yield_and_update(1);
        let exported = match &self.pre {
            Prepared::Two(pre) => Exported::Two(pre.instantiate_async(&mut store).await?),
            Prepared::Three(pre) => Exported::Three(pre.instantiate_async(&mut store).await?),
        };
        Ok(Instance {
            store,
            exported,
            logs,
            left: self.handoff.http.reuse.max(1),
        })
    }

    /// Ends an instance that hoards what nobody counts, before the kernel ends the server for it.
    fn bound(&self, store: &mut Store<Guest>) {
        let Uncounted { call, handles } = self.may_have;
        store.set_hostcall_fuel(call);
        store.set_max_component_handles(handles);
        // Some of the host's have no handle: the guest may have given it away.
        store.data_mut().table().set_max_capacity(2 * handles);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(2 * handles);
        }
    }

    fn take_idle(&self) -> Option<Instance> {
        if self.handoff.http.reuse <= 1 {
            return None;
        }
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn put_back(&self, mut instance: Instance) {
        instance.left -= 1;
        if instance.left > 0 {
            if let Some(logs) = &instance.logs {
                logs.end();
            }
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(instance);
        }
    }
}

fn prepare(component: &Component) -> wasmtime::Result<Prepared> {
    let pre = linker(component)?.instantiate_pre(component)?;
    if exports(component, preview3::HANDLER) {
        ServicePre::new(pre).map(Prepared::Three)
    } else {
        ProxyPre::new(pre).map(Prepared::Two)
    }
}

/// Maps the component for `count` instances, each of which takes these resources, if they are known. Beside it: why
/// there is no pool for them.
pub(crate) fn load(
    inherited: &Inherited,
    count: u32,
    needs: Needs,
    resources: Option<ResourcesRequired>,
) -> wasmtime::Result<(Component, Option<String>)> {
    let load = |config: &Config| inherited.component(&Engine::new(config)?);
    let single = |why: String| {
        let component = load(server_config(needs).async_stack_size(STACK))?;
        let unpooled = format!(
            "no pool of {count} instances: {why}; each request maps memory of its own, which takes longer"
        );
        Ok((component, Some(unpooled)))
    };
    // A container with a limit on its address space may have no room for a pool, nor has a component of which
    // nobody knows what it needs: they do with single allocations, as many as there is room for then.
    let Some(resources) = resources else {
        return single("what it needs shows only when it is made".to_owned());
    };
    let pooled = load(
        server_config(needs)
            .async_stack_size(STACK)
            .allocation_strategy(pool(count.saturating_add(spare()), needs, &resources)),
    );
    match pooled {
        Ok(component) => {
            limits::places_of(PLACE);
            Ok((component, None))
        }
        Err(error) => single(room::in_the_way(&error).map_or_else(
            || format!("{error:#}"),
            |limits| format!("{limits}; raise it, or lower http.concurrency"),
        )),
    }
}

fn departing() -> usize {
    let affordable = limits::lowest().map(|limit| usize::try_from(limit / FOR_EACH));
    affordable.map_or(DEPARTING, |count| {
        count.unwrap_or(DEPARTING).clamp(1, DEPARTING)
    })
}

/// How many places are not free yet although whoever had them is gone: each thread gives back so many, while
/// as many more gather.
fn spare() -> u32 {
    u32::try_from(DEPARTING * (threads() + 1)).unwrap_or(u32::MAX)
}

/// Room for `count` instances that need this much. Address space only: memory is taken as it is
/// touched. But each place in a pool has a line in a table, so there are no more than are needed.
fn pool(count: u32, needs: Needs, resources: &ResourcesRequired) -> PoolingAllocationConfig {
    let stacks = match needs.preview {
        Preview::Two => 1,
        Preview::Three => WAITING,
    };
    let elements = usize::try_from(resources.max_initial_table_size.unwrap_or(0));
    // What is thrown is in a memory of its own.
    let memories = resources
        .num_memories
        .saturating_add(needs.exceptions.into());
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count)
        .total_core_instances(u32::MAX)
        .total_memories(count.saturating_mul(memories))
        .total_gc_heaps(count)
        .total_tables(count.saturating_mul(resources.num_tables))
        .total_stacks(count.saturating_mul(stacks))
        .max_memories_per_module(resources.num_memories)
        .max_tables_per_module(resources.num_tables)
        .max_memory_size(PLACE)
        .max_component_instance_size(16 << 20)
        .max_core_instance_size(16 << 20)
        .table_elements(elements.unwrap_or(usize::MAX).max(100_000))
        // What an instance dirtied is given back when it goes. Nothing is kept and cleared by hand: a
        // guest's memory begins with the far end of its stack, which it never touches. Giving back interrupts
        // the other threads of the process, so several go together.
        .decommit_batch_size(departing())
        .table_keep_resident(16 << 10);
    pool
}
