//! WASI preview 1, or what was before it: one core module, its `_start`.
//!
//! What it can call is in `preview1.rs` and `preview0.rs`.

use duet_wasm::{Handoff, Inherited, Needs, Preview, engine_config};
use wasmtime::{Engine, Linker, Module, Store};

use crate::end::End;
use crate::guest::STACK;
use crate::limits;
use crate::preview0;
use crate::preview1::{Preview1, linker, listeners};
use crate::walls;

/// Runs the module to its end.
pub(crate) fn run(inherited: Inherited, handoff: &Handoff) -> End {
    let listeners = match listeners(&handoff.listen) {
        Ok(listeners) => listeners,
        Err(end) => return end,
    };
    let module = match load(&inherited) {
        Ok(module) => module,
        Err(error) => return unfit(&error),
    };
    drop(inherited);
    walls::of_the_guest();
    limits::expect(Some(&module.resources_required()));
    let old = preview0::is_asked_for(&module);
    if old && !listeners.is_empty() {
        return End::Unstarted("a module of preview 0 has no sockets to listen with".into());
    }
    let prepared = (|| {
        let linker = if old {
            preview0::linker(&module)?
        } else {
            linker(&module)?
        };
        let world = Preview1::new(handoff, listeners)?;
        Ok((linker, Store::new(module.engine(), world)))
    })();
    let (linker, store) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return unfit(&error),
    };
    // All calls are made on this thread: nothing waits for a runtime, but wasmtime looks for one, and its preview
    // 0 waits for its clock.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    if old {
        builder.enable_time();
    }
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => return End::Unfit(error.to_string()),
    };
    let end = runtime.block_on(call(store, &linker, &module));
    // The process is over: the kernel takes everything back faster than we could.
    std::mem::forget((runtime, linker, module));
    end
}

/// Maps the module.
pub(crate) fn load(inherited: &Inherited) -> wasmtime::Result<Module> {
    let with =
        |needs| inherited.module(&Engine::new(engine_config(needs).async_stack_size(STACK))?);
    let [plain, throwing] = Needs::of(Preview::Two);
    // The compiler knows a module that throws: its code loads in no engine without exceptions.
    with(plain).or_else(|why| {
        let module = with(throwing).map_err(|_| why)?;
        limits::expect_exceptions();
        Ok(module)
    })
}

async fn call(mut store: Store<Preview1>, linker: &Linker<Preview1>, module: &Module) -> End {
    store.limiter(Preview1::limiter);
    let instance = match linker.instantiate_async(&mut store, module).await {
        Ok(instance) => instance,
        Err(error) => return End::of_instantiation(&error),
    };
    let start = match instance.get_typed_func::<(), ()>(&mut store, "_start") {
        Ok(start) => start,
        Err(error) => return End::Unstarted(format!("no command: its export `_start`: {error:#}")),
    };
    let end = match start.call_async(&mut store, ()).await {
        Ok(()) => End::Exit(0),
        Err(error) => End::of(&error),
    };
    std::mem::forget(store);
    end
}

/// An error of ours, in the words of wasmtime.
pub(crate) fn unfit(error: &wasmtime::Error) -> End {
    End::Unfit(format!("{error:#}"))
}
