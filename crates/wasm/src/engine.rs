//! The one engine configuration: what the compiler compiles for is what the runner runs.

use wasmtime::{Config, ModuleVersionStrategy};

use crate::{Preview, VERSION};

/// How much native stack a guest may use before it traps: 1 MiB.
///
/// wasmtime's 512 KiB is tight for interpreters that recurse on the guest's own code.
const STACK: usize = 1 << 20;

/// The settings of both the compiler and the runner.
///
/// Epochs and fuel are off: they cost 3 to 30 % and a process can be killed. (Servers: [`server_config`].) Unwind tables for
/// native debuggers are off: wasm backtraces come from frame pointers. What wasmtime leaves off
/// because of its advisories (garbage collection, threads) is not even built; concurrent components, which
/// are what [`Preview::Three`] needs, are built and switched off for all others: neither the code of such a
/// component nor its store has anything of them.
///
/// # Panics
///
/// Never: the version's length is checked below.
#[must_use]
pub fn engine_config(preview: Preview) -> Config {
    const { assert!(VERSION.len() < 256, "wasmtime's limit on a custom version") };
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(preview == Preview::Three)
        .max_wasm_stack(STACK)
        .native_unwind_info(false)
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))
        .expect("the version is short enough");
    config
}

/// The settings for components that serve `wasi:http`.
///
/// Many requests share such a process, so one that spins must be interrupted without it: by epochs.
#[must_use]
pub fn server_config(preview: Preview) -> Config {
    let mut config = engine_config(preview);
    config.epoch_interruption(true);
    config
}
