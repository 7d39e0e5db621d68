//! The one `clone3`.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use duet_child::Code;
use duet_linux::clone::{Clone3, clone3};
use duet_linux::{namespace, signals};
use duet_plan::Plan;
use duet_step::Texts;

use crate::Error;
use crate::supplies::Slots;

/// Makes the child; the caller gets its pid and its pidfd.
pub(crate) fn give(
    plan: &Plan,
    slots: &Slots<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    channel: &OwnedFd,
) -> Result<(i32, OwnedFd), Error> {
    // What lies between two texts ends the former; the last ends with the buffer.
    if plan.text.last() != Some(&0) {
        return Err(Error::Plan("its text does not end with NUL"));
    }
    let numbers = slots.numbers();
    let mut keep = numbers.clone();
    keep.push(channel.as_raw_fd());
    keep.sort_unstable();
    keep.dedup();
    let lowered = Lowered {
        plan,
        slots: &numbers,
        keep: &keep,
        cgroup,
        channel: channel.as_raw_fd(),
    };
    let Some(slot) = plan.pid_namespace else {
        return lowered.clone_here();
    };
    let namespace = slots.get(slot);
    let namespace = namespace.ok_or(Error::Plan("its PID namespace is no slot"))?;
    namespace::with_children_in(namespace, || lowered.clone_here()).map_err(Error::call("setns"))?
}

/// A plan and the numbers that its slots have.
struct Lowered<'a> {
    plan: &'a Plan,
    slots: &'a [RawFd],
    keep: &'a [RawFd],
    cgroup: Option<BorrowedFd<'a>>,
    channel: RawFd,
}

// === impl Lowered ===

impl Lowered<'_> {
    fn clone_here(&self) -> Result<(i32, OwnedFd), Error> {
        static IGNORED: OnceLock<u64> = OnceLock::new();
        let plan = self.plan;
        let argv = self.pointers(plan.argv)?;
        let envp = self.pointers(plan.envp)?;
        let code = Code {
            steps: &plan.steps,
            text: &plan.text,
            texts: &plan.texts,
            programs: &plan.programs,
            groups: &plan.groups,
            slots: self.slots,
            argv: &argv,
            envp: &envp,
            channel: self.channel,
            keep: self.keep,
            ignored: *IGNORED.get_or_init(signals::ignored),
        };
        let args = Clone3 {
            namespaces: plan.clone,
            cgroup: self.cgroup,
        };
        // A handler of this process must not run in its copy.
        let blocked = signals::Blocked::all().map_err(Error::call("rt_sigprocmask"))?;
        // SAFETY: `born` goes straight to the child half, which takes no lock, calls no library
        // and does not unwind.
        let child = unsafe { clone3(args, born, &code) };
        drop(blocked);
        child.map_err(Error::call("clone3"))
    }

    /// The array that `execve` takes: a pointer to each text, then null.
    fn pointers(&self, texts: Texts) -> Result<Vec<*const u8>, Error> {
        let broken = Error::Plan("an argument is no text");
        let range = || {
            let first = usize::try_from(texts.first).ok()?;
            let end = first.checked_add(usize::try_from(texts.len).ok()?)?;
            let texts = self.plan.texts.get(first..end)?.iter();
            let pointers = texts.map(|text| {
                let at = usize::try_from(text.0).ok()?;
                self.plan
                    .text
                    .get(at..)
                    .filter(|rest| !rest.is_empty())
                    .map(<[u8]>::as_ptr)
            });
            pointers.chain([Some(ptr::null())]).collect::<Option<_>>()
        };
        range().ok_or(broken)
    }
}

fn born(code: &Code<'_>) -> ! {
    // SAFETY: this is the process that `clone3` made: one thread, its memory a copy. `pointers`
    // ends both arrays with null, and all else in them points into the plan's text, whose last
    // byte is NUL.
    unsafe { duet_child::run(code) }
}
