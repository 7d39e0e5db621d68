//! Does anything provide what a module asks for?
//!
//! Linking happens much later, in a running container; a module that can never link is refused
//! when its container is created, with the import's name and world.

use duet_wasm::{Format, HEAD, Needs, Preview};
use wasmparser::{Chunk, Parser, Payload, Validator, WasmFeatures};

/// The functions of WASI preview 1.
const PREVIEW1: &str = "args_get args_sizes_get clock_res_get clock_time_get environ_get \
    environ_sizes_get fd_advise fd_allocate fd_close fd_datasync fd_fdstat_get fd_fdstat_set_flags \
    fd_fdstat_set_rights fd_filestat_get fd_filestat_set_size fd_filestat_set_times fd_pread \
    fd_prestat_dir_name fd_prestat_get fd_pwrite fd_read fd_readdir fd_renumber fd_seek fd_sync \
    fd_tell fd_write path_create_directory path_filestat_get path_filestat_set_times path_link \
    path_open path_readlink path_remove_directory path_rename path_symlink path_unlink_file \
    poll_oneoff proc_exit proc_raise random_get sched_yield sock_accept sock_recv sock_send \
    sock_shutdown";

/// The interfaces of preview 2 that are provided, in version 0.2: each package with its own.
const PREVIEW2: [(&str, &str); 7] = [
    (
        "wasi:cli/",
        "environment exit stdin stdout stderr terminal-input terminal-output terminal-stdin \
            terminal-stdout terminal-stderr",
    ),
    ("wasi:clocks/", "monotonic-clock wall-clock"),
    ("wasi:filesystem/", "preopens types"),
    ("wasi:http/", "types outgoing-handler"),
    ("wasi:io/", "error poll streams"),
    ("wasi:random/", "insecure insecure-seed random"),
    (
        "wasi:sockets/",
        "instance-network ip-name-lookup network tcp tcp-create-socket udp udp-create-socket",
    ),
];

/// The interfaces of preview 3 that are provided to who may have them, in version 0.3. Those of their names that
/// are types alone (`wasi:cli/types`, `wasi:clocks/types`) need nobody.
const PREVIEW3: [(&str, &str); 6] = [
    (
        "wasi:cli/",
        "environment exit stdin stdout stderr terminal-input terminal-output terminal-stdin \
            terminal-stdout terminal-stderr types",
    ),
    ("wasi:clocks/", "monotonic-clock system-clock types"),
    ("wasi:filesystem/", "preopens types"),
    ("wasi:http/", "client types"),
    ("wasi:random/", "insecure insecure-seed random"),
    ("wasi:sockets/", "ip-name-lookup types"),
];

/// What has to be said to whoever asks for preview 3 and may not have it.
const ASK: &str = "which the annotation io.containerd.duet.v1.preview3: \"true\" provides";

/// The drafts that are provided, each in the one version it was written down in.
const DRAFTS: [&str; 4] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft",
];

/// How many functions are compiled, of all modules in a component together: 400,000.
///
/// So many that do nothing fill [the memory](duet_wasm::MEMORY) that a compilation may have: each takes 5.2 KiB of it
/// (wasmtime 48). More can only fail, and would take 20 s of two processors for it. Programs have tens of thousands.
const FUNCTIONS: u64 = 400_000;

/// A proposal that compilers produce code for and that is not supported.
struct Proposal {
    features: WasmFeatures,
    name: &'static str,
    remedy: &'static str,
}

/// Each of them, with what to do.
const UNSUPPORTED: [Proposal; 3] = [
    Proposal {
        features: WasmFeatures::LEGACY_EXCEPTIONS,
        name: "the legacy form of exceptions (try, catch)",
        remedy: "compile it for that of WebAssembly 3.0 (clang: -mllvm -wasm-use-legacy-eh=false)",
    },
    Proposal {
        features: WasmFeatures::THREADS,
        name: "the threads proposal",
        remedy: "compile it without shared memory and atomics (clang: no -pthread; the target \
                 wasm32-wasip1, not wasm32-wasip1-threads)",
    },
    Proposal {
        features: WasmFeatures::GC,
        name: "the types of the garbage collection proposal",
        remedy: "compile it for a target whose objects are in linear memory",
    },
];

/// What a module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    /// Running once.
    Command,
    /// Answering http requests.
    Server,
}

