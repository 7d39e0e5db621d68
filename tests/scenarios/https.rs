//! https that a guest asks for: whom it believes, and what it is told of those it does not.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use duet_tests::{Node, image};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::serving::Server as Guest;

/// Somebody who signs certificates.
struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// How a server differs from one that all is well with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// In nothing; it speaks HTTP/1.1.
    Good,
    /// It speaks HTTP/2.
    Second,
    /// Its certificate is of another name.
    Misnamed,
    /// Its certificate is too old.
    Expired,
    /// It wants a certificate of the client.
    Curious,
    /// The same in HTTP/2.
    CuriousSecond,
    /// It speaks a protocol that nobody knows.
    Strange,
    /// It does not speak TLS.
    Plain,
}

// === impl Authority ===

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("there is entropy");
        let own = params.self_signed(&key).expect("its own key");
        Self {
            pem: own.pem(),
            der: own.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Serves in a thread of its own, until the process ends: the port.
    fn serve(&self, server: Server) -> u16 {
        let name = match server {
            Server::Misnamed => "elsewhere.test",
            Server::Good
            | Server::Second
            | Server::Expired
            | Server::Curious
            | Server::CuriousSecond
            | Server::Strange
            | Server::Plain => "localhost",
        };
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        if server == Server::Expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().expect("there is entropy");
        let signed = params.signed_by(&key, &self.issuer).expect("a good key");
        let verifier = if let Server::Curious | Server::CuriousSecond = server {
            let mut roots = RootCertStore::empty();
            roots.add(self.der.clone()).expect("our own");
            let roots = Arc::new(roots);
            WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .expect("a root")
        } else {
            Arc::new(NoClientAuth)
        };
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("they are supported")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![signed.der().clone()], private)
            .expect("a pair");
        config.alpn_protocols = vec![match server {
            Server::Second | Server::CuriousSecond => b"h2".to_vec(),
            Server::Strange => b"strange".to_vec(),
            Server::Good | Server::Misnamed | Server::Expired | Server::Curious | Server::Plain => {
                b"http/1.1".to_vec()
            }
        }];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // What a client does that believes nothing is its own affair.
                drop(attend(stream, server, &config));
            }
        });
        port
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// One connection with one request.
fn attend(mut stream: TcpStream, server: Server, config: &Arc<ServerConfig>) -> io::Result<()> {
    if server == Server::Plain {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
    } else {
        let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        let mut secret = StreamOwned::new(connection, stream);
        let answered = if let Server::Second | Server::CuriousSecond = server {
            second(&mut secret)
        } else {
            first(&mut secret)
        };
        if answered.is_ok() {
            secret.conn.send_close_notify();
        }
        // What there is to say when a handshake fails is not said by itself.
        while secret.conn.wants_write() {
            secret.conn.write_tls(&mut secret.sock)?;
        }
        stream = secret.sock;
    }
    // What is unread when a connection is closed takes what was said with it.
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream, &mut io::sink())?;
    Ok(())
}

/// An answer in HTTP/1.1.
fn first(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst")?;
    stream.flush()
}

/// An answer in HTTP/2 (RFC 9113): the frames that there must be.
fn second(stream: &mut (impl Read + Write)) -> io::Result<()> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const ACK: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// `:status: 200` in the static table of HPACK (RFC 7541, appendix A).
    const STATUS_200: u8 = 0x88;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    assert!(preface.starts_with(b"PRI * HTTP/2.0"));
    stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        io::copy(&mut stream.take(length.into()), &mut io::sink())?;
        if kind == SETTINGS && flags & ACK == 0 {
            stream.write_all(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0])?;
        }
        // Not before the whole request is there.
        if (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
            stream.write_all(&[0, 0, 1, HEADERS, END_HEADERS])?;
            stream.write_all(&id)?;
            stream.write_all(&[STATUS_200])?;
            stream.write_all(&[0, 0, 6, DATA, END_STREAM])?;
            stream.write_all(&id)?;
            stream.write_all(b"second")?;
            return stream.flush();
        }
        stream.flush()?;
    }
}

/// What the guest is told when it asks the server at `port`.
fn ask(guest: &Guest<'_>, port: u16) -> String {
    guest.get(&format!("/ask/https/localhost:{port}/"))
}

/// A file with the certificate of `authority`, for a guest of any user.
fn bundle(node: &Node, name: &str, authority: &Authority) -> PathBuf {
    let path = node.scratch().join(name);
    fs::write(&path, &authority.pem).expect("our own folder");
    path
}

