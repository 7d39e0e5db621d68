//! Native or wasm: which of the two a container runs, and which rule said so.
//!
//! 1. CRI's sandbox container is native.
//! 2. An annotation decides: Duet's own, then crun's, then the image variant's.
//! 3. The first bytes of the entrypoint decide. If it is in no file, the image may have it for a
//!    layer of its own, which containerd unpacks to nothing. One that cannot be found there either is
//!    native, if it is not called wasm: its birth then fails with the words that a native container's
//!    would.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use duet_linux::{file, kernel};
use duet_plan::Program;
use duet_spec::annotations::{self, Handler};
use duet_spec::{Container, MountKind, Process};
use duet_wasm::{Format, HEAD, detect};

use crate::error::WasmError;

/// What a container runs.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An executable of its own.
    Native,
    /// A guest.
    Wasm(Guest),
}

// === impl Kind ===

impl Kind {
    /// The word that a plan has for it.
    pub(crate) fn program(&self) -> Program {
        match self {
            Kind::Native => Program::Native,
            Kind::Wasm(_) => Program::Wasm,
        }
    }
}

/// A wasm program.
#[derive(Debug)]
pub(crate) struct Guest {
    /// As the container names it.
    pub(crate) name: String,
    /// The file.
    pub(crate) file: File,
    /// Module or component.
    pub(crate) format: Format,
    /// Whether it is Duet's own, which is of preview 2 whatever its container may use.
    pub(crate) is_tool: bool,
}

impl Guest {
    fn of(name: String, file: File, format: Format) -> Self {
        let is_tool = false;
        Self {
            name,
            file,
            format,
            is_tool,
        }
    }
}

/// Whether this is what keeps a pod of CRI: while it is there, the pod is.
pub(crate) fn is_sandbox(spec: &Container) -> bool {
    let kind = spec.annotations.get(annotations::CONTAINER_TYPE);
    kind.is_some_and(|kind| kind == "sandbox")
}

/// Decides, and says which rule did: the value of the `CONTAINER_TYPE` annotation, the name of
/// another annotation, `bytes` or `layer`. What is in no file is asked of `layer`.
pub(crate) fn decide(
    spec: &Container,
    layer: impl FnOnce() -> Result<Option<File>, WasmError>,
) -> Result<(Kind, &'static str), WasmError> {
    if is_sandbox(spec) {
        return Ok((Kind::Native, annotations::CONTAINER_TYPE));
    }
    let (required, mut rule) = match spec.options.handler {
        Some((Handler::Native, rule)) => return Ok((Kind::Native, rule)),
        Some((Handler::Smart, rule)) if !looks_wasm(&spec.process) => {
            return Ok((Kind::Native, rule));
        }
        Some((Handler::Wasm | Handler::Smart, rule)) => (true, rule),
        None => (false, "bytes"),
    };
    let mut found = entrypoint(&spec.process, |path| open(spec, path));
    if found.as_ref().err().is_some_and(kernel::is_absent)
        && let Some(file) = layer()?
    {
        let name = spec.process.args.first().cloned().unwrap_or_default();
        rule = "layer";
        found = Ok((name, file));
    }
    match found {
        Ok((name, file)) => match format(&file) {
            Some(format) => Ok((Kind::Wasm(Guest::of(name, file, format)), rule)),
            None if required => Err(WasmError::NotWasm {
                annotation: rule,
                file: name,
            }),
            None => Ok((native(name, &file)?, rule)),
        },
        Err(source) if required => {
            let path = PathBuf::from(spec.process.args.first().map_or("", String::as_str));
            Err(WasmError::File {
                step: "open",
                path,
                source,
            })
        }
        Err(error) if kernel::is_absent(&error) && is_called_wasm(&spec.process) => {
            let file = spec.process.args.first().cloned().unwrap_or_default();
            Err(WasmError::Absent { file })
        }
        Err(_) => Ok((Kind::Native, rule)),
    }
}

/// Decides what an exec's process runs, whose `args[0]` is looked for where the container's first
/// process, of this number, sees it: mounts that were made since are there, links lead where they
/// lead in there. Nothing where there is no such file.
///
/// The annotation that makes an entrypoint native makes everything in its container native; the
/// others are about the entrypoint alone.
pub(crate) fn of_exec(
    spec: &Container,
    process: &Process,
    first: i32,
) -> Result<Option<Kind>, WasmError> {
    if let Some((Handler::Native, _)) = spec.options.handler {
        return Ok(Some(Kind::Native));
    }
    let root = PathBuf::from(format!("/proc/{first}/root"));
    let found = file::place(&root)
        .and_then(|root| entrypoint(process, |path| file::open_in_root(&root, path)));
    match found {
        Ok((name, file)) => Ok(Some(match format(&file) {
            Some(format) => Kind::Wasm(Guest::of(name, file, format)),
            None => native(name, &file)?,
        })),
        Err(error) if kernel::is_absent(&error) => Ok(None),
        // Its birth says what is wrong with it.
        Err(_) => Ok(Some(Kind::Native)),
    }
}

