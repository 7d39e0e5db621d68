//! `duet image build`: an image of one layer from files of this machine.

use super::archive::{self, Config};
use super::layer::Layer;
use super::{libraries, name};
use crate::error::Error;
use crate::screen::step;
use std::collections::BTreeSet;
use std::path::PathBuf;
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
    /// A file or directory: SOURCE:TARGET, with an octal mode SOURCE:TARGET:MODE; repeatable
    #[arg(long = "file", value_name = "SOURCE:TARGET[:MODE]")]
    files: Vec<Copied>,
    /// An empty directory: TARGET, with an octal mode TARGET:MODE; repeatable
    #[arg(long = "dir", value_name = "TARGET[:MODE]")]
    directories: Vec<Made>,
    /// A symbolic link: TARGET=POINTS_TO; repeatable
    #[arg(long = "link", value_name = "TARGET=POINTS_TO")]
    links: Vec<Linked>,
    /// Add the shared libraries that the given programs need
    #[arg(long)]
    with_libraries: bool,
    /// One word of the entrypoint; repeatable, in order
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// One word of the default arguments; repeatable, in order
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A variable: NAME=VALUE; repeatable
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

/// `TARGET=POINTS_TO`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Linked {
    target: PathBuf,
    points_to: PathBuf,
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

// === impl Linked ===

impl FromStr for Linked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, points_to) = halves(text).ok_or("expected TARGET=POINTS_TO")?;
        Ok(Self {
            target: absolute(target)?,
            points_to: PathBuf::from(points_to),
        })
    }
}

// === impl Assigned ===

impl FromStr for Assigned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = halves(text).ok_or("expected NAME=VALUE")?;
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// What stands before the first `=`, which is something, and what after it.
fn halves(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| !name.is_empty())
}

fn octal(mode: &str) -> Result<u32, String> {
    u32::from_str_radix(mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("{mode:?} is not an octal mode"))
}

fn absolute(target: &str) -> Result<PathBuf, String> {
    if target.starts_with('/') {
        Ok(PathBuf::from(target))
    } else {
        Err(format!("{target:?} is not an absolute path"))
    }
}

/// Builds the image and writes the archive.
pub(crate) fn build(args: Args) -> Result<(), Error> {
    let (os, architecture) = args.platform.split_once('/').ok_or_else(|| {
        Error::Argument(format!("--platform {}: expected OS/ARCH", args.platform))
    })?;
    name::check(&args.name).map_err(|why| Error::Argument(format!("--name {why}")))?;
    if args.files.is_empty() && args.directories.is_empty() && args.links.is_empty() {
        return Err(Error::Argument(
            "nothing would be in the image: none of --file, --dir and --link is given".to_owned(),
        ));
    }
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
        layer.link(&link.target, &link.points_to)?;
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
    let full = name::full(&args.name);
    let bytes = archive::bytes(&full, &config, layer.finish()?)?;
    std::fs::write(&args.output, bytes).map_err(Error::at("could not write", &args.output))?;
    let needs = if config.entrypoint.is_empty() && config.cmd.is_empty() {
        "; whoever runs it has to name a command, for it has no --entrypoint"
    } else {
        ""
    };
    let written = format!("written to {}{needs}", args.output.display());
    step(&format!("image {full}"), &written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Assigned, Copied, Linked, Made};
    use clap::Parser as _;
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

    #[test]
    fn what_has_no_two_halves_is_refused_in_the_words_of_its_option() {
        let link: Linked = "/bin/sh=busybox".parse().unwrap();
        assert_eq!(link.target, PathBuf::from("/bin/sh"));
        assert_eq!(link.points_to, PathBuf::from("busybox"));
        let variable: Assigned = "A=b=c".parse().unwrap();
        assert_eq!(variable.value, "b=c");
        for text in ["a", "=a"] {
            let link = text.parse::<Linked>().unwrap_err();
            assert_eq!(link, "expected TARGET=POINTS_TO");
            let variable = text.parse::<Assigned>().unwrap_err();
            assert_eq!(variable, "expected NAME=VALUE");
        }
        let relative = "bin/sh=busybox".parse::<Linked>().unwrap_err();
        assert_eq!(relative, "\"bin/sh\" is not an absolute path");
    }

    #[test]
    fn an_image_of_nothing_is_refused() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: super::Args,
        }
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.tar");
        let build = |more: &[&str]| {
            let words = ["build", "--name", "a", "--entrypoint", "/a", "--output"];
            let words = words.into_iter().chain(output.to_str());
            let line = Line::try_parse_from(words.chain(more.iter().copied())).unwrap();
            super::build(line.args)
        };
        let error = build(&[]).unwrap_err().to_string();
        assert!(
            error.contains("none of --file, --dir and --link"),
            "{error}"
        );
        assert!(!output.exists());
        for one in [["--dir", "/a"], ["--link", "/a=b"]] {
            build(&one).unwrap();
            std::fs::remove_file(&output).unwrap();
        }
    }
}
