//! Every annotation Duet reads: who sets it, and what happens without it.

use crate::{Error, document::Document};
use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, time::Duration};

/// The sandbox a container belongs to; containerd's CRI sets it on every container.
/// Without it: [`RUNC_GROUP`].
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// The group of a container under runc's shim; set by whoever calls containerd.
/// Without it: [`POD`].
pub const RUNC_GROUP: &str = "io.containerd.runc.v2.group";
/// The pod of a container started by plain `ctr run`; set by its user.
/// Without it the container is a pod of its own.
pub const POD: &str = "io.containerd.duet.v1.pod";

/// `sandbox` or `container`; CRI sets it. Without it there is no CRI.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// The container's name in the pod; CRI sets it. Names log lines only.
pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
/// The image's name; CRI sets it. Names log lines only.
pub const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";
/// The pod's name; CRI sets it. Names log lines only.
pub const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
/// The pod's Kubernetes namespace; CRI sets it. Names log lines only.
pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// The pod's uid; CRI sets it. Names log lines only.
pub const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";

/// `native` or `wasm`: overrides what the entrypoint's bytes say; set by the user.
pub const HANDLER: &str = "io.containerd.duet.v1.handler";
/// Where a `wasi:http` component listens, as `IP:port`; set by the user.
/// Without it the runner's documented default holds.
pub const HTTP_LISTEN: &str = "io.containerd.duet.v1.http.listen";
/// How many requests one instance of a `wasi:http` component serves, one after another;
/// set by the user. Without it: 1, a new instance for each request.
pub const HTTP_REUSE: &str = "io.containerd.duet.v1.http.reuse";
/// How many requests of a `wasi:http` component may be inside the guest at the same time, up to
/// [`MOST_PLACES`]; set by the user. Without it: 64.
pub const HTTP_CONCURRENCY: &str = "io.containerd.duet.v1.http.concurrency";
/// How many more requests may wait for a place, before others are answered 503; set by the user.
/// Without it: 1024.
pub const HTTP_QUEUE: &str = "io.containerd.duet.v1.http.queue";
/// How long a request may take, as a number and `ms`, `s`, `m` or `h`, or `none`; set by the user.
/// Without it: 5 minutes.
pub const HTTP_TIMEOUT: &str = "io.containerd.duet.v1.http.timeout";
/// How long a client of a `wasi:http` component may take from one request to the next, as a number and a unit; set by
/// the user. Without it: 75 s.
pub const HTTP_IDLE: &str = "io.containerd.duet.v1.http.idle";
/// How long requests in flight may take to finish after TERM, as a number and a unit; set by the
/// user. Without it: 10 s.
pub const HTTP_DRAIN: &str = "io.containerd.duet.v1.http.drain";
/// `prefixed` or `plain`: whether the lines that handlers print begin with the number of the
/// request; set by the user. Without it they do.
pub const HTTP_LOG: &str = "io.containerd.duet.v1.http.log";
/// `container` or `pod`: whether the listening socket of a `wasi:http` component ends with its container, or the
/// pod keeps it for the next one that serves at the same address; set by the user. Without it: `container`.
pub const HTTP_LISTENER: &str = "io.containerd.duet.v1.http.listener";
/// Sockets that a preview 1 guest finds open for listening from descriptor 3 on, as a comma
/// list of `IP:port`; set by the user. Without it `DUET_LISTEN` in the guest's environment
/// holds, which can be one container's of a pod.
pub const LISTEN: &str = "io.containerd.duet.v1.listen";

/// `true` or `false`: whether components may use WASI preview 3, and with it wasmtime's concurrent
/// components; set by the user. Without it they may not.
pub const PREVIEW3: &str = "io.containerd.duet.v1.preview3";

/// Begins the names of values for `wasi:config`: `io.containerd.duet.v1.config.colour` is `colour`;
/// set by the user. Names without one have the value of the guest's environment.
pub const CONFIG: &str = "io.containerd.duet.v1.config.";

