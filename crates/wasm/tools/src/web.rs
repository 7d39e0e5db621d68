//! `wget`, of http: a probe, a hook or a person asks a server of the pod.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::{about, place, unknown, Outcome};

/// How many times an answer may say "elsewhere".
const REDIRECTS: u32 = 10;

/// The longest line of an answer's head, in bytes.
const LINE: u64 = 16 << 10;

/// What is asked for.
#[derive(Default)]
struct Wish {
    quiet: bool,
    /// `-S`: the answer's head on stderr.
    head: bool,
    /// `--spider`: whether it is there.
    spider: bool,
    /// `-O`
    output: Option<String>,
    /// `-T`: for each read.
    patience: Option<Duration>,
    headers: Vec<String>,
    url: String,
}

/// `wget [-q] [-S] [-O FILE] [-T SECONDS] [--header=LINE]... [--spider] URL`
pub(crate) fn wget(args: &[String]) -> Outcome {
    let mut wish = Wish::default();
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        let (option, value) = match arg.split_once('=') {
            Some((option, value)) if arg.starts_with("--") => (option, Some(value)),
            _ => (arg, None),
        };
        let mut value = || value.or_else(|| args.next()).ok_or_else(|| format!("{option}: of what?"));
        match option {
            "-q" | "--quiet" => wish.quiet = true,
            "-S" | "--server-response" => wish.head = true,
            "--spider" => wish.spider = true,
            "-O" | "--output-document" => wish.output = Some(value()?.to_owned()),
            "-T" | "--timeout" => {
                let seconds = value()?;
                let patience = seconds.parse().map_err(|_| format!("-T {seconds}: is no number of seconds"))?;
                wish.patience = Some(Duration::from_secs(patience));
            }
            "--header" => wish.headers.push(value()?.to_owned()),
            // Together, as people write them.
            _ if option.starts_with("-q") && option.get(..2) == Some("-q") => {
                wish.quiet = true;
                match option.get(2..).unwrap_or_default() {
                    "O" => wish.output = Some(value()?.to_owned()),
                    rest => match rest.strip_prefix('O') {
                        Some(file) => wish.output = Some(file.to_owned()),
                        None => return unknown(option),
                    },
                }
            }
            _ if option.starts_with("-O") => wish.output = option.get(2..).map(str::to_owned),
            _ if option.starts_with('-') => return unknown(option),
            url if wish.url.is_empty() => wish.url = url.to_owned(),
            _ => return Err(format!("{arg}: only one URL at a time")),
        }
    }
    if wish.url.is_empty() {
        return Err("of which URL?".to_owned());
    }
    let mut url = wish.url.clone();
    for _ in 0..=REDIRECTS {
        match wish.ask(&url)? {
            None => return Ok(true),
            Some(elsewhere) => url = elsewhere,
        }
    }
    Err(format!("{}: more than {REDIRECTS} redirections", wish.url))
}

impl Wish {
    /// Asks, and passes the answer on; or returns where else to ask.
    fn ask(&self, url: &str) -> Result<Option<String>, String> {
        let failed = |error: io::Error| format!("{url}: {error}");
        let (host, path) = split(url)?;
        let mut server = connect(host).map_err(failed)?;
        if let Some(patience) = self.patience {
            // What cannot have a limit waits as the kernel does.
            drop(server.set_read_timeout(Some(patience)));
        }
        let method = if self.spider { "HEAD" } else { "GET" };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: wget (duet)\r\nAccept: */*\r\nConnection: close\r\n");
        for header in &self.headers {
            request += &format!("{header}\r\n");
        }
        server.write_all(format!("{request}\r\n").as_bytes()).map_err(failed)?;
        let mut server = BufReader::new(server);
        let status = line(&mut server).map_err(failed)?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        let code = code.filter(|_| status.starts_with("HTTP/1."));
        let code = code.ok_or_else(|| format!("{url}: its answer, {status}, is not HTTP/1"))?;
        let mut head = Head::default();
        if self.head {
            eprintln!("  {status}");
        }
        loop {
            let line = line(&mut server).map_err(failed)?;
            if line.is_empty() {
                break;
            }
            if self.head {
                eprintln!("  {line}");
            }
            head.note(&line);
        }
        match (code, head.location.take()) {
            (301 | 302 | 303 | 307 | 308, Some(to)) if to.starts_with('/') => {
                return Ok(Some(format!("http://{host}{to}")));
            }
            (301 | 302 | 303 | 307 | 308, Some(to)) => return Ok(Some(to)),
            (200..=299, _) => {}
            _ => return Err(format!("{url}: server returned error: {status}")),
        }
        if self.spider {
            return Ok(None);
        }
        let name = path.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let name = if name.is_empty() { "index.html" } else { name };
        let output = self.output.as_deref().unwrap_or(name);
        if output == "-" {
            let mut out = io::stdout().lock();
            head.body(&mut server, &mut out).map_err(failed)?;
            out.flush().map_err(about("stdout"))?;
        } else {
            let mut file = File::create(place(output)).map_err(about(output))?;
            head.body(&mut server, &mut file).map_err(failed)?;
            if !self.quiet {
                eprintln!("{output} saved");
            }
        }
        Ok(None)
    }
}

/// Host and port, and the rest.
fn split(url: &str) -> Result<(&str, &str), String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{url}: {scheme} is not offered, only http")),
        None => url,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    match (host, path) {
        ("", _) => Err(format!("{url}: names no host")),
        (host, "") => Ok((host, "/")),
        (host, path) => Ok((host, path)),
    }
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let has_port = host.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    let address = if has_port { host.to_owned() } else { format!("{host}:80") };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A line without its end; an answer that stops before one is cut off.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(LINE).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// What the head of an answer says about its body.
#[derive(Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    location: Option<String>,
}

impl Head {
    fn note(&mut self, line: &str) {
        let Some((name, value)) = line.split_once(':') else {
            return;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => self.length = value.parse().ok(),
            "transfer-encoding" => self.chunked = value.to_ascii_lowercase().ends_with("chunked"),
            "location" => self.location = Some(value.to_owned()),
            _ => {}
        }
    }

    fn body(&self, from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
        if !self.chunked {
            return match self.length {
                Some(length) => exactly(from, to, length),
                None => io::copy(from, to).map(drop),
            };
        }
        loop {
            let size = line(from)?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if size == 0 {
                return Ok(());
            }
            exactly(from, to, size)?;
            line(from)?;
        }
    }
}

fn exactly(from: &mut impl Read, to: &mut impl Write, length: u64) -> io::Result<()> {
    let copied = io::copy(&mut from.take(length), to)?;
    if copied == length {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{copied} of {length} bytes came")))
}
