//! The streaming half of CRI's Exec: a WebSocket client as small as one test needs.
//!
//! The first byte of a message is its channel: 0 stdin, 1 stdout, 2 stderr, 3 the
//! result. That is Kubernetes' protocol `v4.channel.k8s.io` over RFC 6455.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;

use crate::wait::patience;

/// How a streamed program ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// What it wrote to its standard output; everything, with a terminal.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// Its exit code.
    pub code: i32,
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESULT: u8 = 3;

const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x8;
const MASKED: u8 = 0x80;

/// Runs the program that `url` stands for with `input`, to its end.
///
/// # Errors
///
/// When the server does not speak the protocol, or falls silent.
pub fn exec(url: &str, input: &str) -> io::Result<Ended> {
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| io::Error::other("not an http address"))?;
    let mut socket = TcpStream::connect(host)?;
    socket.set_read_timeout(Some(patience()))?;
    write!(
        socket,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZHVldCB0ZXN0cyBzdHJlYW0=\r\n\
         Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nOrigin: http://{host}\r\n\r\n"
    )?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    if !status.contains(" 101 ") {
        return Err(io::Error::other(status));
    }
    let mut header = String::new();
    while header != "\r\n" {
        header.clear();
        reader.read_line(&mut header)?;
    }
    send(&mut socket, input)?;
    receive(&mut reader)
}

/// Sends `input` as one message. A client must mask; a mask of zeros changes nothing.
fn send(socket: &mut TcpStream, input: &str) -> io::Result<()> {
    let length = u16::try_from(input.len() + 1).map_err(io::Error::other)?;
    let mut frame = vec![BINARY, MASKED | 126];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.push(STDIN);
    frame.extend(input.as_bytes());
    socket.write_all(&frame)
}

fn receive(reader: &mut impl Read) -> io::Result<Ended> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut code = None;
    while code.is_none() {
        let (kind, message) = frame(reader)?;
        let Some((channel, text)) = message.split_first() else {
            continue;
        };
        match (kind, *channel) {
            (CLOSE, _) => break,
            (_, STDOUT) => stdout.extend_from_slice(text),
            (_, STDERR) => stderr.extend_from_slice(text),
            (_, RESULT) => code = Some(exit_code(text)?),
            (_, channel) => return Err(io::Error::other(format!("channel {channel}"))),
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = code.ok_or_else(|| io::Error::other("closed without a result"))?;
    Ok(Ended {
        stdout: text(stdout),
        stderr: text(stderr),
        code,
    })
}

fn frame(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    reader.read_exact(&mut head)?;
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length)?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            reader.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        length => u64::from(length),
    };
    let mut message = Vec::new();
    reader.take(length).read_to_end(&mut message)?;
    Ok((head[0] & 0xf, message))
}

/// The code in a `Status` object: none on success, a cause named `ExitCode` otherwise.
fn exit_code(status: &[u8]) -> io::Result<i32> {
    let status: serde_json::Value = serde_json::from_slice(status)?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes
        .into_iter()
        .flatten()
        .find(|cause| cause["reason"] == "ExitCode");
    let code = code.and_then(|cause| cause["message"].as_str()?.parse().ok());
    code.ok_or_else(|| io::Error::other(status.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_ends_the_stream_with_the_programs_code() {
        let result =
            br#"{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        let length = u8::try_from(result.len() + 1).unwrap();
        let mut bytes = vec![BINARY, 3, STDOUT, b'h', b'i', BINARY, length, RESULT];
        bytes.extend_from_slice(result);
        let ended = receive(&mut bytes.as_slice()).unwrap();
        assert_eq!(
            ended,
            Ended {
                stdout: "hi".to_owned(),
                stderr: String::new(),
                code: 7
            }
        );
    }
}
