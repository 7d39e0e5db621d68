//! The http server of the tests, for preview 3. What it does is the request's path.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::StreamWriter;
use wasip3::{spawn, wit_future, wit_stream};

struct Server;

wasip3::http::service::export!(Server);

static SERVED: AtomicU32 = AtomicU32::new(0);

impl wasip3::exports::http::handler::Guest for Server {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let (verb, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let text = match verb {
            "" => "hello\n".to_owned(),
            "count" => (SERVED.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
            "env" => std::env::var(rest).unwrap_or_default(),
            "file" => std::fs::read_to_string(format!("/{rest}")).unwrap_or_else(|error| error.to_string()),
            "authority" => format!("{:?} {:?}", request.get_scheme(), request.get_authority()),
            "say" => {
                println!("{rest}");
                String::new()
            }
            "sleep" => {
                println!("asleep");
                wait(rest.parse().unwrap()).await;
                "awake".to_owned()
            }
            "spin" => loop {
                std::hint::black_box(&SERVED);
            },
            "echo" => {
                let (_, done) = wit_future::new(|| Ok(()));
                let (body, _) = Request::consume_body(request, done);
                String::from_utf8(body.collect().await).unwrap()
            }
            // A file, which is read while it is sent, and not by us.
            "stream" => {
                let (root, _) = wasip3::filesystem::preopens::get_directories().into_iter().next().unwrap();
                let file = root
                    .open_at(PathFlags::empty(), rest.to_owned(), OpenFlags::empty(), DescriptorFlags::READ)
                    .await
                    .unwrap();
                let (bytes, _) = file.read_via_stream(0);
                let (_, trailers) = wit_future::new(|| Ok(None));
                return Ok(Response::new(Fields::new(), Some(bytes), trailers).0);
            }
            // Answers at once, and then says a word every 20 ms: as many as it is told, or without an end.
            "drip" => {
                let count = rest.parse().unwrap_or(u32::MAX);
                return Ok(answer(async move |mut body| {
                    for _ in 0..count {
                        if !body.write_all(b"drip".to_vec()).await.is_empty() {
                            return;
                        }
                        wait(20).await;
                    }
                }));
            }
            // What it does when its answer is there and complete.
            "after" => {
                let rest = rest.to_owned();
                spawn(async move {
                    wait(50).await;
                    println!("{rest}");
                });
                String::new()
            }
            "trap" => unreachable!("as told"),
            "deep" => deep(std::hint::black_box(0)).to_string(),
            "error" => return Err(ErrorCode::InternalError(Some("as told".to_owned()))),
            _ => "what?".to_owned(),
        };
        Ok(answer(async move |mut body| {
            body.write_all(text.into_bytes()).await;
        }))
    }
}

/// An answer whose body is written while it is sent.
fn answer<W>(write: impl FnOnce(StreamWriter<u8>) -> W) -> Response
where
    W: Future<Output = ()> + 'static,
{
    let (writer, body) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    spawn(write(writer));
    Response::new(Fields::new(), Some(body), trailers).0
}

async fn wait(milliseconds: u64) {
    monotonic_clock::wait_for(milliseconds * 1_000_000).await;
}

/// Without an end, and without a loop that a compiler could make of it: in the engine's stack alone.
#[inline(never)]
fn deep(n: u32) -> u32 {
    if n == u32::MAX {
        return 0;
    }
    deep(n.wrapping_add(2)).rotate_left(1) ^ n
}
