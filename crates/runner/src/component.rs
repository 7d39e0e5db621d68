//! WASI preview 2: commands; and which components are servers.

use duet_wasm::{Handoff, Inherited, engine_config, server_config};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::config;
use crate::end::End;
use crate::guest::{Guest, STACK};
use crate::imports::{imports, linker};
use crate::limits;
use crate::module::unfit;
use crate::outgoing::roots;
use crate::rest;
use crate::serve;
use crate::signals::Signals;
use crate::threads;

/// Runs the component to its end.
pub(crate) fn run(inherited: Inherited, handoff: &Handoff, signals: Signals) -> End {
    let component = match load(&inherited, handoff.http.concurrency) {
        Ok(Loaded::Command(component)) => component,
        Ok(Loaded::Server(component)) => {
            drop(inherited);
            tell(&component, handoff);
            return serve::run(&component, handoff, signals);
        }
        Err(error) => return unfit(&error),
    };
    drop(inherited);
    tell(&component, handoff);
    let pre = linker(&component)
        .and_then(|linker| linker.instantiate_pre(&component))
        .and_then(CommandPre::new);
    let pre = match pre {
        Ok(pre) => pre,
        Err(error) => return End::Unstarted(format!("{error:#}")),
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime
        .enable_time()
        // A guest waits for a few things at a time; the default has room for 1024.
        .max_io_events_per_tick(64)
        .max_blocking_threads(threads::MOST)
        .on_thread_park(rest::end_of_start);
    // An epoll instance and its friends only for those who can name a socket.
    if imports(&component, "wasi:sockets/") || imports(&component, "wasi:http/") {
        runtime.enable_io();
    }
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return End::Unfit(error.to_string()),
    };
    let end = runtime.block_on(command(&pre, handoff));
    // The process is over: the kernel takes everything back faster than we could.
    std::mem::forget((runtime, pre));
    end
}

/// Keeps what the component will be asked about, and what only few of them ask for.
fn tell(component: &Component, handoff: &Handoff) {
    limits::expect(component.resources_required().as_ref());
    if imports(component, "wasi:config/") {
        config::remember(handoff);
    }
    if imports(component, "wasi:http/outgoing-handler") {
        roots::remember(handoff);
    }
}

/// What a component is.
pub(crate) enum Loaded {
    Command(Component),
    Server(Component),
}

/// Maps the component; a server has room for `concurrency` instances of it.
pub(crate) fn load(inherited: &Inherited, concurrency: u32) -> wasmtime::Result<Loaded> {
    let with =
        |config: &mut Config| inherited.component(&Engine::new(config.async_stack_size(STACK))?);
    let why = match with(&mut engine_config()) {
        Ok(component) => return Ok(Loaded::Command(component)),
        Err(why) => why,
    };
    // The compiler knows a server, and compiles it in another way: what loads so is one.
    let Ok(component) = with(&mut server_config()) else {
        return Err(why);
    };
    let needs = component.resources_required();
    drop(component);
    // It is loaded again, by an engine with room for many instances of just this component.
    serve::load(inherited, concurrency, needs).map(Loaded::Server)
}

async fn command(pre: &CommandPre<Guest>, handoff: &Handoff) -> End {
    let mut store = match Guest::new(handoff) {
        Ok(guest) => Store::new(pre.engine(), guest),
        Err(error) => return unfit(&error),
    };
    store.limiter(Guest::limiter);
    let command = match pre.instantiate_async(&mut store).await {
        Ok(command) => command,
        Err(error) => return End::of_instantiation(&error),
    };
    let end = match command.wasi_cli_run().call_run(&mut store).await {
        Ok(Ok(())) => End::Exit(0),
        Ok(Err(())) => End::Exit(1),
        Err(error) => End::of(&error),
    };
    std::mem::forget(store);
    end
}

/// Prepares a server.
pub(crate) fn proxy(component: &Component) -> wasmtime::Result<ProxyPre<Guest>> {
    linker(component)?
        .instantiate_pre(component)
        .and_then(ProxyPre::new)
}
