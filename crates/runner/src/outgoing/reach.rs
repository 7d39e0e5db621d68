//! A connection to whom a name belongs, at that of its addresses that answers first.
//!
//! One of several may be of a pod that is gone, or of an IPv6 that leads nowhere: the kernel tries that for two minutes
//! before it says so. So the next address is tried after a moment beside it, as browsers and curl do
//! ([RFC 8305](https://www.rfc-editor.org/rfc/rfc8305), "happy eyeballs").

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;
use wasmtime_wasi_http::Error;

/// How long an address is waited for before the next is tried, too: 250 ms, as section 5 of the RFC has it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to `host`, a name or an address.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, Error> {
    let addresses = lookup_host((host, port)).await.map_err(of_lookup)?;
    first(alternating(addresses.collect()))
        .await
        .map_err(Error::Connect)
}

/// What no name server says has a number: no descriptor is left for asking one, say.
fn of_lookup(error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return Error::Connect(error);
    }
    Error::DnsError {
        rcode: Some(error.to_string()),
        info_code: None,
    }
}

/// The connection that comes about first. An address that fails gives way to the next at once.
async fn first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.into_iter().enumerate();
    let mut tried = JoinSet::new();
    // Of the address that there is most reason to use.
    let mut failure: Option<(usize, io::Error)> = None;
    loop {
        if let Some((rank, address)) = left.next() {
            tried.spawn(async move {
                let connected = TcpStream::connect(address).await;
                connected.map_err(|error| (rank, error))
            });
        }
        tokio::select! {
            biased;
            Some(ended) = tried.join_next() => {
                let broken = |error| Err((usize::MAX, io::Error::other(error)));
                match ended.unwrap_or_else(broken) {
                    // The others are given up with their set.
                    Ok(stream) => return Ok(stream),
                    Err(one) if failure.as_ref().is_none_or(|(rank, _)| one.0 < *rank) => {
                        failure = Some(one);
                    }
                    Err(_) => {}
                }
            }
            () = sleep(HEAD_START), if left.len() > 0 => {}
            else => {
                let none = || io::Error::from(io::ErrorKind::HostUnreachable);
                return Err(failure.map_or_else(none, |(_, error)| error));
            }
        }
    }
}

/// The addresses in the order that the resolver likes, but one of each family in turn (section 4).
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (like_the_first, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == is_v4);
    let mut others = others.into_iter();
    let mut all = Vec::new();
    for address in like_the_first {
        all.push(address);
        all.extend(others.next());
    }
    all.extend(others);
    all
}
