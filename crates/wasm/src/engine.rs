//! The one engine configuration: what the compiler compiles for is what the runner runs.

use wasmtime::{Config, ModuleVersionStrategy};

/// Names the engine in every piece of compiled code, patch level included.
///
/// wasmtime's own check compares the major version only, so code from a patch release with a
/// known hole would still be loaded by the next one.
pub const VERSION: &str = concat!("duet ", env!("CARGO_PKG_VERSION"), ", wasmtime 48.0.8");

/// How much native stack a guest may use before it traps: 1 MiB.
///
/// wasmtime's 512 KiB is tight for interpreters that recurse on the guest's own code.
const STACK: usize = 1 << 20;

/// The settings of both the compiler and the runner.
///
/// Epochs and fuel are off: they cost 3 to 30 % and a process can be killed. Unwind tables for
/// native debuggers are off: wasm backtraces come from frame pointers. What wasmtime leaves off
/// because of its advisories (garbage collection, threads, preview 3) is not even built.
///
/// # Panics
///
/// Never: the version's length is checked below.
#[must_use]
pub fn engine_config() -> Config {
    const { assert!(VERSION.len() < 256, "wasmtime's limit on a custom version") };
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .max_wasm_stack(STACK)
        .native_unwind_info(false)
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))
        .expect("the version is short enough");
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_in_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        let after = lock
            .split("name = \"wasmtime\"\nversion = \"")
            .nth(1)
            .unwrap();
        let version = after.split('"').next().unwrap();
        assert!(
            VERSION.ends_with(&format!("wasmtime {version}")),
            "{VERSION} is not {version}"
        );
    }
}