/// Validates `wasm`, checks what it imports and exports, and says what its code needs of an engine.
pub(crate) fn check(
    wasm: &[u8],
    format: Format,
    preview: Preview,
) -> Result<(World, Needs), String> {
    let asked = features_of(wasm)?;
    let names = names(wasm).map_err(|error| format!("unreadable: {error}"))?;
    if names.functions > FUNCTIONS {
        return Err(format!(
            "{} functions; modules of at most {FUNCTIONS} are compiled",
            names.functions
        ));
    }
    let world = match format {
        Format::Module => check_module(&names).map(|()| World::Command),
        Format::Component => check_component(&names, preview),
    }?;
    if asked.contains(WasmFeatures::CM_ASYNC) && preview == Preview::Two {
        return Err(format!(
            "has asynchronous functions, streams or futures: this is preview 3, {ASK}"
        ));
    }
    let exceptions = asked.contains(WasmFeatures::EXCEPTIONS);
    Ok((
        world,
        Needs {
            preview,
            exceptions,
        },
    ))
}

/// The least features with which `wasm` is valid. What is wrong with it is told as if it had all that there are.
fn features_of(wasm: &[u8]) -> Result<WasmFeatures, String> {
    if validate(wasm, features()).is_ok() {
        return Ok(features());
    }
    let (concurrent, throwing) = (WasmFeatures::CM_ASYNC, WasmFeatures::EXCEPTIONS);
    let all = features() | concurrent | throwing;
    if validate(wasm, all).is_err() {
        return Err(refusal(wasm, all));
    }
    let fewer = [concurrent, throwing].map(|one| all - one);
    let enough = |features: &WasmFeatures| validate(wasm, *features).is_ok();
    Ok(fewer.into_iter().find(enough).unwrap_or(all))
}

/// Why `wasm` is not valid with these `features`: proposals that are not supported are named, if it is valid with them.
fn refusal(wasm: &[u8], features: WasmFeatures) -> String {
    let all = UNSUPPORTED
        .iter()
        .fold(features, |all, proposal| all | proposal.features);
    if let Err(why) = validate(wasm, all) {
        return why;
    }
    let used: Vec<_> = UNSUPPORTED
        .iter()
        .filter(|proposal| validate(wasm, all - proposal.features).is_err())
        .map(|Proposal { name, remedy, .. }| {
            format!("uses {name}, which Duet does not support: {remedy}")
        })
        .collect();
    used.join("; ")
}

fn validate(wasm: &[u8], features: WasmFeatures) -> Result<(), String> {
    match Validator::new_with_features(features).validate_all(wasm) {
        Ok(_) => Ok(()),
        Err(_) if is_cut_off(wasm) => Err(format!("cut off after {} bytes", wasm.len())),
        Err(error) => Err(format!(
            "invalid at byte {:#x}: {}",
            error.offset(),
            error.message()
        )),
    }
}

/// Do the sections of `wasm` promise more bytes than there are?
fn is_cut_off(wasm: &[u8]) -> bool {
    let mut parser = Parser::new(0);
    let mut rest = wasm;
    loop {
        match parser.parse(rest, false) {
            Ok(Chunk::NeedMoreData(_)) => return !rest.is_empty() || wasm.len() < HEAD,
            Ok(Chunk::Parsed { consumed, payload }) => {
                rest = rest.get(consumed..).unwrap_or_default();
                if let Payload::ModuleSection {
                    unchecked_range: range,
                    ..
                }
                | Payload::ComponentSection {
                    unchecked_range: range,
                    ..
                } = payload
                {
                    // What is in it does not matter here: on to the next section.
                    let Some(next) = wasm.get(range.end..) else {
                        return true;
                    };
                    rest = next;
                }
            }
            Err(_) => return false,
        }
    }
}

/// What wasmtime enables in a build and a configuration like ours, for preview 2, of modules that never throw.
fn features() -> WasmFeatures {
    let all = UNSUPPORTED
        .iter()
        .fold(WasmFeatures::all(), |all, it| all - it.features);
    all - WasmFeatures::CM_ASYNC
        - WasmFeatures::CM_ASYNC_STACKFUL
        - WasmFeatures::CM_ERROR_CONTEXT
        - WasmFeatures::CM_MORE_ASYNC_BUILTINS
        - WasmFeatures::CM_THREADING
        - WasmFeatures::EXCEPTIONS
}

