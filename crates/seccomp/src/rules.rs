//! What a profile says about each system call number, per architecture.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::{Arch, Error, NEW_LISTENER};

/// Everything the program has to know about one audit architecture.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) arch: Arch,
    /// What to return for numbers that are not in `verdicts`.
    pub(crate) default: u32,
    /// What to return for numbers above every one in the profile.
    pub(crate) beyond: u32,
    pub(crate) verdicts: BTreeMap<u32, Verdict>,
}

/// What happens to one system call: the first rule whose conditions all hold, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) rules: Vec<Rule>,
    pub(crate) otherwise: u32,
}

/// Conditions that must all hold, and the `SECCOMP_RET_*` value if they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) ret: u32,
}

/// One comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// 0 to 5.
    pub(crate) index: u8,
    pub(crate) op: Operator,
    /// The value, or the mask of `SCMP_CMP_MASKED_EQ`.
    pub(crate) value: u64,
    /// What the masked argument must equal.
    pub(crate) masked: u64,
}

pub(crate) const RET_KILL_PROCESS: u32 = 0x8000_0000;
pub(crate) const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7FF0_0000;
const RET_USER_NOTIF: u32 = 0x7FC0_0000;
const RET_LOG: u32 = 0x7FFC_0000;
const RET_ALLOW: u32 = 0x7FFF_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// The tables of every architecture a process of `native` can use, and the names none knows.
pub(crate) fn tables(
    profile: &LinuxSeccomp,
    native: Arch,
) -> Result<(Vec<Table>, Vec<String>), Error> {
    // The native one is always there: a profile without it would kill the container's program.
    let mut archs = BTreeSet::from([native]);
    for arch in profile.architectures().iter().flatten() {
        archs.extend(Arch::parse(*arch, native).filter(|arch| arch.runs_on(native)));
    }
    let default = ret(profile.default_action(), profile.default_errno_ret())?;
    // Every call of the process that has to hand the listener over would wait for an answer.
    if default == RET_USER_NOTIF {
        return Err(Error::Notify("as the default action"));
    }
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    let tables = archs
        .iter()
        .map(|arch| table(*arch, calls, default))
        .collect::<Result<Vec<_>, _>>()?;
    let unknown = calls
        .iter()
        .flat_map(LinuxSyscall::names)
        .filter(|name| {
            archs
                .iter()
                .all(|a| a.number(name).is_none() && a.multiplexed(name).is_none())
        })
        .cloned()
        .collect();
    Ok((tables, unknown))
}

/// `SECCOMP_FILTER_FLAG_*` of a profile. None given means `SPEC_ALLOW`, as runc decided: the
/// mitigation it turns off costs much and has been off by default since Linux 5.16.
pub(crate) fn flags(profile: &LinuxSeccomp) -> Result<u32, Error> {
    let notifies = notifies(profile)?;
    let listener = if notifies { NEW_LISTENER } else { 0 };
    let Some(flags) = profile.flags() else {
        return Ok(FLAG_SPEC_ALLOW | listener);
    };
    flags.iter().try_fold(listener, |bits, flag| {
        Ok(bits
            | match flag {
                Flag::SeccompFilterFlagLog => FLAG_LOG,
                // The kernel takes one of the two; whoever installs it here has one thread.
                Flag::SeccompFilterFlagTsync if notifies => 0,
                Flag::SeccompFilterFlagTsync => FLAG_TSYNC,
                Flag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                Flag::SeccompFilterFlagWaitKillableRecv if notifies => FLAG_WAIT_KILLABLE_RECV,
                // It only means something with a listener.
                Flag::SeccompFilterFlagWaitKillableRecv => {
                    return Err(Error::Flag("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV".into()));
                }
            })
    })
}

/// Whether a call of the profile is answered by a listener.
///
/// `write` cannot be: the process says through it which descriptor the listener is.
fn notifies(profile: &LinuxSeccomp) -> Result<bool, Error> {
    let notify = |call: &&LinuxSyscall| call.action() == Action::ScmpActNotify;
    let calls = profile.syscalls().as_deref().unwrap_or_default();
    let mut names = calls.iter().filter(notify).flat_map(LinuxSyscall::names);
    if names.any(|name| name == "write") {
        return Err(Error::Notify("for write"));
    }
    Ok(calls.iter().any(|call| notify(&call)))
}

