//! A server that keeps values with `wasi:keyvalue`. What it does is the request's path.

use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use self::bindings::wasi::keyvalue::{
    atomics, batch,
    store::{self, Bucket, Error},
};

mod bindings {
    wit_bindgen::generate!({
        path: "../../../../runner/wit",
        world: "wasi:keyvalue/imports",
        generate_all,
    });
}

struct Server;

wasi::http::proxy::export!(Server);

impl wasi::exports::http::incoming_handler::Guest for Server {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let text = match words.as_slice() {
            ["open", name] => store::open(name).map(|_| "opened".to_owned()),
            ["count"] => open().and_then(|bucket| atomics::increment(&bucket, "count", 1)).map(|sum| sum.to_string()),
            ["fill", key, size] => open()
                .and_then(|bucket| bucket.set(key, &vec![1; size.parse().unwrap()]))
                .map(|()| "kept".to_owned()),
            ["copies", key, count] => open().and_then(|bucket| copies(bucket, key, count.parse().unwrap())),
            ["every", "store"] => open().and_then(every_store),
            ["every", "atomics"] => open().and_then(every_atomics),
            ["every", "batch"] => open().and_then(every_batch),
            ["pages", count] => open().and_then(|bucket| pages(bucket, count.parse().unwrap())),
            _ => Ok("what?".to_owned()),
        };
        let text = text.unwrap_or_else(|error| format!("{error:?}"));
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the first time");
        ResponseOutparam::set(out, Ok(response));
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(text.as_bytes());
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

fn open() -> Result<Bucket, Error> {
    store::open("default")
}

/// Asks for one value so many times at once.
fn copies(bucket: Bucket, key: &str, count: usize) -> Result<String, Error> {
    let answer = batch::get_many(&bucket, &vec![key.to_owned(); count])?;
    Ok(format!("{} copies", answer.iter().flatten().count()))
}

/// Every function of `store`, with each answer.
fn every_store(bucket: Bucket) -> Result<String, Error> {
    let absent = (bucket.get("a")?, bucket.exists("a")?);
    bucket.set("a", b"one")?;
    bucket.set("a", b"two")?;
    bucket.set("b", b"")?;
    let present = (bucket.get("a")?, bucket.get("b")?, bucket.exists("b")?);
    // Another bucket of the same name is the same.
    let same = store::open("")?.get("a")?;
    let listed = bucket.list_keys(None)?;
    bucket.delete("a")?;
    bucket.delete("a")?;
    let left = bucket.list_keys(None)?.keys;
    bucket.delete("b")?;
    Ok(format!("{absent:?} {present:?} {same:?} {:?} {:?} {left:?}", listed.keys, listed.cursor))
}

/// Every function of `atomics`, with each answer.
fn every_atomics(bucket: Bucket) -> Result<String, Error> {
    let sums = (atomics::increment(&bucket, "n", 2)?, atomics::increment(&bucket, "n", 40)?);
    let kept = String::from_utf8(bucket.get("n")?.unwrap()).unwrap();
    let overflow = atomics::increment(&bucket, "n", u64::MAX);
    bucket.set("n", b"many")?;
    let no_number = atomics::increment(&bucket, "n", 1);
    bucket.delete("n")?;
    Ok(format!("{sums:?} {kept} {overflow:?} {no_number:?}"))
}

/// Every function of `batch`, with each answer.
fn every_batch(bucket: Bucket) -> Result<String, Error> {
    let keys = ["x", "y", "z"].map(str::to_owned);
    batch::set_many(&bucket, &[("x".into(), b"1".to_vec()), ("z".into(), b"3".to_vec())])?;
    let had = batch::get_many(&bucket, &keys)?;
    batch::delete_many(&bucket, &keys)?;
    let left = batch::get_many(&bucket, &keys)?;
    Ok(format!("{had:?} {left:?}"))
}

/// Lists many keys, deleting each page before it asks for the next.
fn pages(bucket: Bucket, count: u32) -> Result<String, Error> {
    for number in 0..count {
        bucket.set(&format!("{number:0100}"), b"")?;
    }
    let (mut pages, mut keys, mut cursor) = (0, 0, None);
    loop {
        let page = bucket.list_keys(cursor)?;
        pages += 1;
        keys += page.keys.len();
        batch::delete_many(&bucket, &page.keys)?;
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(format!("{pages} pages, {keys} keys"));
        }
    }
}
