//! The WebAssembly that an image has for a layer: it is in no root file system, and containerd has it.
//!
//! `duet layer` asks; it is run as a program so that the shim need not be a gRPC client.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use duet_linux::{channel, memfd, process};
use duet_wasm::{HEAD, detect};

use crate::error::WasmError;

/// How long containerd may take to hand a layer over: 15 s. Create has two minutes, of which the compiler
/// may take 100 s.
const LIMIT: Duration = Duration::from_secs(15);

/// The exit status that says that there is none.
const NONE: i32 = 3;

/// How much of what it says is repeated: 4 KiB.
const SENTENCE: u64 = 4096;

/// Where layers come from.
#[derive(Debug)]
pub(crate) struct Layers {
    /// `duet`.
    pub(crate) program: PathBuf,
    /// containerd's socket.
    pub(crate) address: String,
    /// containerd's namespace.
    pub(crate) namespace: String,
}

// === impl Layers ===

impl Layers {
    /// The WebAssembly layer of a container's image, if it has one. Blocks. The caller keeps the reaper
    /// from the child.
    pub(crate) fn of(&self, container: &str) -> Result<Option<File>, WasmError> {
        let failed = |source| WasmError::File {
            step: "run",
            path: self.program.clone(),
            source,
        };
        let refuse = |why| {
            Err(WasmError::Layer {
                container: container.to_owned(),
                why,
            })
        };
        // Under the command line of OCI runtimes there is no containerd.
        if self.address.is_empty() {
            return Ok(None);
        }
        match self.ask(container) {
            Ok(Answer::Layer(layer)) => unfit(&layer).map_or(Ok(Some(layer)), refuse),
            Ok(Answer::Refusal(why)) => refuse(why),
            Ok(Answer::None(why)) => {
                if !why.is_empty() {
                    tracing::warn!(container, why, "containerd was not asked for a layer");
                }
                Ok(None)
            }
            // A node without it has no images of that kind; the program is missing all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let program = self.program.display();
                tracing::warn!(container, %error, %program, "containerd was not asked for a layer");
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn ask(&self, container: &str) -> io::Result<Answer> {
        // Neither the layer nor what is said about it can fill a pipe that nobody reads meanwhile.
        let (layer, said) = (file("duet-layer")?, file("duet-layer-says")?);
        let mut child = Command::new(&self.program)
            .arg("layer")
            .args(["--address", &self.address])
            .args(["--namespace", &self.namespace])
            .args(["--container", container])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(layer.try_clone()?)
            .stderr(said.try_clone()?)
            .spawn()?;
        let ended = i32::try_from(child.id())
            .map_err(io::Error::other)
            .and_then(process::pidfd_open)
            .and_then(|pidfd| channel::readable(pidfd, Instant::now() + LIMIT));
        if !matches!(ended, Ok(true)) {
            // It may have ended just now, which is as good.
            child.kill()?;
        }
        let status = child.wait()?;
        if !ended? {
            let why = format!("containerd did not hand it over in {} s", LIMIT.as_secs());
            return Ok(Answer::Refusal(why));
        }
        Ok(match status.code() {
            Some(0) => Answer::Layer(layer),
            Some(NONE) => Answer::None(text(said)?),
            code => {
                let code = code.unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
                let why = text(said)?;
                Answer::Refusal(if why.is_empty() {
                    format!("duet ended with {code}")
                } else {
                    why
                })
            }
        })
    }
}

/// What `duet layer` says.
enum Answer {
    Layer(File),
    /// There is none; and why it could not be asked for, if that is so.
    None(String),
    /// There is one that cannot be run, or that cannot be had.
    Refusal(String),
}

/// The beginning of what a program wrote.
fn text(mut said: File) -> io::Result<String> {
    let mut text = Vec::new();
    said.rewind()?;
    said.take(SENTENCE).read_to_end(&mut text)?;
    // The last character may be cut.
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Why a layer of such a type is none to run: code that was compiled elsewhere, for one.
fn unfit(layer: &File) -> Option<String> {
    let mut head = [0; HEAD];
    let read = layer.read_at(&mut head, 0).unwrap_or(0);
    let head = head.get(..read).unwrap_or_default();
    if detect(head).is_some() {
        return None;
    }
    let hex: Vec<_> = head.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!(
        "no WebAssembly, it begins with {:?}",
        hex.join(" ")
    ))
}

fn file(name: &str) -> io::Result<File> {
    Ok(memfd::empty(name)?.into())
}
