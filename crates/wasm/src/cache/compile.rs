//! One run of the compiler, or of the runner for what it loads.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use duet_linux::namespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};

use super::Error;
use super::failure::{Believed, Failed, STOPPED};
use crate::workshop::{MEMORY, Room, SECONDS, TASKS};
use crate::{Format, Preview, Program, WRITE_BLOCKS};

/// How much of what the compiler says is repeated: 4 KiB.
pub(super) const SENTENCE: usize = 4096;

/// What the kernel counts processor time by where it tells programs of it, on both architectures: 10 ms (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// What the two programs that make an entry have in common.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    /// Where they work.
    pub(super) room: Option<&'a Room>,
    /// The module, as its user knows it.
    pub(super) name: &'a str,
    /// What the module may ask for.
    pub(super) preview: Preview,
    /// When they must have ended.
    pub(super) deadline: Instant,
}

/// What became of a program.
enum Outcome {
    /// By itself or a signal, with what it said and the processor time that it used.
    Ended(ExitStatus, String, Duration),
    Late(Duration),
}

// === impl Run ===

impl Run<'_> {
    /// Compiles `module` into `code`. The compiler is gone when this returns.
    pub(super) fn compiler(
        self,
        compiler: &Program,
        mut module: File,
        code: File,
    ) -> Result<(), Failed> {
        let failed = |source| Error::Compiler {
            path: compiler.path().to_owned(),
            source,
        };
        module.rewind().map_err(failed)?;
        let mut command = compiler.command().map_err(failed)?;
        command.stdin(module).stdout(code).env_clear();
        match self.supervise(command).map_err(failed)? {
            Outcome::Ended(status, text, spent) => judge(status, &text, spent, self.name),
            Outcome::Late(waited) => Err(Failed {
                error: Error::Late {
                    name: self.name.to_owned(),
                    waited,
                    what: STOPPED,
                },
                believed: Believed::ForNow,
            }),
        }
    }

    /// Has `runner` load the code in `entry` and write what that fills into `blocks`.
    pub(super) fn runner(
        self,
        runner: &Program,
        format: Format,
        entry: OwnedFd,
        blocks: OwnedFd,
    ) -> Result<(), Error> {
        let outcome = runner.command().and_then(|mut command| {
            command.stdin(entry).stdout(blocks).env_clear();
            command.env(WRITE_BLOCKS, format.as_str());
            self.supervise(command)
        });
        let how = match outcome {
            Ok(Outcome::Ended(status, ..)) if status.success() => return Ok(()),
            Ok(Outcome::Ended(status, text, _)) => format!("ended with {status}: {}", first(&text)),
            Ok(Outcome::Late(waited)) => format!("is still at it after {waited:.1?}"),
            Err(error) => format!("at {} cannot be run: {error}", runner.path().display()),
        };
        Err(Error::Unloadable {
            name: self.name.to_owned(),
            how,
        })
    }

    /// Runs a program to its end or to the deadline, as process 1 of a PID namespace. It is gone
    /// when this returns, and all that it may have started.
    fn supervise(self, mut command: Command) -> io::Result<Outcome> {
        command.current_dir("/").stderr(Stdio::piped());
        command.envs(self.preview.variable());
        if let Some(room) = self.room {
            command.env(TASKS, room.told());
        }
        // Only root can make a namespace; whoever is not has less to lose.
        if !geteuid().is_root() {
            return self.watch(command);
        }
        namespace::aside(|| {
            namespace::set_children_apart()?;
            // Not only spawned in this thread: a program that is to die with its parent dies with the
            // thread that made it.
            self.watch(command)
        })
    }

    fn watch(self, mut command: Command) -> io::Result<Outcome> {
        let began = Instant::now();
        let mut child = command.spawn()?;
        let stderr = child.stderr.take();
        let waited = match stderr {
            Some(stderr) => listen(&child, stderr, self.deadline),
            None => Err(io::Error::other("no pipe")),
        };
        if waited.as_ref().map_or(true, Option::is_none) {
            // It may have ended just now, which is as good.
            child.kill()?;
        }
        // While it is not reaped yet the kernel still has the sum.
        let spent = spent(child.id());
        let status = child.wait()?;
        Ok(match waited? {
            Some(text) => Outcome::Ended(status, text, spent),
            None => Outcome::Late(began.elapsed()),
        })
    }
}

/// Collects what the program says until it ends; `None` if the deadline comes first.
fn listen(child: &Child, mut stderr: ChildStderr, deadline: Instant) -> io::Result<Option<String>> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut text = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [
            PollFd::new(&ended, PollFlags::IN),
            PollFd::new(&stderr, PollFlags::IN),
        ];
        let watched = if open { 2 } else { 1 };
        match poll(fds.get_mut(..watched).unwrap_or_default(), Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [process, pipe] = fds.map(|fd| !fd.revents().is_empty());
        if pipe {
            let mut buffer = [0; 1024];
            let read = stderr.read(&mut buffer)?;
            open = read > 0;
            text.extend(
                buffer
                    .iter()
                    .take(read.min(SENTENCE - text.len().min(SENTENCE))),
            );
        } else if process {
            return Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()));
        }
    }
}

