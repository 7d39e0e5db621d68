//! The runner's peer in `make bench`: the same engine and the same compiled code, and wasmtime's preview 1 as it
//! is, set up like the runner's and as wasmtime's own command line does.
#![forbid(unsafe_code)]

use duet_wasm::{Inherited, Needs, Preview, engine_config};
use wasmtime::{Engine, Linker, Store};
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_async};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

fn main() -> wasmtime::Result<()> {
    let (inherited, _limit, _tally) = Inherited::take().expect("descriptors 3 to 6 are open");
    let handoff = inherited.handoff()?;
    let [plain, _] = Needs::of(Preview::Two);
    let engine = Engine::new(engine_config(plain).async_stack_size(2 << 20))?;
    let module = inherited.module(&engine)?;
    let mut linker = Linker::new(&engine);
    add_to_linker_async(&mut linker, |world: &mut WasiP1Ctx| world)?;
    let mut world = WasiCtxBuilder::new();
    world
        .allow_blocking_current_thread(true)
        .args(&handoff.argv)
        .inherit_stdio()
        .preopened_dir("/", "/", FsPerms::ReadWrite)?;
    let mut store = Store::new(&engine, world.build_p1());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let instance = linker.instantiate_async(&mut store, &module).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        start.call_async(&mut store, ()).await
    })
}
