//! WASI preview 3, for those whose container asks for it: what it can call, and how it is called.
//!
//! Its world is the one of preview 2: the same files, sockets, streams and limits, named and awaited in
//! another way. What a component of preview 3 imports of 0.2 it gets as well.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::Linker;
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p3::bindings::{self, cli, clocks, filesystem, random, sockets};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};
use wasmtime_wasi_http::p3::Request as Asked;
use wasmtime_wasi_http::p3::bindings::http::{client, types};
use wasmtime_wasi_http::{Error, FieldMap, WasiBody, WasiHttp, WasiHttpView as _};

pub(crate) use wasmtime_wasi::p3::bindings::CommandPre;
pub(crate) use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

use crate::guest::Guest;

/// What a command of preview 3 exports.
pub(crate) const RUN: &str = "wasi:cli/run@0.3.";
/// What a server of preview 3 exports.
pub(crate) const HANDLER: &str = "wasi:http/handler@0.3.";

/// Links one interface of version 0.3.
pub(crate) fn link(l: &mut Linker<Guest>, interface: &str) -> wasmtime::Result<()> {
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
        "wasi:clocks/monotonic-clock" => {
            clocks::monotonic_clock::add_to_linker::<G, WasiClocks>(l, G::clocks)
        }
        "wasi:clocks/system-clock" => {
            clocks::system_clock::add_to_linker::<G, WasiClocks>(l, G::clocks)
        }
        "wasi:filesystem/preopens" => {
            filesystem::preopens::add_to_linker::<G, WasiFilesystem>(l, G::filesystem)
        }
        "wasi:filesystem/types" => {
            filesystem::types::add_to_linker::<G, WasiFilesystem>(l, G::filesystem)
        }
        "wasi:random/random" => random::random::add_to_linker::<G, WasiRandom>(l, G::random),
        "wasi:random/insecure" => random::insecure::add_to_linker::<G, WasiRandom>(l, G::random),
        "wasi:random/insecure-seed" => {
            random::insecure_seed::add_to_linker::<G, WasiRandom>(l, G::random)
        }
        "wasi:sockets/ip-name-lookup" => {
            sockets::ip_name_lookup::add_to_linker::<G, WasiSockets>(l, G::sockets)
        }
        "wasi:sockets/types" => sockets::types::add_to_linker::<G, WasiSockets>(l, G::sockets),
        "wasi:http/client" => client::add_to_linker::<G, WasiHttp>(l, G::http),
        "wasi:http/types" => types::add_to_linker::<G, WasiHttp>(l, G::http),
        // Types alone need nobody.
        _ => Ok(()),
    }
}

/// Runs a command until it has said how it ended; what it leaves running ends with it.
pub(crate) async fn run(
    command: &bindings::Command,
    store: &mut Store<Guest>,
) -> wasmtime::Result<Result<(), ()>> {
    store
        .run_concurrent(async |guest| command.wasi_cli_run().call_run(guest).await)
        .await?
}

/// The body of an answer that has not come to its end. It may be a stream of ours, a file's for example: no task of the
/// guest's moves that, but the loop that ran its task.
struct Open {
    body: WasiBody,
    /// Dropped at the end.
    open: Option<oneshot::Sender<Infallible>>,
}

// === impl Open ===

impl Body for Open {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let None | Some(Err(_)) = frame {
            self.open = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Has a service answer a request to `tell`, and waits until all that it has begun is done: it may still be
/// writing its answer, or have left that to us.
pub(crate) async fn answer(
    service: &Service,
    store: &mut Store<Guest>,
    request: Request<Incoming>,
    tell: impl FnOnce(Result<Response<WasiBody>, String>) + Send,
) -> wasmtime::Result<()> {
    let (head, body) = request.into_parts();
    let host = head.headers.get(HOST);
    let named = || Authority::try_from(host?.as_bytes()).ok();
    let authority = head.uri.authority().cloned().or_else(named);
    let (asked, read) = Asked::new(
        head.method,
        Some(Scheme::HTTP),
        authority,
        head.uri.path_and_query().cloned(),
        FieldMap::new_immutable(store.data_mut().http().hooks, head.headers),
        None,
        body,
    );
    store
        .run_concurrent(async |guest| {
            let (open, ended) = oneshot::channel();
            match service.handle(guest, asked).await? {
                Ok(response) => {
                    let response = guest.with(|store| response.into_http(store, read))?;
                    let open = Some(open);
                    tell(Ok(response.map(|body| Open { body, open }.boxed_unsync())));
                }
                Err(code) => {
                    drop(open);
                    tell(Err(format!("{code:?}")));
                }
            }
            poll_fn(|context| guest.poll_no_interesting_tasks(context)).await;
            // Nothing is ever sent.
            ended.await.ok();
            Ok(())
        })
        .await?
}
