//! The command line, as runc has it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::signal::Signal;

use crate::error::Error;

/// An OCI command line around the births of Duet, for test suites
#[derive(Debug, Parser)]
#[command(name = "duet-oci", version)]
pub(crate) struct Command {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where containers are kept; on a tmpfs
    #[arg(long, global = true, default_value = "/run/duet-oci")]
    pub(crate) root: PathBuf,
    /// Also write errors, and the keeper's warnings, to this file
    #[arg(long, global = true)]
    pub(crate) log: Option<PathBuf>,
    /// How lines of the log look
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Let the keeper log more
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Take only `linux.cgroupsPath` of systemd's form, `slice:prefix:name`
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For containerd and its like.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a container whose program does not run yet
    Create(Create),
    /// Let its program run
    Start { id: String },
    /// Print its state in JSON
    State { id: String },
    /// Send a signal to its first process
    Kill {
        id: String,
        /// A name or a number
        #[arg(default_value = "TERM")]
        signal: String,
        /// To every process of it
        #[arg(short, long)]
        all: bool,
    },
    /// Remove it once it has stopped
    Delete {
        id: String,
        /// Kill it before; no error if it does not exist
        #[arg(short, long)]
        force: bool,
    },
    /// Run a further process in it
    Exec(Exec),
    /// Create, start, wait and delete
    Run(Create),
    /// Be the keeper of a container
    #[command(hide = true)]
    Keep { id: String },
}

/// How a container is made.
#[derive(Debug, Args)]
pub(crate) struct Create {
    pub(crate) id: String,
    /// The folder with `config.json`
    #[arg(short, long, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// A unix socket that is sent the master of the terminal
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the number of its first process to this file
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// `run` returns once the program runs
    #[arg(short, long)]
    pub(crate) detach: bool,
}

/// What a further process is.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    pub(crate) id: String,
    /// `process` of the runtime specification, in JSON
    #[arg(short, long, conflicts_with_all = ["args", "cwd", "env", "user", "tty"])]
    pub(crate) process: Option<PathBuf>,
    /// Its working directory
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// A variable beside those of the container
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// uid, or uid:gid
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// A unix socket that is sent the master of the terminal
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write its number to this file
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Return once the program runs
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required_unless_present = "process")]
    pub(crate) args: Vec<String>,
}

/// The signal that a name (`SIGKILL`, `kill`) or a number means.
pub(crate) fn signal(name: &str) -> Result<u32, Error> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let upper = name.to_uppercase();
    let full = format!("SIG{}", upper.trim_start_matches("SIG"));
    let signal: Signal = full.parse().map_err(|_| Error::Argument {
        field: "signal",
        value: name.to_owned(),
        why: "is not a signal",
    })?;
    Ok((signal as i32).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_many_spellings() {
        for name in ["9", "KILL", "SIGKILL", "kill"] {
            assert_eq!(signal(name).unwrap(), 9, "{name}");
        }
        assert_eq!(
            signal("SIGNONE").unwrap_err().to_string(),
            "signal \"SIGNONE\": is not a signal"
        );
    }

    #[test]
    fn options_stand_before_and_after_the_command() {
        let line = "duet-oci --root /r create --bundle /b a --pid-file /p --log-format json";
        let Command { global, verb } = Command::parse_from(line.split(' '));
        assert_eq!(global.log_format, LogFormat::Json);
        assert!(matches!(verb, Verb::Create(Create { id, .. }) if id == "a"));
        let line = "duet-oci exec a sh -c x";
        let Command { verb, .. } = Command::parse_from(line.split(' '));
        assert!(matches!(verb, Verb::Exec(Exec { args, .. }) if args == ["sh", "-c", "x"]));
    }
}
