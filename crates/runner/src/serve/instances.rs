//! The instances of a server: made for a request, and kept for others if they may be used again.

use std::sync::{Arc, Mutex, PoisonError};

use duet_wasm::{Handoff, Inherited, engine_config};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, PoolingAllocationConfig, ResourcesRequired, Store};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::component::proxy;
use crate::guest::{Guest, STACK};

/// Makes instances, and keeps those that may serve again.
pub(crate) struct Instances {
    pre: ProxyPre<Guest>,
    handoff: Handoff,
    /// One permit for each request that may be inside the guest.
    places: Arc<Semaphore>,
    count: u32,
    idle: Mutex<Vec<Instance>>,
}

/// One instance, and how many requests it may still serve.
struct Instance {
    store: Store<Guest>,
    proxy: Proxy,
    left: u32,
}

// === impl Instances ===

impl Instances {
    /// Resolves the component's imports, once for all requests.
    pub(crate) fn prepare(component: &Component, handoff: &Handoff) -> wasmtime::Result<Self> {
        let count = handoff.http.concurrency.max(1);
        Ok(Self {
            pre: proxy(component)?,
            handoff: handoff.clone(),
            places: Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX))),
            count,
            idle: Mutex::default(),
        })
    }

    /// The component as its user knows it.
    pub(crate) fn name(&self) -> &str {
        &self.handoff.name
    }

    /// Has the guest answer one request.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> wasmtime::Result<Response<HyperOutgoingBody>> {
        let place = Arc::clone(&self.places).acquire_owned().await?;
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => self.make().await?,
        };
        let (sender, answered) = oneshot::channel();
        let mut http = instance.store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        let response = http.new_response_outparam(sender)?;

        // Its own task: a guest may go on after its answer, and the answer's body is written by it.
        let instances = Arc::clone(self);
        let call = tokio::spawn(async move {
            let handler = instance.proxy.wasi_http_incoming_handler();
            let called = handler
                .call_handle(&mut instance.store, request, response)
                .await;
            instances.put_back(instance, &called, place);
            called
        });
        match answered.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(code)) => Err(said(&code)),
            Err(_) => {
                call.await??;
                Err(wasmtime::Error::msg("the guest returned without an answer"))
            }
        }
    }

    /// Waits until no request is inside the guest.
    pub(crate) async fn finished(&self) {
        // It is never closed.
        drop(self.places.acquire_many(self.count).await);
    }

    async fn make(&self) -> wasmtime::Result<Instance> {
        let mut store = Store::new(self.pre.engine(), Guest::new(&self.handoff)?);
        store.limiter(Guest::limiter);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy,
            left: self.handoff.http.reuse.max(1),
        })
    }

    fn take_idle(&self) -> Option<Instance> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn put_back(
        &self,
        mut instance: Instance,
        called: &wasmtime::Result<()>,
        place: OwnedSemaphorePermit,
    ) {
        instance.left -= 1;
        match called {
            Ok(()) if instance.left > 0 => {
                self.idle
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(instance);
            }
            // The memory of a guest that trapped is in no state to be used again.
            Ok(()) | Err(_) => drop(instance),
        }
        drop(place);
    }
}

/// Maps the component for `count` instances, each of which takes what is in `needs`, if that is known.
pub(crate) fn load(
    inherited: &Inherited,
    count: u32,
    needs: Option<ResourcesRequired>,
) -> wasmtime::Result<Component> {
    let load = |config: &Config| inherited.component(&Engine::new(config)?);
    let single = || load(engine_config().async_stack_size(STACK));
    // A container with a limit on its address space cannot have a pool, nor can a component of which
    // nobody knows what it needs: they do with single allocations.
    match needs {
        Some(needs) => load(
            engine_config()
                .async_stack_size(STACK)
                .allocation_strategy(pool(count.max(1), &needs)),
        )
        .or_else(|_| single()),
        None => single(),
    }
}

fn said(code: &ErrorCode) -> wasmtime::Error {
    wasmtime::Error::msg(format!("the guest answered with an error: {code:?}"))
}

/// Room for `count` instances that need this much. Address space only: memory is taken as it is
/// touched. But each place in a pool has a line in a table, so there are no more than are needed.
fn pool(count: u32, needs: &ResourcesRequired) -> PoolingAllocationConfig {
    let elements = usize::try_from(needs.max_initial_table_size.unwrap_or(0));
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count)
        .total_core_instances(u32::MAX)
        .total_memories(count.saturating_mul(needs.num_memories))
        .total_tables(count.saturating_mul(needs.num_tables))
        .total_stacks(count)
        .max_memories_per_module(needs.num_memories)
        .max_tables_per_module(needs.num_tables)
        .max_component_instance_size(16 << 20)
        .max_core_instance_size(16 << 20)
        .table_elements(elements.unwrap_or(usize::MAX).max(100_000))
        // What an instance dirtied is given back when it goes, apart from this much.
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(16 << 10);
    pool
}