#[test]
fn https_believes_the_roots_of_the_image_and_says_whom_it_does_not_believe() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let (ours, other) = (Authority::new("ours"), Authority::new("theirs"));
    let ports = [
        (Server::Good, "200 first"),
        (Server::Second, "200 second"),
        (Server::Misnamed, "ErrorCode::TlsCertificateError"),
        (Server::Expired, "ErrorCode::TlsCertificateError"),
        (Server::Curious, "ErrorCode::TlsAlertReceived"),
        (Server::CuriousSecond, "ErrorCode::TlsAlertReceived"),
        (Server::Strange, "ErrorCode::TlsAlertReceived"),
        (Server::Plain, "ErrorCode::TlsProtocolError"),
    ]
    .map(|(server, answer)| (server, ours.serve(server), answer));
    let good = ports[0].1;

    // Where Debian has them.
    let file = bundle(&node, "ours.pem", &ours);
    let mount = format!(
        "type=bind,src={},dst=/etc/ssl/certs/ca-certificates.crt,options=rbind:ro",
        file.display()
    );
    let guest = Guest::start(&node, "image", &["--mount", &mount]);
    for (server, port, answer) in ports {
        let told = ask(&guest, port);
        assert!(told.starts_with(answer), "{server:?}: {told}");
    }
    let stranger = ask(&guest, other.serve(Server::Good));
    assert!(
        stranger.starts_with("ErrorCode::TlsCertificateError"),
        "{stranger}"
    );
    let said = guest.end();
    assert_eq!(
        said.matches("received fatal alert: CertificateRequired")
            .count(),
        2,
        "{said}"
    );
    for words in [
        "duet: https://localhost: invalid peer certificate: UnknownIssuer \
         (the roots are those of /etc/ssl/certs/ca-certificates.crt)",
        "certificate not valid for name \"localhost\"",
        "certificate expired",
        "received fatal alert: NoApplicationProtocol",
        "received corrupt message",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }

    // The client of preview 3 is told no less, but this probe says only whether it had an answer.
    for (server, port, _) in ports {
        let (answer, words) = match server {
            Server::Good => ("200 first", ""),
            Server::Second => ("200 second", ""),
            Server::Expired => ("no answer\n", "certificate expired"),
            Server::Curious | Server::CuriousSecond => ("no answer\n", "CertificateRequired"),
            Server::Misnamed => ("no answer\n", "not valid for name \"localhost\""),
            Server::Strange => ("no answer\n", "NoApplicationProtocol"),
            Server::Plain => ("no answer\n", "received corrupt message"),
        };
        let url = format!("https://localhost:{port}");
        let outcome = node
            .container("third")
            .image(image::GUESTS)
            .with(&["--net-host", "--mount", &mount])
            .with(&["--annotation", "io.containerd.duet.v1.preview3=true"])
            .args(&["/probe-p3.wasm", "get", &url, "/"])
            .run()
            .ok();
        assert_eq!(outcome.stdout, answer, "{server:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{server:?}: {outcome:?}");
    }

    // Where the environment says, and nowhere else.
    let mount = |file: &PathBuf, place: &str| {
        format!(
            "type=bind,src={},dst={place},options=rbind:ro",
            file.display()
        )
    };
    let theirs = bundle(&node, "other.pem", &other);
    let (usual, named) = (
        mount(&file, "/etc/ssl/certs/ca-certificates.crt"),
        mount(&theirs, "/roots/other.pem"),
    );
    for variable in ["SSL_CERT_FILE=/roots/other.pem", "SSL_CERT_DIR=:/roots:"] {
        let options = ["--mount", &usual, "--mount", &named, "--env", variable];
        let guest = Guest::start(&node, "named", &options);
        let told = ask(&guest, good);
        assert!(
            told.starts_with("ErrorCode::TlsCertificateError"),
            "{variable}: {told}"
        );
        assert_eq!(
            ask(&guest, other.serve(Server::Good)),
            "200 first",
            "{variable}"
        );
        assert!(guest.end().contains("UnknownIssuer"), "{variable}");
    }
    let options = ["--mount", &usual, "--env", "SSL_CERT_FILE=/nowhere.pem"];
    let guest = Guest::start(&node, "missing", &options);
    let told = ask(&guest, good);
    assert!(told.starts_with("ErrorCode::ConfigurationError"), "{told}");
    let said = guest.end();
    assert!(
        said.contains("SSL_CERT_FILE: /nowhere.pem: No such file"),
        "{said}"
    );

    // Those that are built in, of an image that has none: they are real, and do not know us.
    let guest = Guest::start(&node, "built-in", &[]);
    let told = ask(&guest, good);
    assert!(told.starts_with("ErrorCode::TlsCertificateError"), "{told}");
    let said = guest.end();
    assert!(
        said.contains("UnknownIssuer (the roots are Mozilla's, built in"),
        "{said}"
    );
}
