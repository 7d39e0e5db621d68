//! The http server of the tests. What it does is the request's path.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasi::sockets::instance_network;
use wasi::sockets::ip_name_lookup::resolve_addresses;

struct Server;

wasi::http::proxy::export!(Server);

static SERVED: AtomicU32 = AtomicU32::new(0);

impl wasi::exports::http::incoming_handler::Guest for Server {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (verb, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let text = match verb {
            "" => "hello\n".to_owned(),
            "count" => (SERVED.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
            "env" => std::env::var(rest).unwrap_or_default(),
            "file" => std::fs::read_to_string(format!("/{rest}")).unwrap_or_else(|error| error.to_string()),
            "authority" => format!("{:?} {:?}", request.scheme(), request.authority()),
            "say" => {
                println!("{rest}");
                String::new()
            }
            "sleep" => {
                println!("asleep");
                std::thread::sleep(Duration::from_millis(rest.parse().unwrap()));
                "awake".to_owned()
            }
            "wait" => {
                println!("asleep");
                while !std::fs::exists(format!("/{rest}")).unwrap() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                "awake".to_owned()
            }
            "complain" => {
                eprint!("{rest}");
                eprintln!(" indeed");
                eprint!("and without an end");
                String::new()
            }
            "spin" => loop {
                std::hint::black_box(&SERVED);
            },
            "ask" => ask(rest).unwrap_or_else(|error| format!("{error:?}")),
            "flood" => flood(rest).to_string(),
            "drip" => return drip(out, rest),
            "trap" => unreachable!("as told"),
            "deep" => deep(std::hint::black_box(0)).to_string(),
            "silence" => return drop(out),
            _ => "what?".to_owned(),
        };
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the first time");
        ResponseOutparam::set(out, Ok(response));
        if let Ok(stream) = body.write() {
            for part in text.as_bytes().chunks(4096) {
                let _ = stream.blocking_write_and_flush(part);
            }
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

/// Answers at once, and then says a word every 20 ms: as many as it is told, or without an end.
fn drip(out: ResponseOutparam, count: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the first time");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the first time");
    for _ in 0..count.parse().unwrap_or(u32::MAX) {
        if stream.blocking_write_and_flush(b"drip").is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Asks somebody else: `SCHEME/AUTHORITY/PATH`. The status of the answer, and its body.
fn ask(url: &str) -> Result<String, ErrorCode> {
    let (scheme, rest) = url.split_once('/').ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let bad = |()| ErrorCode::HttpRequestUriInvalid;
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).map_err(bad)?;
    request.set_authority(Some(authority)).map_err(bad)?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(bad)?;
    let pending = outgoing_handler::handle(request, None)?;
    pending.subscribe().block();
    let response = pending.get().expect("it is there").expect("the first time")?;
    let body = response.consume().expect("the first time");
    let stream = body.stream().expect("the first time");
    let mut text = format!("{} ", response.status()).into_bytes();
    while let Ok(bytes) = stream.blocking_read(64 << 10) {
        text.extend_from_slice(&bytes);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Looks up so many names at the same time; how many it could begin with.
fn flood(count: &str) -> usize {
    let network = instance_network::instance_network();
    let look = |number| resolve_addresses(&network, &format!("name-{number}.test")).ok();
    let all: Vec<_> = (0..count.parse().expect("a number")).map_while(|number: u32| look(number)).collect();
    all.len()
}

/// Without an end, and without a loop that a compiler could make of it: in the engine's stack alone.
#[inline(never)]
fn deep(n: u32) -> u32 {
    if n == u32::MAX {
        return 0;
    }
    deep(n.wrapping_add(2)).rotate_left(1) ^ n
}
