//! Asks a container's probes, one task per container, while it runs.

use crate::cri::Cri;
use crate::probe::{Action, Kind, Probe, Tally};
use k8s_openapi::api::core::v1::Container;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};

/// How much of an HTTP answer is read for its status: 64 bytes.
const STATUS_LINE: usize = 64;

/// A verdict that has changed.
#[derive(Debug)]
pub(super) struct Heard {
    /// The container's place among the pod's, and its id: it may have been restarted since.
    pub(super) index: usize,
    pub(super) id: String,
    pub(super) kind: Kind,
    /// `Err` says why it is not well.
    pub(super) verdict: Result<(), String>,
}

/// Who is asked, and who hears of it.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) index: usize,
    pub(super) id: String,
    pub(super) ip: String,
    pub(super) cri: Cri,
    pub(super) tell: UnboundedSender<Heard>,
}

/// Asks all probes of `container` until they need no asking; dropping the future ends that.
pub(super) async fn ask(subject: Subject, container: Container) {
    if let Some(startup) = Probe::of(Kind::Startup, &container)
        && !subject.watch(&startup).await
    {
        return;
    }
    let one = |kind: Kind| {
        let (subject, probe) = (subject.clone(), Probe::of(kind, &container));
        async move {
            if let Some(probe) = probe {
                subject.watch(&probe).await;
            }
        }
    };
    tokio::join!(one(Kind::Readiness), one(Kind::Liveness));
}

// === impl Subject ===

impl Subject {
    /// Asks until the verdict is final, and returns it; a readiness probe's never is.
    async fn watch(&self, probe: &Probe) -> bool {
        let mut tally = Tally::default();
        let mut cri = self.cri.clone();
        sleep(probe.delay).await;
        loop {
            let answer = timeout(probe.timeout, self.once(probe, &mut cri)).await;
            let answer =
                answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", probe.timeout)));
            if let Some(well) = tally.count(probe, answer.is_ok()) {
                let heard = Heard {
                    index: self.index,
                    id: self.id.clone(),
                    kind: probe.kind,
                    verdict: answer,
                };
                if self.tell.send(heard).is_err() {
                    return well;
                }
                match (probe.kind, well) {
                    (Kind::Startup, _) | (Kind::Liveness, false) => return well,
                    (Kind::Liveness, true) | (Kind::Readiness, _) => {}
                }
            }
            sleep(probe.period).await;
        }
    }

    async fn once(&self, probe: &Probe, cri: &mut Cri) -> Result<(), String> {
        match &probe.action {
            Action::Exec(command) => {
                let seconds = i64::try_from(probe.timeout.as_secs()).unwrap_or(i64::MAX);
                cri.exec(&self.id, command, seconds).await
            }
            Action::Tcp { host, port } => {
                let connected = self.connect(host.as_deref(), *port).await;
                connected.map(drop)
            }
            Action::Http {
                host,
                port,
                path,
                headers,
            } => {
                let mut stream = self.connect(host.as_deref(), *port).await?;
                let host = host.as_deref().unwrap_or(&self.ip);
                let request = request(path, &format!("{host}:{port}"), headers);
                let exchange = async {
                    stream.write_all(request.as_bytes()).await?;
                    let mut answer = Vec::new();
                    let read = u64::try_from(STATUS_LINE).unwrap_or_default();
                    (&mut stream).take(read).read_to_end(&mut answer).await?;
                    Ok(answer)
                };
                let answer: std::io::Result<Vec<u8>> = exchange.await;
                let answer =
                    answer.map_err(|error| format!("http://{host}:{port}{path}: {error}"))?;
                match status(&answer) {
                    Some(200..=399) => Ok(()),
                    Some(code) => Err(format!("http://{host}:{port}{path} answered {code}")),
                    None => Err(format!("http://{host}:{port}{path} gave no HTTP answer")),
                }
            }
        }
    }

    async fn connect(&self, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
        let host = host.unwrap_or(&self.ip);
        let stream = TcpStream::connect((host, port)).await;
        stream.map_err(|error| format!("{host}:{port}: {error}"))
    }
}

/// The request; a `Host` in `headers` replaces ours.
fn request(path: &str, host: &str, headers: &[(String, String)]) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut text = format!("GET {slash}{path} HTTP/1.1\r\n");
    let given = |name: &str| {
        headers
            .iter()
            .any(|(own, _)| own.eq_ignore_ascii_case(name))
    };
    for (name, value) in [
        ("Host", host),
        ("User-Agent", "kube-probe/duet"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ] {
        if !given(name) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text
}

/// The code in `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    words
        .next()
        .filter(|version| version.starts_with(b"HTTP/1."))?;
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{request, status};

    #[test]
    fn the_status_is_read() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\nA: b\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500 X"), Some(500));
        assert_eq!(status(b"SSH-2.0-x 200"), None);
        assert_eq!(status(b""), None);
    }

    #[test]
    fn given_headers_replace_ours() {
        let headers = [("host".to_owned(), "a".to_owned())];
        let text = request("x", "b:1", &headers);
        assert!(text.starts_with("GET /x HTTP/1.1\r\n"));
        assert!(text.ends_with("\r\nhost: a\r\n\r\n"));
        assert!(!text.contains("b:1"));
    }
}
