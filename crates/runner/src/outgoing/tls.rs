//! TLS of the guest's own requests: HTTP/2 or 1.1, as the server likes; and what the guest is told of those
//! who are not who they say.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use rustls::client::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

/// What TLS says when a connection fails after its handshake: of HTTP/2 nothing but words comes up, and one of TLS 1.3
/// that misses a certificate of the client's complains only then.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(Arc<OnceLock<rustls::Error>>);

/// A stream of TLS whose errors are kept, and are on stderr, once.
pub(super) struct Heard<S> {
    stream: S,
    host: String,
    said: Said,
}

// === impl Said ===

impl Said {
    /// An error of hyper's as the guest is told of it.
    pub(super) fn behind(&self, error: hyper::Error) -> Error {
        match self.0.get() {
            Some(error) => of_tls(error),
            None => Error::Hyper(error),
        }
    }
}

// === impl Heard ===

impl<S> Heard<S> {
    pub(super) fn new(stream: S, host: &str, said: &Said) -> Self {
        Self {
            stream,
            host: host.to_owned(),
            said: said.clone(),
        }
    }

    fn hear<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let cause = match &polled {
            Poll::Ready(Err(error)) => error.get_ref(),
            Poll::Ready(Ok(_)) | Poll::Pending => None,
        };
        if let Some(error) = cause.and_then(|cause| cause.downcast_ref::<rustls::Error>())
            && self.said.0.set(error.clone()).is_ok()
        {
            say(&format!("duet: https://{}: {error}", self.host));
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.hear(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.hear(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.hear(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.hear(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.hear(polled)
    }
}

/// What TLS says; `None` if it is not the one who speaks.
fn of_io(error: &io::Error) -> Option<Error> {
    error.get_ref()?.downcast_ref().map(of_tls)
}

fn of_tls(error: &rustls::Error) -> Error {
    if let rustls::Error::AlertReceived(alert) = error {
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
    }
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
