//! What a component may import, and only what it does import.
//!
//! Linking all of preview 2 takes longer, and more memory, than anything else in the life of a small
//! command: so each interface is linked if the component names it.

use std::collections::BTreeSet;

use wasmtime::component::{Component, HasData, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::{self, cli, clocks, filesystem, io, random, sockets};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};
use wasmtime_wasi_http::p2::bindings::{LinkOptions, http};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _};

use crate::config;
use crate::end::End;
use crate::guest::Guest;
use crate::keyvalue;
use crate::outgoing::codes;
use crate::preview3;

/// A linker with everything `component` imports, as far as there is such a thing.
///
/// An import that is missing here is named when the component is instantiated; the compiler has
/// refused it long before.
pub(crate) fn linker(component: &Component) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(component.engine());
    let mut linked = BTreeSet::new();
    for (name, _) in component.component_type().imports(component.engine()) {
        // The versions of 0.2 are compatible with each other, and so are those of 0.3; wasmtime looks them
        // up that way.
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let is_of_3 = version.starts_with("0.3.");
        if !linked.insert((interface, is_of_3)) {
            // Composed of parts that were built at different times.
            continue;
        }
        if is_of_3 {
            preview3::link(&mut linker, interface)?;
        } else {
            link(&mut linker, interface)?;
        }
    }
    Ok(linker)
}

/// Why a component cannot be linked. The compiler knows interfaces; what they have, only a linker does.
pub(crate) fn unlinked(error: &wasmtime::Error) -> End {
    let words = format!("{error:#}");
    let quoted = |after: &str| {
        let (_, rest) = words.split_once(after)?;
        rest.split_once('`').map(|(name, _)| name)
    };
    let missing = quoted("imports instance `").zip(quoted("instance export `"));
    End::Unstarted(match missing {
        Some((interface, name)) if words.ends_with("implementation is missing") => {
            let package = interface.split('/').next().unwrap_or(interface);
            format!(
                "imports {name:?} from {interface:?}, which nothing provides: it is not in world {package}/imports"
            )
        }
        Some(_) | None => words,
    })
}

/// Does `component` import something that begins like this?
pub(crate) fn imports(component: &Component, prefix: &str) -> bool {
    component
        .component_type()
        .imports(component.engine())
        .any(|(name, _)| name.starts_with(prefix))
}

/// Does `component` export something that begins like this?
pub(crate) fn exports(component: &Component, prefix: &str) -> bool {
    component
        .component_type()
        .exports(component.engine())
        .any(|(name, _)| name.starts_with(prefix))
}

fn link(l: &mut Linker<Guest>, interface: &str) -> wasmtime::Result<()> {
    type G = Guest;
    match interface {
        "wasi:cli/environment" => cli::environment::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/exit" => cli::exit::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/stdin" => cli::stdin::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/stdout" => cli::stdout::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/stderr" => cli::stderr::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/terminal-input" => cli::terminal_input::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/terminal-output" => cli::terminal_output::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/terminal-stdin" => cli::terminal_stdin::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/terminal-stdout" => cli::terminal_stdout::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:cli/terminal-stderr" => cli::terminal_stderr::add_to_linker::<G, WasiCli>(l, G::cli),
        "wasi:clocks/wall-clock" => {
            clocks::wall_clock::add_to_linker::<G, WasiClocks>(l, G::clocks)
        }
        "wasi:clocks/monotonic-clock" => {
            clocks::monotonic_clock::add_to_linker::<G, WasiClocks>(l, G::clocks)
        }
        "wasi:filesystem/preopens" => {
            filesystem::preopens::add_to_linker::<G, WasiFilesystem>(l, G::filesystem)
        }
        "wasi:filesystem/types" => {
            filesystem::types::add_to_linker::<G, WasiFilesystem>(l, G::filesystem)
        }
        "wasi:io/error" => io::error::add_to_linker::<G, Io>(l, G::table),
        "wasi:io/poll" => io::poll::add_to_linker::<G, Io>(l, G::table),
        "wasi:io/streams" => io::streams::add_to_linker::<G, Io>(l, G::table),
        "wasi:random/random" => random::random::add_to_linker::<G, WasiRandom>(l, G::random),
        "wasi:random/insecure" => random::insecure::add_to_linker::<G, WasiRandom>(l, G::random),
        "wasi:random/insecure-seed" => {
            random::insecure_seed::add_to_linker::<G, WasiRandom>(l, G::random)
        }
        "wasi:sockets/network" => {
            let options = bindings::sockets::network::LinkOptions::default();
            sockets::network::add_to_linker::<G, WasiSockets>(l, &options, G::sockets)
        }
        "wasi:sockets/instance-network" => {
            sockets::instance_network::add_to_linker::<G, WasiSockets>(l, G::sockets)
        }
        "wasi:sockets/ip-name-lookup" => {
            sockets::ip_name_lookup::add_to_linker::<G, WasiSockets>(l, G::sockets)
        }
        "wasi:sockets/tcp" => sockets::tcp::add_to_linker::<G, WasiSockets>(l, G::sockets),
        "wasi:sockets/tcp-create-socket" => {
            sockets::tcp_create_socket::add_to_linker::<G, WasiSockets>(l, G::sockets)
        }
        "wasi:sockets/udp" => sockets::udp::add_to_linker::<G, WasiSockets>(l, G::sockets),
        "wasi:sockets/udp-create-socket" => {
            sockets::udp_create_socket::add_to_linker::<G, WasiSockets>(l, G::sockets)
        }
        "wasi:config/store" => wasmtime_wasi_config::add_to_linker(l, config::view),
        "wasi:keyvalue/store" | "wasi:keyvalue/atomics" | "wasi:keyvalue/batch" => {
            keyvalue::link(l, interface)
        }
        "wasi:http/types" => {
            let options = LinkOptions::default();
            http::types::add_to_linker::<G, WasiHttp>(l, &(&options).into(), G::http)?;
            codes::link(l)
        }
        "wasi:http/outgoing-handler" => {
            http::outgoing_handler::add_to_linker::<G, WasiHttp>(l, G::http)
        }
        _ => Ok(()),
    }
}

/// The table of resources, for the interfaces that need nothing else.
struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}
