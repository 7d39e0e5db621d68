//! A connection to systemd, for the time of one request.
//!
//! PID 1's own socket first, as `systemctl` does when root asks: no bus is in between whose daemon
//! could be missing or busy. Where it is not to be seen (the shim's containerd runs in a container that
//! was given the bus alone) the system bus serves.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::message::{self, ERROR, HEAD, Message, Object, RETURN, Writer};
use crate::Error;
use crate::error::errno;

/// PID 1 itself.
const PRIVATE: &str = "/run/systemd/private";

/// The system bus.
const SYSTEM: &str = "/run/dbus/system_bus_socket";

const MANAGER: Object = Object {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

const DAEMON: Object = Object {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// The signals that a job's end is told by.
const MATCH: &str = "type='signal',sender='org.freedesktop.systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// A connection to systemd.
pub(super) struct Bus {
    stream: UnixStream,
    path: PathBuf,
    serial: u32,
    deadline: Instant,
    /// The jobs that ended while something else was waited for, and how.
    removed: Vec<(String, String)>,
}

// === impl Bus ===

impl Bus {
    /// Connects; everything that is asked has to be answered within `limit`.
    pub(super) fn connect(limit: Duration) -> Result<Self, Error> {
        match Self::connect_to(Path::new(PRIVATE), limit) {
            // The socket is nowhere, or nobody listens.
            Err(Error::Bus {
                source: Errno::ENOENT | Errno::ECONNREFUSED,
                ..
            }) => {
                let mut bus = Self::connect_to(Path::new(SYSTEM), limit)?;
                bus.join()?;
                Ok(bus)
            }
            connected => connected,
        }
    }

    pub(super) fn connect_to(path: &Path, limit: Duration) -> Result<Self, Error> {
        let deadline = Instant::now() + limit;
        let stream = connect(path, deadline).map_err(|source| Error::Bus {
            step: "connect to",
            path: path.to_owned(),
            source,
        })?;
        let mut bus = Bus {
            stream,
            path: path.to_owned(),
            serial: 0,
            deadline,
            removed: Vec::new(),
        };
        bus.authenticate()?;
        Ok(bus)
    }

    /// Calls a method of systemd's manager about `unit`.
    pub(super) fn call(
        &mut self,
        member: &'static str,
        unit: &str,
        signature: &str,
        body: &Writer,
    ) -> Result<Message, Error> {
        self.ask(MANAGER, member, unit, signature, body)
    }

    /// As [`Bus::call`], of a method that makes a job; waits for the job's end.
    pub(super) fn work(
        &mut self,
        member: &'static str,
        unit: &str,
        signature: &str,
        body: &Writer,
    ) -> Result<(), Error> {
        let answer = self.call(member, unit, signature, body)?;
        let job = answer.text().ok_or_else(|| self.strange())?;
        let result = loop {
            let ended = self.removed.iter().find(|(removed, _)| removed == job);
            if let Some((_, result)) = ended {
                break result.clone();
            }
            self.receive()?;
        };
        match result.as_str() {
            "done" => Ok(()),
            _ => Err(Error::Job {
                call: member,
                unit: unit.into(),
                result: result.into(),
            }),
        }
    }

    /// Says who is there: the user that the kernel vouches for.
    fn authenticate(&mut self) -> Result<(), Error> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        // In one piece, as systemd's own clients do. PID 1 reads what comes behind BEGIN along with it if it
        // is late, and then does not look at that until something else comes: seen on a busy machine.
        self.send(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            // "OK " and 32 digits.
            if line.len() > 100 {
                return Err(self.strange());
            }
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            return Err(self.failed("be let in by", Errno::EACCES));
        }
        Ok(())
    }

    /// What a bus wants to hear that PID 1 does not: a greeting, and which signals are for us.
    fn join(&mut self) -> Result<(), Error> {
        self.ask(DAEMON, "Hello", "", "", &Writer::default())?;
        let mut rule = Writer::default();
        rule.text(MATCH);
        self.ask(DAEMON, "AddMatch", "", "s", &rule)?;
        // Or systemd would send no signals at all.
        self.call("Subscribe", "", "", &Writer::default())?;
        Ok(())
    }

    fn ask(
        &mut self,
        object: Object,
        member: &'static str,
        unit: &str,
        signature: &str,
        body: &Writer,
    ) -> Result<Message, Error> {
        self.serial += 1;
        let call = message::call(self.serial, object, member, signature, body);
        self.send(&call)?;
        loop {
            let message = self.receive()?;
            if message.answers != self.serial {
                continue;
            }
            match message.kind {
                RETURN => return Ok(message),
                ERROR => {
                    return Err(Error::Systemd {
                        call: member,
                        unit: unit.into(),
                        text: message.text().unwrap_or_default().into(),
                        name: message.error.into(),
                    });
                }
                _ => {}
            }
        }
    }

    /// Takes one message, and notes the end of a job.
    fn receive(&mut self) -> Result<Message, Error> {
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let whole = message::whole(&head).ok_or_else(|| self.strange())?;
        let mut bytes = vec![0; whole];
        let (first, rest) = bytes.split_at_mut(HEAD);
        first.copy_from_slice(&head);
        self.fill(rest)?;
        let message = Message::parse(&bytes).ok_or_else(|| self.strange())?;
        if let Some((job, result)) = message.removed() {
            self.removed.push((job.to_owned(), result.to_owned()));
        }
        Ok(message)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let left = self.left()?;
        self.stream
            .set_write_timeout(Some(left))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(|error| self.failed("write to", late(errno(&error))))
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            let left = self.left()?;
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(buffer));
            match read.map_err(|error| errno(&error)) {
                Ok(0) => return Err(self.failed("read from", Errno::ECONNRESET)),
                Ok(length) => buffer = &mut buffer[length..],
                Err(Errno::EINTR) => {}
                Err(source) => return Err(self.failed("read from", late(source))),
            }
        }
        Ok(())
    }

    /// The time that is left, which is never nothing: a socket takes that for "for ever".
    fn left(&self) -> Result<Duration, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.failed("wait for", Errno::ETIMEDOUT));
        }
        Ok(left)
    }

    fn strange(&self) -> Error {
        self.failed("understand", Errno::EBADMSG)
    }

    fn failed(&self, step: &'static str, source: Errno) -> Error {
        Error::Bus {
            step,
            path: self.path.clone(),
            source,
        }
    }
}

