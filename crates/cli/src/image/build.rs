//! `duet image build`: an image of one layer from files of this machine.

use super::archive::{self, Config};
use super::layer::Layer;
use super::{libraries, name};
use crate::error::Error;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Writes an image archive that `ctr images import` and `duet run --image` take
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive to write
    #[arg(short, long, value_name = "FILE.tar")]
    output: PathBuf,
    /// The image's name
    #[arg(long)]
    name: String,
    /// A file or directory: SOURCE:TARGET, with an octal mode SOURCE:TARGET:MODE
    #[arg(long = "file", value_name = "SOURCE:TARGET[:MODE]")]
    files: Vec<Copied>,
    /// An empty directory: TARGET, with an octal mode TARGET:MODE
    #[arg(long = "dir", value_name = "TARGET[:MODE]")]
    directories: Vec<Made>,
    /// A symbolic link: TARGET=POINTS_TO
    #[arg(long = "link", value_name = "TARGET=POINTS_TO")]
    links: Vec<Assigned>,
    /// Add the shared libraries that the given programs need
    #[arg(long)]
    with_libraries: bool,
    /// One word of the entrypoint; repeat it for more
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// One word of the default arguments; repeat it for more
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A variable: NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<Assigned>,
    /// The user: UID, UID:GID or a name
    #[arg(long)]
    user: Option<String>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// The operating system and architecture, such as wasi/wasm
    #[arg(long, value_name = "OS/ARCH", default_value = archive::PLATFORM)]
    platform: String,
}

/// `SOURCE:TARGET[:MODE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copied {
    source: PathBuf,
    target: PathBuf,
    mode: Option<u32>,
}

/// `TARGET[:MODE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    target: PathBuf,
    mode: u32,
}

/// `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assigned {
    name: String,
    value: String,
}

// === impl Copied ===

impl FromStr for Copied {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, rest) = text
            .split_once(':')
            .ok_or("expected SOURCE:TARGET or SOURCE:TARGET:MODE")?;
        let (target, mode) = match rest.split_once(':') {
            Some((target, mode)) => (target, Some(octal(mode)?)),
            None => (rest, None),
        };
        Ok(Self {
            source: PathBuf::from(source),
            target: absolute(target)?,
            mode,
        })
    }
}

// === impl Made ===

impl FromStr for Made {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, mode) = match text.split_once(':') {
            Some((target, mode)) => (target, octal(mode)?),
            None => (text, 0o755),
        };
        Ok(Self {
            target: absolute(target)?,
            mode,
        })
    }
}

// === impl Assigned ===

impl FromStr for Assigned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
            Some(_) | None => Err("expected NAME=VALUE".to_owned()),
        }
    }
}

fn octal(mode: &str) -> Result<u32, String> {
    u32::from_str_radix(mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("{mode:?} is no octal mode"))
}

fn absolute(target: &str) -> Result<PathBuf, String> {
    if target.starts_with('/') {
        Ok(PathBuf::from(target))
    } else {
        Err(format!("{target:?} is no absolute path"))
    }
}

/// Builds the image and writes the archive.
pub(crate) fn build(args: Args) -> Result<(), Error> {
    let (os, architecture) = args.platform.split_once('/').ok_or_else(|| {
        Error::Argument(format!("--platform {}: expected OS/ARCH", args.platform))
    })?;
    name::check(&args.name).map_err(|why| Error::Argument(format!("--name {why}")))?;
    let mut layer = Layer::new();
    for made in &args.directories {
        layer.directory(&made.target, made.mode)?;
    }
    let mut placed = BTreeSet::new();
    for copied in &args.files {
        layer.add(&copied.source, &copied.target, copied.mode)?;
        placed.insert(copied.target.clone());
    }
    if args.with_libraries {
        for copied in args.files.iter().filter(|copied| copied.source.is_file()) {
            for library in libraries::needed(&copied.source)? {
                if placed.insert(library.clone()) {
                    layer.add(&library, &library, None)?;
                }
            }
        }
    }
    for link in &args.links {
        layer.link(Path::new(&link.name), Path::new(&link.value))?;
    }
    let config = Config {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        entrypoint: args.entrypoint,
        cmd: args.cmd,
        env: args
            .env
            .iter()
            .map(|variable| format!("{}={}", variable.name, variable.value))
            .collect(),
        user: args.user.unwrap_or_default(),
        workdir: args.workdir.unwrap_or_default(),
    };
    let bytes = archive::bytes(&name::full(&args.name), &config, layer.finish()?)?;
    std::fs::write(&args.output, bytes).map_err(Error::at("could not write", &args.output))
}

#[cfg(test)]
mod tests {
    use super::{Copied, Made};
    use std::path::PathBuf;

    #[test]
    fn copies_are_read() {
        let copied: Copied = "a:/b:0755".parse().unwrap();
        assert_eq!(copied.source, PathBuf::from("a"));
        assert_eq!(copied.target, PathBuf::from("/b"));
        assert_eq!(copied.mode, Some(0o755));
        assert!("a".parse::<Copied>().is_err());
        assert!("a:b".parse::<Copied>().is_err());
        assert!("a:/b:9".parse::<Copied>().is_err());
        assert_eq!("/tmp:1777".parse::<Made>().unwrap().mode, 0o1777);
    }
}
