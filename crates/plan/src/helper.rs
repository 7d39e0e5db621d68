//! The birth of a program of the host's that serves a container: a logger, a hook; or of none.

use crate::{Descriptor, Error, Facts, Given, Plan, Program, exec, writer::Writer};
use duet_spec::Container;
use duet_step::{Exec, Reg, Step};

/// A program of the host's.
#[derive(Debug, Clone, Copy)]
pub struct Helper<'a> {
    /// The program: an absolute path.
    pub path: &'a str,
    /// Its arguments, the first is what it is called.
    pub args: &'a [String],
    /// Its environment, the whole of it.
    pub env: &'a [String],
    /// Its working directory: absolute.
    pub cwd: &'a str,
    /// The numbers that it has its descriptors under: the n-th is [`Given::Passed`] n. Those of
    /// 0, 1 and 2 that are not among them are `/dev/null`.
    pub descriptors: &'a [u8],
}

// === impl Helper ===

impl Helper<'_> {
    /// Plans its birth in the caller's own namespaces and cgroup, with what the caller may do.
    ///
    /// It stands at a gate like a container, so that it can be written down before it runs.
    ///
    /// # Errors
    ///
    /// [`Error::TooMuch`].
    pub fn plan(&self) -> Result<Plan, Error> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    /// Plans its birth in a container's cgroup and namespaces. Before the container's pivot the
    /// tree there is the host's, with the container's in it.
    ///
    /// # Errors
    ///
    /// [`Error::TooMuch`].
    pub fn plan_in(&self, container: &Container, facts: &Facts) -> Result<Plan, Error> {
        let mut writer = Writer::new();
        let joined = exec::Joined {
            process: None,
            view: None,
            kind: Program::Native,
        };
        exec::join(&mut writer, container, facts, joined)?;
        self.write(&mut writer);
        writer.finish()
    }

    /// Everything that is to be done where the program is to run.
    fn write(&self, writer: &mut Writer) {
        // A session of its own, so that whatever it starts can be ended with it.
        writer.step(Step::Setsid);
        writer.plan.argv = writer.texts(self.args);
        writer.plan.envp = writer.texts(self.env);
        // Wherever the caller is: what is opened first is the directory it is in.
        let root = writer.text("/");
        writer.step(Step::Chdir(root));
        writer.step(Step::Open(root, Reg::Root));
        for number in (0..3).filter(|number| !self.descriptors.contains(number)) {
            writer.step(Step::Null(number.into()));
        }
        for (given, number) in (0..).zip(self.descriptors) {
            let slot = writer.slot(Descriptor::Given(Given::Passed(given)));
            writer.step(Step::Dup(slot, (*number).into()));
        }
        writer.step(Step::Umask(UMASK));
        if self.cwd != "/" {
            let cwd = writer.text(self.cwd);
            writer.step(Step::Chdir(cwd));
        }
        let program = writer.texts([self.path]);
        writer.step(Step::FindProgram(program));
        let last = self.descriptors.iter().copied().max().unwrap_or(0).max(2);
        writer.step(Step::CloseFrom(u32::from(last) + 1));
        writer.step(Step::Ready);
        writer.step(Step::Gate);
        writer.step(Step::Exec(Exec::Path));
    }
}

/// Plans the birth of a process that stands at its gate and never gets through it: a place in a
/// cgroup for as long as somebody holds the gate. It executes nothing.
///
/// # Errors
///
/// [`Error::TooMuch`].
pub fn placeholder() -> Result<Plan, Error> {
    let mut writer = Writer::new();
    // It keeps no file system busy.
    let root = writer.text("/");
    writer.step(Step::Chdir(root));
    writer.step(Step::Ready);
    writer.step(Step::Gate);
    writer.finish()
}

/// What it would have from containerd, whose services are started with the usual one.
const UMASK: u32 = 0o022;