/// The outermost imports and exports, and how many functions there are in all.
#[derive(Default)]
struct Names {
    functions: u64,
    imports: Vec<(String, String)>,
    exports: Vec<String>,
}

// === impl Names ===

impl Names {
    fn note(&mut self, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        if let Payload::ImportSection(section) = payload {
            for import in section.into_imports() {
                let import = import?;
                self.imports
                    .push((import.module.to_owned(), import.name.to_owned()));
            }
        } else if let Payload::ExportSection(section) = payload {
            for export in section {
                self.exports.push(export?.name.to_owned());
            }
        } else if let Payload::ComponentImportSection(section) = payload {
            for import in section {
                self.imports
                    .push((import?.name.name.to_owned(), String::new()));
            }
        } else if let Payload::ComponentExportSection(section) = payload {
            for export in section {
                self.exports.push(export?.name.name.to_owned());
            }
        }
        Ok(())
    }
}

fn names(wasm: &[u8]) -> Result<Names, wasmparser::BinaryReaderError> {
    let mut names = Names::default();
    // Modules and components inside a component are its own affair.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if let Payload::Version { .. } = payload {
            depth += 1;
        } else if let Payload::End(_) = payload {
            depth = depth.saturating_sub(1);
        } else if let Payload::FunctionSection(section) = &payload {
            names.functions += u64::from(section.count());
        } else if depth == 1 {
            names.note(payload)?;
        }
    }
    Ok(names)
}

fn check_module(names: &Names) -> Result<(), String> {
    for (module, name) in &names.imports {
        let known = match module.as_str() {
            "wasi_snapshot_preview1" => true,
            // Of the same functions all but one.
            "wasi_unstable" => name != "sock_accept",
            _ => false,
        } && PREVIEW1.split_ascii_whitespace().any(|known| known == name);
        if !known {
            return Err(format!(
                "imports {name:?} from {module:?}, which nothing provides: a module gets \
                 WASI preview 1, \"wasi_snapshot_preview1\"{}",
                module_hint(module, name)
            ));
        }
    }
    let imports_of = |world: &str| names.imports.iter().any(|(module, _)| module == world);
    if imports_of("wasi_unstable") && imports_of("wasi_snapshot_preview1") {
        return Err(
            "imports from \"wasi_unstable\" and from \"wasi_snapshot_preview1\", whose descriptors \
             are not the same: a module gets one of them"
                .to_owned(),
        );
    }
    if names.exports.iter().any(|name| name == "_start") {
        return Ok(());
    }
    Err("exports no \"_start\": a library or a reactor, not a command".to_owned())
}

fn check_component(names: &Names, preview: Preview) -> Result<World, String> {
    for (name, _) in &names.imports {
        if is_provided(name) || preview == Preview::Three && is_of_preview3(name, &PREVIEW3) {
            continue;
        }
        if is_of_preview3(name, &PREVIEW3) {
            return Err(format!("imports {name:?}: this is preview 3, {ASK}"));
        }
        let third = match preview {
            Preview::Two => "",
            Preview::Three => {
                ", preview 3 (cli, clocks, filesystem, http, random, sockets, all 0.3)"
            }
        };
        return Err(format!(
            "imports {name:?}, which nothing provides: a component gets WASI preview 2 \
             (cli, clocks, filesystem, http, io, random, sockets, all 0.2){third} and {}{}",
            DRAFTS.join(", "),
            hint(name)
        ));
    }
    let third = |package, own| {
        let is_it = |name: &&String| is_of_preview3(name, &[(package, own)]);
        names.exports.iter().find(is_it)
    };
    let (handler, run) = (third("wasi:http/", "handler"), third("wasi:cli/", "run"));
    let exports = |prefix| names.exports.iter().any(|name| name.starts_with(prefix));
    let allowed = preview == Preview::Three;
    // The runner takes what is both for a server, too.
    if exports("wasi:http/incoming-handler@0.2.") || allowed && handler.is_some() {
        return Ok(World::Server);
    }
    if exports("wasi:cli/run@0.2.") || allowed && run.is_some() {
        return Ok(World::Command);
    }
    if let Some(name) = handler.or(run) {
        return Err(format!("exports {name:?}: this is preview 3, {ASK}"));
    }
    let hint = names.exports.iter().find_map(|name| third_hint(name));
    let wanted = match preview {
        Preview::Two => "neither \"wasi:cli/run@0.2\" nor \"wasi:http/incoming-handler@0.2\"",
        Preview::Three => {
            "none of \"wasi:cli/run@0.2\", \"wasi:cli/run@0.3\", \"wasi:http/incoming-handler@0.2\" \
             and \"wasi:http/handler@0.3\""
        }
    };
    Err(format!(
        "exports {wanted}, only {:?}{}",
        names.exports,
        hint.unwrap_or_default()
    ))
}