/// What is not wasm is native, unless it is called wasm and the kernel would say no more of it than
/// "exec format error".
fn native(name: String, file: &File) -> Result<Kind, WasmError> {
    let mut head = [0; HEAD];
    // What cannot be read is for its birth to complain about.
    let Ok(read) = file.read_at(&mut head, 0) else {
        return Ok(Kind::Native);
    };
    let head = &head[..read];
    if !name.ends_with(".wasm") || head.starts_with(b"\x7fELF") || head.starts_with(b"#!") {
        return Ok(Kind::Native);
    }
    let bytes: Vec<String> = head
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let head = match bytes.as_slice() {
        [] => "nothing".to_owned(),
        bytes => bytes.join(" "),
    };
    Err(WasmError::BadMagic { file: name, head })
}

fn looks_wasm(process: &Process) -> bool {
    let name = process.args.first().map_or("", String::as_str);
    is_called_wasm(process) || name.ends_with(".wat")
}

fn is_called_wasm(process: &Process) -> bool {
    let name = process.args.first();
    name.is_some_and(|name| name.ends_with(".wasm"))
}

fn format(file: &File) -> Option<Format> {
    let mut head = [0; HEAD];
    let read = file.read_at(&mut head, 0).ok()?;
    detect(&head[..read])
}

/// Opens what `args[0]` names, as the container would find it: each path with `open`.
fn entrypoint(
    process: &Process,
    open: impl Fn(&Path) -> io::Result<File>,
) -> io::Result<(String, File)> {
    let mut missing = io::Error::from_raw_os_error(ENOENT);
    for name in candidates(process) {
        match open(Path::new(&name)) {
            Ok(file) => return Ok((name, file)),
            Err(error) if error.raw_os_error() == Some(ENOENT) => {}
            Err(error) => missing = error,
        }
    }
    Err(missing)
}

/// `ENOENT`.
const ENOENT: i32 = 2;

/// `ELOOP`.
const ELOOP: i32 = 40;

/// The absolute paths that `args[0]` may mean, in order.
fn candidates(process: &Process) -> Vec<String> {
    let name = process.args.first().map_or("", String::as_str);
    if name.starts_with('/') {
        return vec![name.to_owned()];
    }
    let in_cwd = format!("{}/{name}", process.cwd.trim_end_matches('/'));
    if name.contains('/') {
        return vec![in_cwd];
    }
    let path = process
        .env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="));
    path.unwrap_or(duet_plan::DEFAULT_PATH)
        .split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')))
        .collect()
}

/// Opens a path of the container on the host: in the bind mount that covers it, or in the root
/// filesystem. Nothing leads out of these.
fn open(spec: &Container, path: &Path) -> io::Result<File> {
    if !path.components().any(|part| part == Component::ParentDir) {
        match at(spec, path).and_then(|(root, rest)| file::open_without_links(root, &rest)) {
            Err(error) if error.raw_os_error() == Some(ELOOP) => {}
            opened => return opened,
        }
    }
    let (root, rest) = at(spec, &without_links(spec, path)?)?;
    file::open_without_links(root, &rest)
}

/// The same place by a path without links, as the container would walk it: one of the image's may lead
/// into a volume, and one of a volume's out of it.
fn without_links(spec: &Container, path: &Path) -> io::Result<PathBuf> {
    let mut walked = PathBuf::from("/");
    let mut left = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..=40 {
        let mut names = left.components();
        let link = loop {
            match names.next() {
                None => return Ok(walked),
                Some(Component::ParentDir) => {
                    walked.pop();
                }
                Some(Component::Normal(name)) => {
                    let place = walked.join(name);
                    let (root, rest) = at(spec, &place)?;
                    match file::link_in_root(root, &rest)? {
                        Some(target) => break target,
                        None => walked = place,
                    }
                }
                Some(Component::RootDir | Component::CurDir | Component::Prefix(_)) => {}
            }
        };
        if link.is_absolute() {
            walked = "/".into();
        }
        left = link.join(names.as_path());
    }
    Err(io::Error::from_raw_os_error(ELOOP))
}

/// Where a path of the container is on the host, if there is no link on it: what it is in, and the way
/// from there, empty for a file that is mounted.
fn at(spec: &Container, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let covering = spec
        .mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.destination))
        .enumerate()
        // The longest destination, and of equal ones the last: as the mounts lie on each other.
        .max_by_key(|(index, mount)| (mount.destination.len(), *index));
    let (root, rest) = match covering {
        None => (spec.root.path.as_path(), path),
        Some((_, mount)) => match &mount.kind {
            MountKind::Bind { source, .. } => {
                let rest = path.strip_prefix(&mount.destination).unwrap_or(path);
                (source.as_path(), rest)
            }
            // A new file system holds no program.
            MountKind::Filesystem { .. } | MountKind::Cgroup { .. } => {
                return Err(io::Error::from_raw_os_error(ENOENT));
            }
        },
    };
    // Without the slash in front, a root itself is an empty way.
    let rest = rest.strip_prefix("/").unwrap_or(rest);
    Ok((file::place(root)?, rest.to_owned()))
}

#[cfg(test)]
#[path = "kind/tests.rs"]
mod tests;
