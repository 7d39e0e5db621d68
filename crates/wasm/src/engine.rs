//! The one engine configuration: what the compiler compiles for is what the runner runs.

use wasmtime::{Collector, Config, ModuleVersionStrategy};

use crate::{Preview, VERSION};

/// What a guest's code needs of its engine beyond what all do, and nobody else is to pay for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// What the guest may ask for.
    pub preview: Preview,
    /// Whether it throws: exceptions of wasm, which are also how newer C does `setjmp`.
    pub exceptions: bool,
}

/// How much native stack a guest may use before it traps: 1 MiB.
///
/// wasmtime's 512 KiB is tight for interpreters that recurse on the guest's own code.
const STACK: usize = 1 << 20;

/// The settings of both the compiler and the runner.
///
/// Epochs and fuel are off: they cost 3 to 30 % and a process can be killed. (Servers: [`server_config`].) Unwind tables for
/// native debuggers are off: wasm backtraces come from frame pointers. What wasmtime leaves off
/// because of its advisories (threads) is not even built. Concurrent components, which
/// are what [`Preview::Three`] needs, and exceptions with the collector that frees them, are built and switched off
/// for all others: neither their code nor their store has anything of them. Types of the garbage collection
/// proposal itself stay refused.
///
/// # Panics
///
/// Never: the version's length is checked below.
#[must_use]
pub fn engine_config(needs: Needs) -> Config {
    const { assert!(VERSION.len() < 256, "wasmtime's limit on a custom version") };
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(needs.preview == Preview::Three)
        .max_wasm_stack(STACK)
        .gc_support(needs.exceptions)
        .wasm_exceptions(needs.exceptions)
        .wasm_gc(false)
        .collector(Collector::Copying)
        .native_unwind_info(false)
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))
        .expect("the version is short enough");
    config
}

/// The settings for components that serve `wasi:http`.
///
/// Many requests share such a process, so one that spins must be interrupted without it: by epochs.
#[must_use]
pub fn server_config(needs: Needs) -> Config {
    let mut config = engine_config(needs);
    config.epoch_interruption(true);
    config
}

// === impl Needs ===

impl Needs {
    /// What a guest of `preview` may need, the least first: code that was compiled for less than is given to it runs
    /// too, but dearer.
    #[must_use]
    pub fn of(preview: Preview) -> [Self; 2] {
        [false, true].map(|exceptions| Self {
            preview,
            exceptions,
        })
    }
}
