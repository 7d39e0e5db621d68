//! Whom a request is for: the authority that its handler is told.
//!
//! HTTP/1.0 had no `Host`, and what still speaks it says none: health checks of load balancers, `ab`, `nc`. Such a
//! request is for the address that its client has connected to, as is one whose `Host` is empty (RFC 9112, 3.3).

use std::io;
use std::net::SocketAddr;

use http::header::HOST;
use http::uri::{Authority, InvalidUriParts, Scheme, Uri};
use http::{Request, Version};

/// Sees to it that a request has an authority, or says why it is answered 400.
///
/// `here` is the address that the client has connected to.
pub(super) fn name<B>(
    request: &mut Request<B>,
    here: impl FnOnce() -> io::Result<SocketAddr>,
) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("the request has more than one Host\n");
    }
    match host {
        Some(host) if !host.is_empty() => {
            return Authority::try_from(host.as_bytes())
                .map(drop)
                .map_err(|_| "the request's Host is not a name or address\n");
        }
        None if request.version() == Version::HTTP_11 => {
            return Err("the request has no Host\n");
        }
        Some(_) | None => {}
    }
    if request.uri().authority().is_some() {
        return Ok(());
    }
    if request.version() == Version::HTTP_2 {
        return Err("the request has no :authority\n");
    }
    let unknown = "the request has no Host, and its connection no address\n";
    let here = here().map_err(|_| unknown)?;
    *request.uri_mut() = at(here, request.uri()).map_err(|_| unknown)?;
    Ok(())
}

/// The same resource, at this address.
fn at(here: SocketAddr, uri: &Uri) -> Result<Uri, InvalidUriParts> {
    // Neither a scope nor a mapped IPv4 address is of use in an authority.
    let here = SocketAddr::new(here.ip().to_canonical(), here.port());
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(here.to_string()).ok();
    Uri::from_parts(parts)
}
