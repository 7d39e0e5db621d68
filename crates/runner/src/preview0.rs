//! WASI preview 0, `wasi_unstable`: what compilers before 2020 made modules for.
//!
//! wasmtime's, as it is: numbers of descriptors, standard streams and all. It has no listening sockets.

use wasmtime::{Caller, Linker, Module, Result};
use wasmtime_wasi::{I32Exit, p0};

use crate::preview1::Preview1;

/// What it is called by those who import it.
const MODULE: &str = "wasi_unstable";

/// Whether `module` was compiled for it.
pub(crate) fn is_asked_for(module: &Module) -> bool {
    module.imports().any(|import| import.module() == MODULE)
}

/// A linker with all of it.
pub(crate) fn linker(module: &Module) -> Result<Linker<Preview1>> {
    let mut linker = Linker::new(module.engine());
    p0::add_to_linker_async(&mut linker, Preview1::wasmtime)?;
    linker.allow_shadowing(true);
    // wasmtime's own refuses codes from 126 up.
    let exit = |_: Caller<'_, Preview1>, code: i32| -> Result<()> { Err(I32Exit(code).into()) };
    linker.func_wrap(MODULE, "proc_exit", exit)?;
    Ok(linker)
}