/// The processor time that a child has used on all threads; nothing if the kernel does not say.
///
/// # References
///
/// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html), `utime` and `stime`: the twelfth and
/// the thirteenth field behind the name.
fn spent(child: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    // The name is in parentheses, and may have some.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = fields.flat_map(str::parse::<u64>).sum();
    TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// What the compiler's end means.
fn judge(status: ExitStatus, text: &str, spent: Duration, name: &str) -> Result<(), Failed> {
    let name = name.to_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(1), _) if !text.is_empty() => Err(Failed {
            error: Error::Refused {
                name,
                why: text.to_owned(),
            },
            believed: Believed::Always,
        }),
        (Some(code), _) => Err(Failed {
            error: Error::Broken {
                name,
                how: format!("ended with {code}: {}", first(text)),
            },
            // With 2 it says that it cannot work.
            believed: if code == 2 {
                Believed::Not
            } else {
                Believed::ForNow
            },
        }),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            // The kernel counts ticks for the limit, and the sum is of what was between them: 2.8 s of a limit of 3 s,
            // where others computed beside it.
            let is_over = spent >= Duration::from_secs(SECONDS) / 4 * 3;
            let (hint, believed) = match signal {
                // Rust's words for an allocator that has none, twice if two threads say so.
                6 | 11 if text.starts_with("memory allocation of") => (
                    format!(" (out of memory: it may have {} MiB)", MEMORY >> 20),
                    Believed::ForNow,
                ),
                // Its last words are an instruction that traps: `abort` alone does not end process 1.
                6 | 11 => (" (it crashed)".to_owned(), Believed::ForNow),
                9 | 24 if is_over => (
                    format!(" (out of its {SECONDS} s of processor time)"),
                    Believed::ForNow,
                ),
                9 => (
                    " (by somebody, or the node is out of memory)".to_owned(),
                    Believed::Not,
                ),
                25 => (" (too much code)".to_owned(), Believed::ForNow),
                // Only a signal that the kernel itself sends reaches process 1, but for 9.
                1 | 2 | 3 | 15 => (String::new(), Believed::Not),
                _ => (String::new(), Believed::ForNow),
            };
            let how = format!("was ended by signal {signal}{hint}: {}", first(text));
            Err(Failed {
                error: Error::Broken { name, how },
                believed,
            })
        }
    }
}

fn first(text: &str) -> &str {
    text.lines()
        .next()
        .filter(|line| !line.is_empty())
        .unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_killed_is_told_from_one_that_broke_down() {
        let (all, some) = (Duration::from_secs(200), Duration::from_secs(3));
        let over = "(out of its 240 s of processor time): it said nothing";
        let killed = "(by somebody, or the node is out of memory): it said nothing";
        let table = [
            (6, some, "(it crashed): it said nothing", Believed::ForNow),
            (9, all, over, Believed::ForNow),
            (9, some, killed, Believed::Not),
            (11, some, "(it crashed): it said nothing", Believed::ForNow),
            (24, all, over, Believed::ForNow),
            (
                25,
                some,
                "(too much code): it said nothing",
                Believed::ForNow,
            ),
        ];
        for (signal, spent, hint, believed) in table {
            let status = ExitStatus::from_raw(signal);
            let failed = judge(status, "", spent, "/app.wasm").unwrap_err();
            let expected = format!("/app.wasm: the compiler was ended by signal {signal} {hint}");
            assert_eq!(failed.error.to_string(), expected);
            assert_eq!(failed.believed, believed, "{expected}");
        }
        for (signal, believed) in [(15, Believed::Not), (31, Believed::ForNow)] {
            let status = ExitStatus::from_raw(signal);
            let failed = judge(status, "", some, "/app.wasm").unwrap_err();
            let expected = format!("the compiler was ended by signal {signal}: it said nothing");
            assert_eq!(failed.error.to_string(), format!("/app.wasm: {expected}"));
            assert_eq!(failed.believed, believed, "{expected}");
        }
        let words = "memory allocation of memory allocation of 4336 bytes failed";
        let failed = judge(ExitStatus::from_raw(11), words, some, "/app.wasm").unwrap_err();
        let hint = "ended by signal 11 (out of memory: it may have 2048 MiB): memory allocation";
        assert!(failed.error.to_string().contains(hint), "{failed:?}");
        assert_eq!(failed.believed, Believed::ForNow);
    }

    #[test]
    fn the_processor_time_of_who_has_ended_is_known_until_it_is_reaped() {
        // Until it has used a fifth of a second.
        let script = "while read -r all </proc/$$/stat; set -- $all; [ $((${14} + ${15})) -lt 20 ]; do :; done";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).unwrap();
        let used = spent(child.id());
        child.wait().unwrap();
        assert!(used >= Duration::from_millis(200), "{used:?}");
        assert_eq!(spent(child.id()), Duration::ZERO);
    }
}