/// Connects until `deadline`: one who hangs accepts nobody, and once its backlog is full the kernel
/// would wait for ever. (`unix_stream_connect` of the kernel waits for the time of sending.)
fn connect(path: &Path, deadline: Instant) -> Result<UnixStream, Errno> {
    let number = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let address = SocketAddrUnix::new(path).map_err(number)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(number)?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::ETIMEDOUT);
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left)).map_err(number)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(late(number(error))),
        }
    }
}

/// A socket whose time is over says "try again".
fn late(error: Errno) -> Errno {
    if error == Errno::EAGAIN {
        Errno::ETIMEDOUT
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A systemd that lets the caller in, takes one call and sends `answers`, then hangs up.
    struct Systemd {
        dir: tempfile::TempDir,
        serving: JoinHandle<()>,
    }

    impl Systemd {
        fn saying(answers: Vec<Vec<u8>>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(dir.path().join("private")).unwrap();
            let serving = thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                let mut heard = Vec::new();
                let mut hear_until = |peer: &mut UnixStream, end: &[u8]| {
                    while !heard.ends_with(end) {
                        let mut byte = [0];
                        peer.read_exact(&mut byte).unwrap();
                        heard.extend(byte);
                    }
                };
                hear_until(&mut peer, b"\r\n");
                peer.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n")
                    .unwrap();
                hear_until(&mut peer, b"BEGIN\r\n");
                let mut head = [0; HEAD];
                peer.read_exact(&mut head).unwrap();
                let mut rest = vec![0; message::whole(&head).unwrap() - HEAD];
                peer.read_exact(&mut rest).unwrap();
                for answer in answers {
                    peer.write_all(&answer).unwrap();
                }
            });
            Systemd { dir, serving }
        }

        fn stop(self, limit: Duration) -> Result<(), Error> {
            let mut bus = Bus::connect_to(&self.dir.path().join("private"), limit)?;
            let mut body = Writer::default();
            body.text("a.scope");
            let stopped = bus.work("StopUnit", "a.scope", "s", &body);
            self.serving.join().unwrap();
            stopped
        }
    }

    fn job(path: &str) -> Vec<u8> {
        let mut body = Writer::default();
        body.text(path);
        message::answer(RETURN, 1, "", "o", &body)
    }

    #[test]
    fn a_job_is_waited_for_whatever_comes_before() {
        let removed = message::removed;
        for answers in [
            vec![
                job("/job/3"),
                removed("/job/2", "failed"),
                removed("/job/3", "done"),
            ],
            vec![removed("/job/3", "done"), job("/job/3")],
        ] {
            Systemd::saying(answers).stop(LIMIT).unwrap();
        }
    }

    #[test]
    fn a_job_that_fails_says_how() {
        let answers = vec![job("/job/3"), message::removed("/job/3", "timeout")];
        let error = Systemd::saying(answers).stop(LIMIT).unwrap_err();
        let text = "systemd's job of StopUnit a.scope ended as \"timeout\"";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_refusal_is_told_in_systemds_words() {
        let mut body = Writer::default();
        body.text("Unit a.scope not loaded.");
        let answers = vec![message::answer(ERROR, 1, "org.NoSuchUnit", "s", &body)];
        let error = Systemd::saying(answers).stop(LIMIT).unwrap_err();
        let text = "systemd refuses StopUnit a.scope: Unit a.scope not loaded. (org.NoSuchUnit)";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_systemd_that_hangs_up_or_talks_nonsense_is_an_error() {
        for (answers, why) in [
            (vec![], Errno::ECONNRESET),
            (vec![job("/job/3")], Errno::ECONNRESET),
            (vec![vec![b'?'; 64]], Errno::EBADMSG),
        ] {
            let error = Systemd::saying(answers).stop(LIMIT).unwrap_err();
            assert!(
                matches!(error, Error::Bus { source, .. } if source == why),
                "{error}"
            );
        }
    }

    #[test]
    fn a_machine_without_systemd_is_named_by_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let error = Bus::connect_to(&path, LIMIT).err().unwrap();
        let text = format!("connect to systemd at {}", path.display());
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let _silent = UnixListener::bind(&path).unwrap();
        let error = Bus::connect_to(&path, Duration::from_millis(50))
            .err()
            .unwrap();
        assert!(
            matches!(
                error,
                Error::Bus {
                    source: Errno::ETIMEDOUT,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn nobody_waits_for_ever_to_be_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        // Room for one whom nobody accepts.
        rustix::net::listen(&socket, 0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let error = Bus::connect_to(&path, Duration::from_millis(50))
            .err()
            .unwrap();
        assert!(
            matches!(
                error,
                Error::Bus {
                    step: "connect to",
                    source: Errno::ETIMEDOUT,
                    ..
                }
            ),
            "{error}"
        );
    }
}
