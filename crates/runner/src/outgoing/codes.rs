//! Why a body broke off, for guests of preview 2 that ask.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::io::error::Error as IoError;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, TlsAlertReceivedPayload};
use wasmtime_wasi_http::{Error, WasiHttpHooks as _};

use super::Outgoing;
use crate::guest::Guest;

/// Answers `http-error-code` in wasmtime's place.
///
/// wasmtime 48 keeps the error of a body as `Error`, which is for both previews, and looks for preview 2's own: who
/// asks is told that it is none of HTTP's. The name of the interface is the one that wasmtime links it by.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let linked = linker
        .instance("wasi:http/types@0.2.12")?
        .func_wrap("http-error-code", told);
    linker.allow_shadowing(false);
    linked
}

fn told(
    mut store: StoreContextMut<'_, Guest>,
    (error,): (Resource<IoError>,),
) -> wasmtime::Result<(Option<ErrorCode>,)> {
    let error = store.data_mut().table().get(&error)?;
    Ok((code(error),))
}

/// What HTTP calls `error`, if it is of HTTP.
fn code(error: &IoError) -> Option<ErrorCode> {
    if let Some(code) = error.downcast_ref::<ErrorCode>() {
        return Some(code.clone());
    }
    let error = error.downcast_ref::<Error>()?;
    Some(if let Error::Hyper(error) = error {
        Outgoing.p2_error_from_hyper(error)
    } else if let Error::ConnectionReadTimeout = error {
        ErrorCode::ConnectionReadTimeout
    } else if let Error::ConnectionTerminated = error {
        ErrorCode::ConnectionTerminated
    } else if let Error::TlsCertificateError = error {
        ErrorCode::TlsCertificateError
    } else if let Error::TlsProtocolError = error {
        ErrorCode::TlsProtocolError
    } else if let Error::TlsAlertReceived {
        alert_id,
        alert_message,
    } = error
    {
        ErrorCode::TlsAlertReceived(TlsAlertReceivedPayload {
            alert_id: *alert_id,
            alert_message: alert_message.clone(),
        })
    } else {
        // No body of ours ends so.
        ErrorCode::InternalError(Some(error.to_string()))
    })
}
