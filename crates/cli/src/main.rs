//! `duet`: runs a Kubernetes Pod manifest on one machine, and builds the images for it.
//!
//! ```text
//! duet run pod.yaml
//!   manifest      what is asked for, or why it is refused
//!   containerd    a private daemon, unless --address names one
//!   run           images, sandbox, containers in order, logs, restarts, the end
//!     cri         the calls, and the manifest in CRI's words
//! duet image build     an image archive without a daemon
//! duet layer           the WebAssembly in an image's layer, for the shim
//! ```
//!
//! Exit status: the pod's (0, or the code of the first container that failed), 128 plus the
//! signal that stopped it, or 125 if `duet` itself failed.
#![forbid(unsafe_code)]

mod containerd;
mod cri;
mod environment;
mod error;
mod expand;
mod image;
mod layer;
mod log;
mod machine;
mod manifest;
mod pause;
mod probe;
mod program;
mod quantity;
mod resources;
mod restart;
mod run;
mod screen;
mod volumes;

use clap::{Parser, Subcommand};
use error::Error;
use std::process::ExitCode;
use std::sync::LazyLock;

/// The version, and the commit if whoever built it said which: `make build` does.
static VERSION: LazyLock<String> = LazyLock::new(|| version(option_env!("DUET_COMMIT")));

/// The exit status of Duet's own failures.
const FAILED: u8 = 125;

/// Runs native and WebAssembly containers in one pod
#[derive(Debug, Parser)]
#[command(version = VERSION.as_str())]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the Pod in a manifest, show its output, and end with its result
    Run(run::Args),
    /// Work with image archives
    #[command(subcommand)]
    Image(ImageVerb),
    #[command(hide = true)]
    Layer(layer::Args),
    /// Be the first process of a sandbox
    #[command(hide = true)]
    Pause,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    Build(image::build::Args),
}

fn version(commit: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match commit.unwrap_or_default() {
        "" => version.to_owned(),
        commit => format!("{version} ({commit})"),
    }
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            let wrong = error.use_stderr();
            // If neither stream takes the text there is nobody to tell.
            drop(error.print());
            return ExitCode::from(if wrong { FAILED } else { 0 });
        }
    };
    let result = match command.verb {
        Verb::Run(args) => attend(run::run(args)),
        Verb::Image(ImageVerb::Build(args)) => image::build::build(args).map(|()| 0),
        Verb::Layer(args) => attend(layer::run(args)),
        Verb::Pause => pause::run(),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            screen::step("duet", &error.chain());
            ExitCode::from(FAILED)
        }
    }
}

/// Does the work on a runtime of one thread: it waits far more than it works.
fn attend(work: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| Error::System {
        action: "could not start the runtime",
        source,
    })?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::Command;
    use clap::{ArgAction, CommandFactory as _};

    #[test]
    fn options_that_may_be_given_again_say_so_and_no_others() {
        fn check(command: &clap::Command) -> usize {
            let mut repeatable = 0;
            for option in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let again = matches!(option.get_action(), ArgAction::Append);
                let help = option.get_help().map(ToString::to_string);
                let said = help.is_some_and(|help| help.contains("; repeatable"));
                assert_eq!(said, again, "{} {option}", command.get_name());
                repeatable += usize::from(again);
            }
            let below = command.get_subcommands().filter(|verb| !verb.is_hide_set());
            repeatable + below.map(check).sum::<usize>()
        }
        assert_eq!(check(&Command::command()), 8);
    }

    #[test]
    fn the_version_says_the_commit_if_there_is_one() {
        let version = super::version(Some("0123abc"));
        assert!(version.ends_with(" (0123abc)"), "{version}");
        for none in [Some(""), None] {
            assert_eq!(super::version(none), env!("CARGO_PKG_VERSION"));
        }
    }

    #[test]
    fn the_help_of_run_says_what_the_code_does() {
        let mut command = Command::command();
        let run = command.find_subcommand_mut("run").unwrap();
        let help = run.render_help().to_string();
        for said in [
            format!("or {} for a failure", super::FAILED),
            format!("containerd {} or later", crate::containerd::OLDEST),
            "/var/lib/duet/cache".to_owned(),
        ] {
            assert!(help.contains(&said), "{said:?} is not in: {help}");
        }
    }
}
