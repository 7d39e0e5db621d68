//! Compiles one WebAssembly file and is gone.
//!
//! The cache runs it with the module, which nobody can change any more, as stdin, the new entry as
//! stdout and a pipe as stderr. It ends with 0; with 1 and a sentence if the module is at fault;
//! with 2 and a sentence if it cannot work. A compiler is the largest thing that touches a stranger's
//! bytes, so before the first of them it takes from itself what it does not need (`jail.rs`).
//!
//! For people: `duet-compiler < app.wasm > /dev/null` says what is wrong with a module; with `DUET_PREVIEW3=true` in
//! its environment a component may use preview 3.
#![forbid(unsafe_code)]

mod filter;
mod jail;
mod worlds;

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use duet_wasm::{Format, Needs, Preview, detect, engine_config, server_config};
use wasmtime::Engine;

use crate::worlds::World;

/// How many threads compile: 2. One module must not take a node's processors from its pods.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let (code, sentence) = match compile() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Fault::Module(sentence)) => (1, sentence),
        Err(Fault::Ours(sentence)) => (2, sentence),
    };
    // Nobody listens if this fails.
    drop(writeln!(io::stderr(), "{sentence}"));
    ExitCode::from(code)
}

/// Why there is no code.
enum Fault {
    Module(String),
    Ours(String),
}

fn compile() -> Result<(), Fault> {
    // The jail has no file that says how many there are.
    let threads = THREADS.min(std::thread::available_parallelism().map_or(1, usize::from));
    jail::enter().map_err(|error| ours("jail", &error))?;
    let mut wasm = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut wasm)
        .map_err(|error| ours("stdin", &error))?;
    let (format, (world, needs)) =
        check(&wasm, Preview::of_this_process()).map_err(Fault::Module)?;

    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| ours("threads", &error))?;
    let config = match world {
        World::Command => engine_config(needs),
        World::Server => server_config(needs),
    };
    let engine = Engine::new(&config).map_err(|error| ours("engine", &error))?;
    let code = pool
        .install(|| match format {
            Format::Module => engine.precompile_module(&wasm),
            Format::Component => engine.precompile_component(&wasm),
        })
        .map_err(|error| {
            // The module's fault is remembered, and want of the kernel's is not (decision 53).
            let wants = |cause: &(dyn std::error::Error + 'static)| {
                cause.is::<io::Error>() || cause.is::<wasmtime::error::OutOfMemory>()
            };
            if error.chain().any(wants) {
                return ours("compiling", &error);
            }
            Fault::Module(format!("cannot be compiled: {error:#}"))
        })?;
    io::stdout()
        .lock()
        .write_all(&code)
        .map_err(|error| ours("stdout", &error))
}

/// Says what kind of module it is, or what is wrong with it.
fn check(wasm: &[u8], preview: Preview) -> Result<(Format, (World, Needs)), String> {
    let Some(format) = detect(wasm) else {
        let head: Vec<_> = wasm
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        return Err(format!(
            "not WebAssembly: begins with {:?}, expected 00 61 73 6d",
            head.join(" ")
        ));
    };
    Ok((format, worlds::check(wasm, format, preview)?))
}

fn ours(what: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::Ours(format!("{what}: {error:#}"))
}
