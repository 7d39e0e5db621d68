//! Containers through `ctr`, containerd's own client.

use std::process::Command;
use std::time::Duration;

use crate::command::{self, Outcome, Running};
use crate::machine::Runtime;
use crate::node::Node;
use crate::{image, wait};

/// A container that is about to be run.
#[derive(Debug, Clone)]
pub struct Container<'n> {
    node: &'n Node,
    id: String,
    runtime: Runtime,
    image: String,
    options: Vec<String>,
    args: Vec<String>,
}

/// A container that runs, with its `ctr run` in the foreground.
#[derive(Debug)]
pub struct Task<'n> {
    node: &'n Node,
    id: String,
    client: Running,
}

// === impl Container ===

impl<'n> Container<'n> {
    pub(crate) fn new(node: &'n Node, id: &str) -> Self {
        Self {
            node,
            id: id.to_owned(),
            runtime: node.runtime(),
            image: image::BUSYBOX.to_owned(),
            options: Vec::new(),
            args: Vec::new(),
        }
    }

    /// Chooses another runtime than the node's.
    #[must_use]
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// Chooses another image than busybox.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        image.clone_into(&mut self.image);
        self
    }

    /// Adds options of `ctr run`.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Sets the program and its arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// Sets a shell script as the program.
    #[must_use]
    pub fn script(self, script: &str) -> Self {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Sets a job of the guest `probe` as the program.
    #[must_use]
    pub fn probe(self, args: &[&str]) -> Self {
        self.image(image::GUESTS)
            .args(&[&["/probe.wasm"], args].concat())
    }

    /// Runs it to its end, in the foreground.
    #[must_use]
    pub fn run(&self) -> Outcome {
        command::run(&mut self.command("--rm"))
    }

    /// As [`Container::run`], with `input` on its standard input.
    #[must_use]
    pub fn run_with_input(&self, input: &[u8]) -> Outcome {
        command::run_with_input(&mut self.command("--rm"), input)
    }

    /// Starts it in the foreground of a client that goes on.
    ///
    /// # Panics
    ///
    /// When the container does not begin to run.
    #[must_use]
    pub fn start(&self) -> Task<'n> {
        let client = command::start(&mut self.command("--rm"));
        let task = Task {
            node: self.node,
            id: self.id.clone(),
            client,
        };
        wait::until(&format!("{} to run", self.id), || {
            // Most programs say something at once, and looking costs nothing; a client does.
            if task
                .client
                .said_within(Duration::from_millis(100) * wait::slowness())
            {
                return Some(());
            }
            if task.status().as_deref() == Some("RUNNING") {
                return Some(());
            }
            assert!(
                !task.client.stderr().contains("ctr: "),
                "{} did not start: {}",
                self.id,
                task.client.stderr()
            );
            None
        });
        task
    }

    /// The whole `ctr run` command.
    #[must_use]
    pub fn command(&self, mode: &str) -> Command {
        let mut command = self.node.daemon().ctr(self.node.namespace());
        command
            .args(["run", mode, "--runtime", self.runtime.name()])
            .args(self.node.cgroup_of(&self.id))
            .args(&self.options)
            .args([&self.image, &self.id])
            .args(&self.args);
        command
    }
}

// === impl Task ===

impl Task<'_> {
    /// The word `ctr task ls` has for its state; `None` when it is not listed.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        self.row().map(|row| row[2].clone())
    }

    /// The process id of its program.
    ///
    /// # Panics
    ///
    /// When the task is gone.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let row = self.row().unwrap_or_else(|| panic!("no task {}", self.id));
        row[1].parse().expect("the second column is a pid")
    }

    /// `ctr task WORD ARGS.. ID`.
    #[must_use]
    pub fn ctr(&self, word: &str, args: &[&str]) -> Outcome {
        let words = [&["task", word], args, &[&self.id]].concat();
        self.node.ctr(&words)
    }

    /// Runs a second program in the container.
    #[must_use]
    pub fn exec(&self, options: &[&str], args: &[&str]) -> Outcome {
        self.node.ctr(
            &[
                &["task", "exec", "--exec-id", "x"],
                options,
                &[&self.id],
                args,
            ]
            .concat(),
        )
    }

    /// Sends a signal to the program, by `ctr`'s word for it.
    ///
    /// # Panics
    ///
    /// When `ctr` fails.
    pub fn kill(&self, signal: &str) {
        let _sent = self.ctr("kill", &["--signal", signal]).ok();
    }

    /// Waits until it has said `needle` on its standard output.
    ///
    /// # Panics
    ///
    /// When it ends without.
    pub fn says(&mut self, needle: &str) {
        self.client.says(needle);
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.client.stdout()
    }

    /// The process id of the `ctr run` that waits for it.
    #[must_use]
    pub fn client(&self) -> &Running {
        &self.client
    }

    /// Waits for its end.
    #[must_use]
    pub fn wait(self) -> Outcome {
        self.client.wait()
    }

    /// Ends it by SIGKILL and waits.
    ///
    /// # Panics
    ///
    /// When it ended in another way before.
    pub fn end(self) {
        self.kill("SIGKILL");
        assert_eq!(self.wait().code, 137);
    }

    fn row(&self) -> Option<Vec<String>> {
        let table = self.node.ctr(&["task", "ls"]).ok().stdout;
        table
            .lines()
            .map(|line| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .find(|row| row.len() == 3 && row[0] == self.id)
    }
}
