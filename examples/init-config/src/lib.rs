//! Serves one file: the one that a native init container prepared on a shared volume.
//!
//! `FILE` names it, `/config/page.html` unless it says otherwise. It is read for each request; 503 while
//! it is not there.

use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Server;

wasi::http::proxy::export!(Server);

impl wasi::exports::http::incoming_handler::Guest for Server {
    fn handle(_: IncomingRequest, out: ResponseOutparam) {
        let file = std::env::var("FILE").unwrap_or_else(|_| "/config/page.html".into());
        let (status, content) = match std::fs::read(&file) {
            Ok(content) => (200, content),
            Err(error) => {
                eprintln!("init-config: {file}: {error}");
                (503, b"not configured yet\n".to_vec())
            }
        };
        let kind = if file.ends_with(".html") { "text/html" } else { "text/plain" };
        let headers = Fields::new();
        headers.append("content-type", &kind.as_bytes().to_vec()).expect("a valid header");
        let response = OutgoingResponse::new(headers);
        response.set_status_code(status).expect("a valid status");
        let body = response.body().expect("the first time");
        ResponseOutparam::set(out, Ok(response));
        if let Ok(stream) = body.write() {
            // The most that one call takes.
            for chunk in content.chunks(4096) {
                if stream.blocking_write_and_flush(chunk).is_err() {
                    break;
                }
            }
        }
        let _ = OutgoingBody::finish(body, None);
    }
}