fn is_provided(name: &str) -> bool {
    let is_of_preview2 = || {
        let (interface, version) = name.split_once('@')?;
        Some(version.starts_with("0.2.") && is_among(interface, &PREVIEW2))
    };
    DRAFTS.contains(&name) || is_of_preview2().unwrap_or_default()
}

/// The versions of 0.3 are compatible with each other, and the candidates for it with nothing.
fn is_of_preview3(name: &str, interfaces: &[(&str, &str)]) -> bool {
    let Some((interface, version)) = name.split_once('@') else {
        return false;
    };
    version.starts_with("0.3.") && !version.contains('-') && is_among(interface, interfaces)
}

fn is_among(interface: &str, packages: &[(&str, &str)]) -> bool {
    packages.iter().any(|(package, interfaces)| {
        interface
            .strip_prefix(package)
            .is_some_and(|own| interfaces.split_ascii_whitespace().any(|it| it == own))
    })
}

/// What there is to say of an interface of preview 3 that nobody has.
fn third_hint(name: &str) -> Option<&'static str> {
    let (_, version) = name.split_once("@0.3")?;
    Some(if version.contains('-') {
        "; this is a candidate for preview 3, which became 0.3.0"
    } else {
        "; of 0.3 that is not provided here"
    })
}

/// What a module's import is known for elsewhere.
fn module_hint(module: &str, name: &str) -> &'static str {
    match module {
        // Of preview 0 all but one are known.
        "wasi_unstable" => "; this is preview 0, of compilers from before 2020",
        "wasi_snapshot_preview1" if name.starts_with("sock_") => {
            "; this is WasmEdge's: preview 1 itself has no way to open a socket, only those that \
             io.containerd.duet.v1.listen opens"
        }
        "wasi" => "; this is wasi-threads",
        "wasi_ephemeral_nn" => "; this is wasi-nn as modules have it",
        "wasix_32v1" | "wasix_64v1" => "; this is WASIX, which is Wasmer's",
        "env" => "; it was compiled for a host of its own, such as emscripten",
        _ if module.starts_with("wasi_ephemeral_crypto") => "; this is wasi-crypto",
        _ => "",
    }
}

/// What components' imports are known for elsewhere, by how they begin; the first that fits.
const KNOWN: [(&str, &str); 11] = [
    ("wasi:nn/", "; this is world wasi:nn/ml"),
    ("wasi:tls/", "; this is world wasi:tls/imports"),
    (
        "wasi:keyvalue/watcher",
        "; this is world wasi:keyvalue/watch-service",
    ),
    (
        "wasi:keyvalue/",
        "; this is another draft of world wasi:keyvalue/imports",
    ),
    ("wasi:logging/", "; this is world wasi:logging/imports"),
    ("wasi:blobstore/", "; this is world wasi:blobstore/imports"),
    ("wasi:messaging/", "; this is world wasi:messaging/imports"),
    (
        "wasi:config/",
        "; this is another draft of world wasi:config/imports",
    ),
    (
        "wasi:clocks/timezone@0.2.",
        "; it is unstable in 0.2: no part of world wasi:clocks/imports unless asked for",
    ),
    ("wasi:cli/run@0.2.", EXPORT),
    ("wasi:http/incoming-handler@0.2.", EXPORT),
];
const EXPORT: &str = "; this is for components to export, and there is no other that does";

/// What a component's import is known for elsewhere.
fn hint(name: &str) -> &'static str {
    if let Some(hint) = third_hint(name) {
        return hint;
    }
    if let Some((_, hint)) = KNOWN.iter().find(|(begin, _)| name.starts_with(begin)) {
        return hint;
    }
    let (interface, _) = name.split_once('@').unwrap_or((name, ""));
    if is_among(interface, &PREVIEW2) {
        "; of another version than 0.2"
    } else if PREVIEW2
        .iter()
        .any(|(package, _)| name.starts_with(package))
    {
        "; that package has it in no version 0.2"
    } else if name.starts_with("wasi:") {
        "; a proposal or another version of WASI"
    } else {
        ""
    }
}