/// crun's choice of a handler: `wasm`, or `wasm-smart` (wasm if the entrypoint's name says
/// so). Honoured so that pods written for crun run unchanged.
pub const CRUN_HANDLER: &str = "run.oci.handler";
/// The wasm variant of an image: `compat`, or `compat-smart` (as `wasm-smart`).
pub const IMAGE_VARIANT: &str = "module.wasm.image/variant";

/// Names that begin like this are Duet's: one that is not listed here is a typing error.
const PREFIX: &str = "io.containerd.duet.v1.";

/// How many requests may be inside one guest at most: each place reserves 4 GiB of address space.
pub const MOST_PLACES: u32 = 10_000;

/// Which kind of program a container runs, where an annotation says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// A native program.
    Native,
    /// A wasm guest.
    Wasm,
    /// A wasm guest if the entrypoint's name ends in `.wasm` or `.wat`, else native.
    Smart,
}

/// How long something may take, where an annotation says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// No longer than this.
    Within(Duration),
    /// As long as it likes.
    Never,
}

/// What the annotations that Duet reads ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Overrides detection, with the annotation that said so.
    pub handler: Option<(Handler, &'static str)>,
    /// See [`HTTP_LISTEN`].
    pub http_listen: Option<SocketAddr>,
    /// See [`HTTP_REUSE`].
    pub http_reuse: Option<NonZeroU32>,
    /// See [`HTTP_CONCURRENCY`].
    pub http_concurrency: Option<NonZeroU32>,
    /// See [`HTTP_QUEUE`].
    pub http_queue: Option<u32>,
    /// See [`HTTP_TIMEOUT`].
    pub http_timeout: Option<Timeout>,
    /// See [`HTTP_IDLE`].
    pub http_idle: Option<Duration>,
    /// See [`HTTP_DRAIN`].
    pub http_drain: Option<Duration>,
    /// See [`HTTP_LOG`]: is it `plain`?
    pub http_plain_log: bool,
    /// See [`HTTP_LISTENER`]: is it `pod`?
    pub http_pod_listener: bool,
    /// See [`LISTEN`].
    pub listen: Vec<SocketAddr>,
    /// See [`PREVIEW3`].
    pub preview3: bool,
    /// See [`CONFIG`].
    pub config: BTreeMap<String, String>,
}

/// The name of the pod that a container belongs to, if it names one.
#[must_use]
pub fn pod_key(annotations: &BTreeMap<String, String>) -> Option<&str> {
    [SANDBOX_ID, RUNC_GROUP, POD]
        .into_iter()
        .find_map(|name| annotations.get(name).filter(|value| !value.is_empty()))
        .map(String::as_str)
}