fn table(arch: Arch, calls: &[LinuxSyscall], default: u32) -> Result<Table, Error> {
    let mut unconditional = BTreeMap::<u32, u32>::new();
    let mut conditional = BTreeMap::<u32, Vec<Rule>>::new();
    let mut highest = 0;
    for call in calls {
        let ret = ret(call.action(), call.errno_ret())?;
        let alternatives = alternatives(call)?;
        for name in call.names() {
            let own = arch.number(name);
            let multiplexed = arch.multiplexed(name);
            highest = highest
                .max(own.unwrap_or(0))
                .max(multiplexed.map_or(0, |(n, _)| n));
            // A rule that says what the default says anyway costs instructions and, worse,
            // would hide a conditional rule of another action.
            if ret == default {
                continue;
            }
            for conditions in &alternatives {
                if let Some((number, subcall)) = multiplexed {
                    let conditions = through_multiplexer(conditions, subcall);
                    conditional
                        .entry(number)
                        .or_default()
                        .push(Rule { conditions, ret });
                }
                let Some(number) = own else { continue };
                if conditions.is_empty() {
                    unconditional.entry(number).or_insert(ret);
                } else {
                    let conditions = conditions.clone();
                    conditional
                        .entry(number)
                        .or_default()
                        .push(Rule { conditions, ret });
                }
            }
        }
    }
    let verdicts = verdicts(&unconditional, conditional, default);
    Ok(Table {
        arch,
        default,
        beyond: beyond(default),
        verdicts,
    }
    .with_highest(highest))
}

impl Table {
    /// Makes sure that every number up to `highest` gets the default and not [`Table::beyond`].
    fn with_highest(mut self, highest: u32) -> Self {
        let default = Verdict {
            rules: Vec::new(),
            otherwise: self.default,
        };
        self.verdicts.entry(highest).or_insert(default);
        self
    }
}

fn verdicts(
    unconditional: &BTreeMap<u32, u32>,
    conditional: BTreeMap<u32, Vec<Rule>>,
    default: u32,
) -> BTreeMap<u32, Verdict> {
    let mut verdicts: BTreeMap<u32, Verdict> = unconditional
        .iter()
        .map(|(number, ret)| {
            (
                *number,
                Verdict {
                    rules: Vec::new(),
                    otherwise: *ret,
                },
            )
        })
        .collect();
    for (number, rules) in conditional {
        // An unconditional rule wins over conditional ones, whatever they say: libseccomp's way.
        verdicts.entry(number).or_insert(Verdict {
            rules,
            otherwise: default,
        });
    }
    verdicts
}

/// The conditions of one profile entry, as alternatives. All conditions must hold, except that
/// two on the same argument are alternatives: what runc made of it, and profiles rely on it.
fn alternatives(call: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, Error> {
    let args = call.args().as_deref().unwrap_or_default();
    let name = call.names().first().map_or("", String::as_str);
    let conditions = args
        .iter()
        .map(|arg| condition(name, arg))
        .collect::<Result<Vec<_>, _>>()?;
    let distinct: BTreeSet<u8> = conditions.iter().map(|c| c.index).collect();
    if distinct.len() == conditions.len() {
        Ok(vec![conditions])
    } else {
        Ok(conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect())
    }
}

fn condition(name: &str, arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| Error::ArgumentIndex {
        name: name.to_owned(),
        index: arg.index(),
    })?;
    Ok(Condition {
        index,
        op: arg.op(),
        value: arg.value(),
        masked: arg.value_two().unwrap_or(0),
    })
}

/// The call's own first argument is in memory when it comes through a multiplexer, so a
/// condition on it gives way to the one that recognises the call.
fn through_multiplexer(conditions: &[Condition], subcall: u64) -> Vec<Condition> {
    let is_it = Condition {
        index: 0,
        op: Operator::ScmpCmpEq,
        value: subcall,
        masked: 0,
    };
    std::iter::once(is_it)
        .chain(conditions.iter().copied().filter(|c| c.index != 0))
        .collect()
}

fn ret(action: Action, errno: Option<u32>) -> Result<u32, Error> {
    let data = errno.unwrap_or(EPERM);
    if data > 0xFFF {
        return Err(Error::Errno(data));
    }
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => RET_KILL_THREAD,
        Action::ScmpActKillProcess => RET_KILL_PROCESS,
        Action::ScmpActTrap => RET_TRAP,
        Action::ScmpActErrno => RET_ERRNO | data,
        Action::ScmpActTrace => RET_TRACE | data,
        Action::ScmpActLog => RET_LOG,
        Action::ScmpActAllow => RET_ALLOW,
        Action::ScmpActNotify => RET_USER_NOTIF,
    })
}

/// What calls newer than the profile get: a denial would break libc's fallbacks.
fn beyond(default: u32) -> u32 {
    match default {
        RET_ALLOW | RET_LOG => default,
        trace if trace & 0xFFFF_0000 == RET_TRACE => trace,
        _ => RET_ERRNO | ENOSYS,
    }
}
