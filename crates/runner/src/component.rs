//! Components, of WASI preview 2 or 3: commands; and which of them are servers.

use duet_wasm::{Handoff, Inherited, Needs, Preview, engine_config, server_config};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::config;
use crate::end::End;
use crate::guest::{Guest, STACK};
use crate::imports::{exports, imports, linker, unlinked};
use crate::limits;
use crate::module::unfit;
use crate::outgoing::roots;
use crate::preview3;
use crate::rest;
use crate::serve;
use crate::signals::Signals;
use crate::threads;
use crate::walls;

/// Runs the component to its end.
pub(crate) fn run(inherited: Inherited, handoff: &Handoff, signals: Signals) -> End {
    let listeners = inherited.listeners();
    let loaded = match load(&inherited, handoff.http.concurrency, handoff.preview) {
        Ok(loaded) => loaded,
        Err(error) => return unfit(&error),
    };
    drop(inherited);
    walls::of_the_guest();
    let component = match loaded {
        Loaded::Command(component) => component,
        Loaded::Server(component, unpooled) => {
            tell(&component, handoff);
            return serve::run(&component, unpooled, handoff, signals, listeners);
        }
    };
    drop(listeners);
    tell(&component, handoff);
    let pre = match prepare(&component) {
        Ok(pre) => pre,
        Err(error) => return unlinked(&error),
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
    if imports(component, "wasi:http/outgoing-handler") || imports(component, "wasi:http/client") {
        roots::remember(handoff);
    }
}

/// What a component is.
pub(crate) enum Loaded {
    Command(Component),
    /// With why there is no pool for its instances.
    Server(Component, Option<String>),
}

/// A command whose imports are resolved, by the preview that it is made for.
enum Prepared {
    Two(CommandPre<Guest>),
    Three(preview3::CommandPre<Guest>),
}

fn prepare(component: &Component) -> wasmtime::Result<Prepared> {
    let pre = linker(component)?.instantiate_pre(component)?;
    if exports(component, preview3::RUN) {
        preview3::CommandPre::new(pre).map(Prepared::Three)
    } else {
        CommandPre::new(pre).map(Prepared::Two)
    }
}

/// Maps the component that may use `preview`; a server has room for `concurrency` instances of it.
pub(crate) fn load(
    inherited: &Inherited,
    concurrency: u32,
    preview: Preview,
) -> wasmtime::Result<Loaded> {
    let with =
        |config: &mut Config| inherited.component(&Engine::new(config.async_stack_size(STACK))?);
    let [plain, throwing] = Needs::of(preview);
    let why = match with(&mut engine_config(plain)) {
        Ok(component) => return Ok(Loaded::Command(component)),
        Err(why) => why,
    };
    // The compiler knows a server and what throws, and compiles each in another way: what loads so is one.
    for needs in [plain, throwing] {
        if let Ok(component) = with(&mut server_config(needs)) {
            let resources = component.resources_required();
            drop(component);
            if needs.exceptions {
                limits::expect_exceptions();
            }
            // It is loaded again, by an engine with room for many instances of just this component.
            return serve::load(inherited, concurrency, needs, resources)
                .map(|(component, unpooled)| Loaded::Server(component, unpooled));
        }
    }
    let component = with(&mut engine_config(throwing)).map_err(|_| why)?;
    limits::expect_exceptions();
    Ok(Loaded::Command(component))
}

async fn command(pre: &Prepared, handoff: &Handoff) -> End {
    let engine = match pre {
        Prepared::Two(pre) => pre.engine(),
        Prepared::Three(pre) => pre.engine(),
    };
    let mut store = match Guest::new(handoff) {
        Ok(guest) => Store::new(engine, guest),
        Err(error) => return unfit(&error),
    };
    store.limiter(Guest::limiter);
    let called = match pre {
        Prepared::Two(pre) => match pre.instantiate_async(&mut store).await {
            Ok(command) => command.wasi_cli_run().call_run(&mut store).await,
            Err(error) => return End::of_instantiation(&error),
        },
        Prepared::Three(pre) => match pre.instantiate_async(&mut store).await {
            Ok(command) => preview3::run(&command, &mut store).await,
            Err(error) => return End::of_instantiation(&error),
        },
    };
    let end = match called {
        Ok(Ok(())) => End::Exit(0),
        Ok(Err(())) => End::Exit(1),
        Err(error) => End::of(&error),
    };
    std::mem::forget(store);
    end
}
