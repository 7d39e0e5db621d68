//! The http server of the tests. What it does is the request's path.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

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
            "say" => {
                println!("{rest}");
                String::new()
            }
            "sleep" => {
                println!("asleep");
                std::thread::sleep(Duration::from_millis(rest.parse().unwrap()));
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
            "drip" => return drip(out, rest),
            "trap" => unreachable!("as told"),
            "silence" => return drop(out),
            _ => "what?".to_owned(),
        };
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the first time");
        ResponseOutparam::set(out, Ok(response));
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(text.as_bytes());
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
