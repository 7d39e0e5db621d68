//! The program: its arguments, environment, descriptors, and where it may be found.

use crate::{Descriptor, Facts, Given, Program, writer::Writer};
use duet_spec::Process;
use duet_step::{Step, Texts};

/// Where a program is looked for when the environment has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of a process: its own, and `HOME` if that is missing or empty.
///
/// `home` is the home directory of its user in the container's `/etc/passwd`; without one it is
/// `/`, as under runc.
#[must_use]
pub fn environment(process: &Process, home: Option<&str>) -> Vec<String> {
    let mut env = process.env.clone();
    let home = || {
        format!(
            "HOME={}",
            home.filter(|home| !home.is_empty()).unwrap_or("/")
        )
    };
    match env.iter_mut().find(|entry| entry.starts_with("HOME=")) {
        Some(entry) if entry == "HOME=" => *entry = home(),
        Some(_) => {}
        None => env.push(home()),
    }
    env
}

/// The environment of a guest: its own, and `HOME` if that is missing and the container's
/// `/etc/passwd` knows one. An image without users has no homes, and its guest gets what is asked for.
#[must_use]
pub fn guest_environment(process: &Process, home: Option<&str>) -> Vec<String> {
    match home {
        Some(home) => environment(process, Some(home)),
        None => process.env.clone(),
    }
}

/// Arguments and environment.
pub(crate) fn words(writer: &mut Writer, process: &Process, facts: &Facts, kind: Program) {
    // The runner shows the guest's arguments in `ps`, and reads its own from the handoff.
    writer.plan.argv = writer.texts(&process.args);
    writer.plan.envp = match kind {
        Program::Native => writer.texts(environment(process, facts.home.as_deref())),
        // The guest's environment is in the handoff; none of it may steer the runner.
        Program::Wasm => writer.texts::<&str>([]),
    };
}

/// 0, 1 and 2.
pub(crate) fn stdio(writer: &mut Writer, process: &Process, facts: &Facts) {
    if process.terminal.is_some() {
        writer.step(Step::ControllingTerminal);
        return;
    }
    let standard = [
        (facts.stdio.stdin, Given::Stdin),
        (facts.stdio.stdout, Given::Stdout),
        (facts.stdio.stderr, Given::Stderr),
    ];
    for (number, (supplied, given)) in (0..).zip(standard) {
        if supplied {
            let slot = writer.slot(Descriptor::Given(given));
            writer.step(Step::Dup(slot, number));
        } else {
            writer.step(Step::Null(number));
        }
    }
}

/// The paths that `args[0]` may mean.
///
/// A name with a slash is a path, relative to the working directory. An empty or relative
/// directory of `PATH` is passed over: it would make the program depend on the working
/// directory, and Go's `exec.LookPath` refuses it too.
pub(crate) fn candidates(writer: &mut Writer, process: &Process) -> Texts {
    let name = process.args.first().map_or("", String::as_str);
    if name.contains('/') {
        return writer.texts([name]);
    }
    let path = process
        .env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(':');
    let absolute = directories.filter(|directory| directory.starts_with('/'));
    let candidates: Vec<String> = absolute
        .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')))
        .collect();
    writer.texts(candidates)
}
