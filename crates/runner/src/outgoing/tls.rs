//! TLS of the guest's own requests: HTTP/2 or 1.1, as the server likes; and what the guest is told of those
//! who are not who they say.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

use crate::end::say;
use crate::outgoing::roots::{self, Roots};

/// What the names of protocols are in a handshake (RFC 7301), the one we like best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Whom all requests of this process believe, and why. Nobody who never asks has one.
static TRUST: Mutex<Option<Arc<Trust>>> = Mutex::new(None);

struct Trust {
    config: Arc<ClientConfig>,
    /// Where the roots are from, for who has to find out why a server is not believed.
    roots: String,
}

/// Makes a connection to `host` a secret one.
pub(super) async fn handshake(
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Error> {
    let trust = Trust::get().map_err(|error| {
        say(&format!("duet: https://{host}: {error}"));
        Error::ConfigurationError
    })?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        say(&format!(
            "duet: https://{host}: no certificate can have this name"
        ));
        Error::HttpRequestUriInvalid
    })?;
    TlsConnector::from(Arc::clone(&trust.config))
        .connect(name, stream)
        .await
        .map_err(|error| {
            say(&format!(
                "duet: https://{host}: {error} (the roots are {})",
                trust.roots
            ));
            of_io(&error).unwrap_or(Error::ConnectionTerminated)
        })
}

/// Whether the server would rather speak HTTP/2.
pub(super) fn is_second(stream: &TlsStream<TcpStream>) -> bool {
    let (_, session) = stream.get_ref();
    session.alpn_protocol() == Some(b"h2")
}

/// Says what a server thinks of a request of which the guest is told by `error`: one of TLS 1.3 that misses a certificate
/// of the client's complains when the handshake is over.
pub(super) fn complaint(host: &str, error: &Error) {
    if let Error::TlsAlertReceived { alert_message, .. } = error {
        let alert = alert_message.as_deref().unwrap_or_default();
        say(&format!(
            "duet: https://{host}: received fatal alert: {alert}"
        ));
    }
}

/// An error of hyper's as the guest is told of it.
pub(super) fn of_hyper(error: hyper::Error) -> Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    match cause.and_then(of_io) {
        Some(known) => known,
        None => Error::Hyper(error),
    }
}

/// What TLS says; `None` if it is not the one who speaks.
fn of_io(error: &io::Error) -> Option<Error> {
    let error: &rustls::Error = error.get_ref()?.downcast_ref()?;
    Some(if let rustls::Error::AlertReceived(alert) = error {
        Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        }
    } else if let rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented =
        error
    {
        Error::TlsCertificateError
    } else {
        Error::TlsProtocolError
    })
}

// === impl Trust ===

impl Trust {
    /// That of this process, made for its first request; what failed is tried again.
    fn get() -> Result<Arc<Self>, String> {
        let mut kept = TRUST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trust) = &*kept {
            return Ok(Arc::clone(trust));
        }
        let trust = Arc::new(Self::make(roots::read()?)?);
        *kept = Some(Arc::clone(&trust));
        Ok(trust)
    }

    fn make(Roots { store, from }: Roots) -> Result<Self, String> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Self {
            config: Arc::new(config),
            roots: from,
        })
    }
}
