//! An ambassador: lets nobody past to the server next door who does not know the token.
//!
//! | Variable | What for |
//! | --- | --- |
//! | `TOKEN` | what `Authorization: Bearer` has to say; without it nobody gets past |
//! | `UPSTREAM` | the port of the server on 127.0.0.1: 8081 unless it says otherwise |
//!
//! 401 without the token, 502 if the server does not answer; otherwise the server's own answer, with
//! `x-duet-ambassador` added.

use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest,
    OutgoingResponse, ResponseOutparam, Scheme,
};

struct Ambassador;

wasi::http::proxy::export!(Ambassador);

impl wasi::exports::http::incoming_handler::Guest for Ambassador {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let expected = std::env::var("TOKEN").unwrap_or_default();
        if !admitted(&request.headers(), &expected) {
            let headers = Fields::new();
            let challenge = b"Bearer realm=\"duet\"".to_vec();
            headers.append("www-authenticate", &challenge).expect("a valid header");
            return answer(out, 401, headers, b"who are you?\n");
        }
        match forward(request) {
            Ok(response) => relay(out, &response),
            Err(error) => {
                eprintln!("ambassador: the server did not answer: {error:?}");
                answer(out, 502, Fields::new(), b"the server did not answer\n");
            }
        }
    }
}

/// Does the caller know the token? An empty one admits nobody.
fn admitted(headers: &Fields, expected: &str) -> bool {
    let given = headers.get("authorization");
    let token = match given.as_slice() {
        [one] => one.strip_prefix(b"Bearer ").unwrap_or_default(),
        _ => &[],
    };
    // As long for a wrong first letter as for a wrong last one.
    let differing = token.iter().zip(expected.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    !expected.is_empty() && token.len() == expected.len() && differing == 0
}

/// Sends the request on, body and all, and waits for the answer.
fn forward(request: IncomingRequest) -> Result<IncomingResponse, ErrorCode> {
    let port = std::env::var("UPSTREAM").unwrap_or_else(|_| "8081".into());
    let headers = Fields::new();
    for (name, value) in request.headers().entries() {
        // The token is between the caller and us; the rest belongs to the connection, which is a new one.
        let ours = ["authorization", "host", "connection", "transfer-encoding", "keep-alive", "upgrade"];
        if !ours.contains(&name.as_str()) {
            headers.append(&name, &value).map_err(|_| ErrorCode::HttpProtocolError)?;
        }
    }
    let onward = OutgoingRequest::new(headers);
    let bad = |()| ErrorCode::HttpRequestUriInvalid;
    onward.set_method(&request.method()).map_err(bad)?;
    onward.set_scheme(Some(&Scheme::Http)).map_err(bad)?;
    onward.set_authority(Some(&format!("127.0.0.1:{port}"))).map_err(bad)?;
    onward.set_path_with_query(request.path_with_query().as_deref()).map_err(bad)?;

    let body = onward.body().map_err(bad)?;
    let pending = outgoing_handler::handle(onward, None)?;
    let incoming = request.consume().map_err(bad)?;
    {
        let (from, to) = (incoming.stream().map_err(bad)?, body.write().map_err(bad)?);
        // Ends with an error when the caller's body does, which is the only end a stream has.
        while to.blocking_splice(&from, 64 << 10).is_ok() {}
    }
    // A server may answer and hang up before it has read everything; its answer is what counts.
    let _ = OutgoingBody::finish(body, None);
    pending.subscribe().block();
    match pending.get() {
        Some(Ok(response)) => response,
        _ => Err(ErrorCode::InternalError(None)),
    }
}

/// Gives the server's answer to the caller.
fn relay(out: ResponseOutparam, response: &IncomingResponse) {
    let headers = Fields::new();
    for (name, value) in response.headers().entries() {
        if !["connection", "transfer-encoding", "keep-alive"].contains(&name.as_str()) {
            // What we may not set is not ours to pass on.
            let _ = headers.append(&name, &value);
        }
    }
    headers.append("x-duet-ambassador", &b"wasm".to_vec()).expect("a valid header");
    let onward = OutgoingResponse::new(headers);
    onward.set_status_code(response.status()).expect("a status that came from a server");
    let body = onward.body().expect("the first time");
    ResponseOutparam::set(out, Ok(onward));
    if let Ok(incoming) = response.consume() {
        if let (Ok(from), Ok(to)) = (incoming.stream(), body.write()) {
            while to.blocking_splice(&from, 64 << 10).is_ok() {}
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

/// An answer of our own.
fn answer(out: ResponseOutparam, status: u16, headers: Fields, text: &[u8]) {
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the first time");
    ResponseOutparam::set(out, Ok(response));
    if let Ok(stream) = body.write() {
        let _ = stream.blocking_write_and_flush(text);
    }
    let _ = OutgoingBody::finish(body, None);
}