pub(crate) fn read(
    document: Document<'_>,
    annotations: &BTreeMap<String, String>,
) -> Result<Options, Error> {
    let mut options = Options::default();
    for (name, value) in annotations {
        let refuse = |why| document.value(&format!("annotations.{name}"), value, why);
        match name.as_str() {
            POD if value.is_empty() => return Err(refuse("is empty")),
            POD => {}
            HANDLER => match value.as_str() {
                "native" => options.handler = Some((Handler::Native, HANDLER)),
                "wasm" => options.handler = Some((Handler::Wasm, HANDLER)),
                _ => return Err(refuse("is neither native nor wasm")),
            },
            HTTP_LISTEN => {
                let address = value.parse().map_err(|_| {
                    refuse("is not IP:port, such as 0.0.0.0:8080 or [::]:8080 (no host name)")
                })?;
                options.http_listen = Some(address);
            }
            HTTP_REUSE => {
                let count = value
                    .parse()
                    .map_err(|_| refuse("is not a number above 0"))?;
                options.http_reuse = Some(count);
            }
            HTTP_CONCURRENCY => {
                let count = value
                    .parse()
                    .ok()
                    .filter(|count: &NonZeroU32| count.get() <= MOST_PLACES);
                let count = count.ok_or_else(|| refuse("is not a number from 1 to 10000"))?;
                options.http_concurrency = Some(count);
            }
            HTTP_QUEUE => {
                let count = value.parse().map_err(|_| refuse("is not a number"))?;
                options.http_queue = Some(count);
            }
            HTTP_TIMEOUT if value == "none" => options.http_timeout = Some(Timeout::Never),
            HTTP_TIMEOUT => {
                let time = duration(value)
                    .ok_or_else(|| refuse("is neither none nor a time such as 30s"))?;
                options.http_timeout = Some(Timeout::Within(time));
            }
            HTTP_IDLE => {
                let time = duration(value).ok_or_else(|| refuse("is not a time such as 30s"))?;
                options.http_idle = Some(time);
            }
            HTTP_DRAIN => {
                let time = duration(value).ok_or_else(|| refuse("is not a time such as 30s"))?;
                options.http_drain = Some(time);
            }
            HTTP_LOG => match value.as_str() {
                "prefixed" => options.http_plain_log = false,
                "plain" => options.http_plain_log = true,
                _ => return Err(refuse("is neither prefixed nor plain")),
            },
            HTTP_LISTENER => match value.as_str() {
                "container" => options.http_pod_listener = false,
                "pod" => options.http_pod_listener = true,
                _ => return Err(refuse("is neither container nor pod")),
            },
            LISTEN => {
                for address in value.split(',') {
                    let address = address
                        .trim()
                        .parse()
                        .map_err(|_| refuse("is not a list of IP:port, such as 127.0.0.1:9000,[::1]:9000 (no host names)"))?;
                    options.listen.push(address);
                }
            }
            PREVIEW3 => match value.as_str() {
                "true" => options.preview3 = true,
                "false" => options.preview3 = false,
                _ => return Err(refuse("is neither true nor false")),
            },
            CRUN_HANDLER if annotations.contains_key(HANDLER) => {}
            CRUN_HANDLER => match value.as_str() {
                "wasm" => options.handler = Some((Handler::Wasm, CRUN_HANDLER)),
                "wasm-smart" => options.handler = Some((Handler::Smart, CRUN_HANDLER)),
                _ => return Err(refuse("is neither wasm nor wasm-smart")),
            },
            IMAGE_VARIANT if options.handler.is_some() => {}
            IMAGE_VARIANT => match value.as_str() {
                "compat" => options.handler = Some((Handler::Wasm, IMAGE_VARIANT)),
                "compat-smart" => options.handler = Some((Handler::Smart, IMAGE_VARIANT)),
                _ => return Err(refuse("is neither compat nor compat-smart")),
            },
            other if other.starts_with(CONFIG) => match other.strip_prefix(CONFIG) {
                Some(key) if !key.is_empty() => {
                    options.config.insert(key.to_owned(), value.clone());
                }
                Some(_) | None => {
                    return Err(refuse(
                        "has no name after \"config.\"; expected io.containerd.duet.v1.config.NAME",
                    ));
                }
            },
            other if other.starts_with(PREFIX) => {
                return Err(refuse(
                    "unknown annotation; docs/annotations.md lists those that Duet reads",
                ));
            }
            _ => {}
        }
    }
    Ok(options)
}

/// A number above 0 and a unit: `250ms`, `30s`, `5m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Every name that stands in a constant above.
    fn read() -> BTreeSet<&'static str> {
        let constants = include_str!("annotations.rs").lines();
        constants
            .filter(|line| line.starts_with("pub const "))
            .filter_map(|line| line.split('"').nth(1))
            .collect()
    }

    /// Every name that `docs/annotations.md` has between backticks: before its table, in it and after.
    fn written() -> BTreeSet<&'static str> {
        let page = include_str!("../../../docs/annotations.md");
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let rows = rows.filter_map(|row| row.split('`').nth(1));
        let (_, last) = page.split_once("containerd sets these itself").unwrap();
        rows.chain(last.split('`').skip(1).step_by(2))
            .map(|name| name.trim_end_matches("NAME"))
            // That of duet-cgroup.
            .filter(|name| *name != "org.systemd.property.")
            .collect()
    }

    #[test]
    fn every_annotation_is_on_the_page_and_none_that_is_not_read() {
        assert_eq!(written(), read());
    }
}
