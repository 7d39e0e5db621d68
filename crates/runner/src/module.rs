//! WASI preview 1: one core module, its `_start`.
//!
//! What wasmtime's preview 1 does not do: its `sock_accept`, `sock_recv`, `sock_send` and `sock_shutdown`
//! answer `ENOTSOCK`. A guest links and runs; it has no sockets yet.

use duet_wasm::{Handoff, Inherited, engine_config};
use wasmtime::{Engine, Linker, Module, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_async};

use crate::end::End;
use crate::guest::{STACK, world};

/// Runs the module to its end.
pub(crate) fn run(inherited: Inherited, handoff: &Handoff) -> End {
    let prepared = (|| {
        let module = load(&inherited)?;
        let engine = module.engine().clone();
        let mut world = world(handoff)?;
        // Preview 1 has no working directory; wasi-libc and what else wants one reads the environment.
        if !handoff.variables().any(|(name, _)| name == "PWD") {
            world.env("PWD", &handoff.cwd);
        }
        Ok((
            module,
            linker(&engine)?,
            Store::new(&engine, world.build_p1()),
        ))
    })();
    drop(inherited);
    let (module, linker, store) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return unfit(&error),
    };
    // Only clocks need the runtime: files are read on this thread, and there are no sockets.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
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
    inherited.module(&Engine::new(engine_config().async_stack_size(STACK))?)
}

async fn call(mut store: Store<WasiP1Ctx>, linker: &Linker<WasiP1Ctx>, module: &Module) -> End {
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

fn linker(engine: &Engine) -> wasmtime::Result<Linker<WasiP1Ctx>> {
    let mut linker = Linker::new(engine);
    add_to_linker_async(&mut linker, |world: &mut WasiP1Ctx| world)?;
    // wasmtime's own refuses codes from 126 up.
    linker.allow_shadowing(true);
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) },
    )?;
    Ok(linker)
}

/// An error of ours, in the words of wasmtime.
pub(crate) fn unfit(error: &wasmtime::Error) -> End {
    End::Unfit(format!("{error:#}"))
}
