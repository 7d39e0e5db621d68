//! What must hold of every plan, whatever was asked for.

use duet_plan::{Descriptor, Given, Plan};
use duet_step::{Exec, Mount, Program, Reg, Slot, Source, Step, Text, Texts};

/// Checks that every index is in its table, and that the order is one that can work.
#[track_caller]
pub(crate) fn check(plan: &Plan) {
    tables(plan);
    order(plan);
    registers(plan);
}

fn tables(plan: &Plan) {
    let text = |text: Text| {
        let at = text.0 as usize;
        assert!(at < plan.text.len(), "{text:?}");
        assert!(
            at == 0 || plan.text[at - 1] == 0,
            "{text:?} is inside of another string"
        );
    };
    let texts = |texts: Texts| {
        let range = texts.first as usize..(texts.first + texts.len) as usize;
        assert!(range.end <= plan.texts.len(), "{texts:?}");
        plan.texts[range].iter().copied().for_each(text);
    };
    let slot = |slot: Slot| assert!(usize::from(slot.0) < plan.slots.len(), "{slot:?}");
    let source = |source: Source| match source {
        Source::Tree(tree) => slot(tree),
        Source::Host(path) => text(path),
        Source::Made(_) => {}
        Source::Filesystem {
            fstype,
            source,
            options,
        } => {
            text(fstype);
            text(source);
            texts(options);
        }
    };
    assert_eq!(plan.text.last(), Some(&0));
    texts(plan.argv);
    texts(plan.envp);
    assert!(plan.argv.len > 0);
    if let Some(namespace) = plan.pid_namespace {
        slot(namespace);
    }
    for step in &plan.steps {
        match *step {
            Step::Setns(at, _) | Step::Dup(at, _) => slot(at),
            Step::AttachRoot { tree, at, .. } => {
                slot(tree);
                at.into_iter().for_each(text);
            }
            Step::Detached(made, ..) => source(made),
            Step::Mount(Mount {
                source: from,
                target,
                ..
            }) => {
                text(target);
                source(from);
            }
            Step::Node(node) => text(node.path),
            Step::Symlink(_, one, two) | Step::Sysctl(one, two) | Step::Label(one, two) => {
                text(one);
                text(two);
            }
            Step::FindProgram(candidates) => texts(candidates),
            Step::Seccomp(Program { first, len }, _) => {
                assert!(len > 0 && first as usize + usize::from(len) <= plan.programs.len());
            }
            Step::Groups { first, len }
            | Step::Affinity { first, len }
            | Step::MemoryPolicy { first, len, .. } => {
                assert!((first + len) as usize <= plan.groups.len());
            }
            Step::Exec(Exec::Slot(runner)) => slot(runner),
            Step::Open(one, _)
            | Step::HostDir(one)
            | Step::Propagation(one, _)
            | Step::Carry(one)
            | Step::MakeDir(one, ..)
            | Step::Remount(one, ..)
            | Step::ReadOnly(one)
            | Step::Mask(one)
            | Step::TimeNamespace(one)
            | Step::Hostname(one)
            | Step::Domainname(one)
            | Step::OomScoreAdj(one)
            | Step::Keyring(one)
            | Step::JoinCgroup(one)
            | Step::JoinClass(one)
            | Step::Chdir(one) => text(one),
            Step::Await
            | Step::Unshare(_)
            | Step::MappedRoot
            | Step::Fork(_)
            | Step::Loopback
            | Step::Setsid
            | Step::PrivateProc
            | Step::Console { .. }
            | Step::BindConsole
            | Step::ReadOnlyRoot
            | Step::Pause
            | Step::Pivot
            | Step::LockMounts
            | Step::Hold(_)
            | Step::Umask(_)
            | Step::Rlimit { .. }
            | Step::IoPriority(_)
            | Step::Scheduler(_)
            | Step::Personality(_)
            | Step::ControllingTerminal
            | Step::Null(_)
            | Step::NoNewPrivileges
            | Step::User { .. }
            | Step::Bounding(_)
            | Step::Capabilities(_)
            | Step::CloseFrom(_)
            | Step::Ready
            | Step::Gate
            | Step::Exec(Exec::Path) => {}
        }
    }
}

/// Where the steps of a kind are.
fn places(plan: &Plan, kind: impl Fn(&Step) -> bool) -> Vec<usize> {
    plan.steps
        .iter()
        .enumerate()
        .filter(|(_, step)| kind(step))
        .map(|(at, _)| at)
        .collect()
}

fn order(plan: &Plan) {
    let one = |name: &str, kind: &dyn Fn(&Step) -> bool| {
        let found = places(plan, kind);
        assert_eq!(found.len(), 1, "{name} in\n{}", plan.show());
        found[0]
    };
    let exec = one("exec", &|step| matches!(step, Step::Exec(_)));
    let ready = one("ready", &|step| matches!(step, Step::Ready));
    let gate = one("gate", &|step| matches!(step, Step::Gate));
    // The parent gives its word once, and there are no paths of the host behind the pivot.
    let waits = places(plan, |step| matches!(step, Step::Await));
    assert!(waits.len() <= 1, "{}", plan.show());
    let late = |step: &Step| matches!(step, Step::Pivot | Step::Pause | Step::Fork(_));
    let joins = |step: &Step| matches!(step, Step::JoinCgroup(_) | Step::JoinClass(_));
    for at in places(plan, joins) {
        assert!(waits.iter().all(|wait| *wait < at), "{}", plan.show());
        assert!(!plan.steps[..at].iter().any(late), "{}", plan.show());
    }
    let bounding = one("bounding", &|step| matches!(step, Step::Bounding(_)));
    let groups = one("groups", &|step| matches!(step, Step::Groups { .. }));
    let user = one("user", &|step| matches!(step, Step::User { .. }));
    let sets = one("capabilities", &|step| {
        matches!(step, Step::Capabilities(_))
    });
    let close = one("close", &|step| matches!(step, Step::CloseFrom(_)));
    assert_eq!(exec + 1, plan.steps.len());
    assert!(
        bounding < groups
            && groups < user
            && user < sets
            && sets < ready
            && ready < gate
            && gate < exec
    );
    assert!(close < ready);
    for seccomp in places(plan, |step| matches!(step, Step::Seccomp(..))) {
        let promised = places(plan, |step| matches!(step, Step::NoNewPrivileges));
        match promised.first() {
            Some(promise) => {
                let at_the_gate = [ready, gate].contains(&(seccomp - 1));
                assert!(*promise < seccomp && at_the_gate && exec - ready == 3);
            }
            None => assert!(seccomp < bounding),
        }
    }
    for label in places(plan, |step| matches!(step, Step::Label(..))) {
        let narrows = |step: &Step| matches!(step, Step::NoNewPrivileges | Step::Seccomp(..));
        assert!(label < user && places(plan, narrows).into_iter().all(|at| label < at));
    }
    for path in places(plan, |step| matches!(step, Step::FindProgram(_))) {
        assert!(user < path && path < ready);
    }
    let pivot = places(plan, |step| matches!(step, Step::Pivot));
    let touches_the_host = |step: &Step| matches!(step, Step::Mount(_) | Step::AttachRoot { .. });
    for pivot in pivot {
        assert!(
            places(plan, touches_the_host)
                .into_iter()
                .all(|at| at < pivot)
        );
    }
    for lock in places(plan, |step| matches!(step, Step::LockMounts)) {
        // Everything that is mounted is there, and nobody has less than root's rights yet.
        let mounts = |step: &Step| {
            touches_the_host(step) || matches!(step, Step::ReadOnly(_) | Step::Mask(_))
        };
        assert!(places(plan, mounts).into_iter().all(|at| at < lock) && lock < bounding);
    }
    for fork in places(plan, |step| matches!(step, Step::Fork(_))) {
        // Until then everything happens in the host's mount namespace.
        assert_eq!(plan.clone, 0);
        let attaches = |step: &Step| {
            matches!(
                step,
                Step::Propagation(..)
                    | Step::AttachRoot { .. }
                    | Step::Mount(_)
                    | Step::Remount(..)
                    | Step::MakeDir(..)
                    | Step::Pivot
                    | Step::LockMounts
                    | Step::ReadOnlyRoot
                    | Step::ReadOnly(_)
                    | Step::Mask(_)
            )
        };
        assert!(places(plan, attaches).into_iter().all(|at| fork < at));
        let as_host = |step: &Step| {
            matches!(
                step,
                Step::OomScoreAdj(_)
                    | Step::IoPriority(_)
                    | Step::Scheduler(_)
                    | Step::TimeNamespace(_)
                    | Step::Detached(.., Reg::Dev)
            )
        };
        let root = one("root", &|step| matches!(step, Step::MappedRoot));
        assert_eq!(root + 1, fork);
        assert!(places(plan, as_host).into_iter().all(|at| at < root));
    }
    let dups = places(plan, |step| matches!(step, Step::Dup(..)));
    assert!(dups.into_iter().all(|at| at < close));
}

/// Checks that a register is filled before it is used, and a tree is used once.
fn registers(plan: &Plan) {
    let mut filled = Vec::new();
    let mut trees = Vec::new();
    for step in &plan.steps {
        let needs: &[Reg] = match step {
            Step::Mount(_)
            | Step::MakeDir(..)
            | Step::Remount(..)
            | Step::ReadOnlyRoot
            | Step::Pivot
            | Step::ReadOnly(_) => &[Reg::Root],
            Step::Open(_, register) if *register != Reg::Root => &[Reg::Root],
            Step::Mask(_) => &[Reg::Root, Reg::Dev],
            Step::Node(node) => match node.base {
                Reg::Dev => &[Reg::Dev],
                _ => &[Reg::Root],
            },
            Step::Symlink(Reg::Dev, ..) => &[Reg::Dev],
            Step::Symlink(..) | Step::Null(_) => &[Reg::Root],
            Step::Console { .. } => &[Reg::Pts],
            Step::BindConsole => &[Reg::Console, Reg::Dev],
            Step::Carry(_) => &[Reg::Covered, Reg::Dev],
            Step::ControllingTerminal => &[Reg::Console],
            Step::LockMounts => &[Reg::Proc],
            Step::Sysctl(..) | Step::OomScoreAdj(_) | Step::Label(..) | Step::TimeNamespace(_) => {
                &[Reg::Proc]
            }
            _ => &[],
        };
        for register in needs {
            assert!(
                filled.contains(register),
                "{step:?} needs {register:?}\n{}",
                plan.show()
            );
        }
        match step {
            Step::Mount(Mount {
                source: Source::Made(register),
                keep,
                ..
            }) => {
                assert!(filled.contains(register));
                filled.extend(keep);
            }
            Step::AttachRoot { tree, .. } => {
                filled.push(Reg::Root);
                trees.push(*tree);
            }
            Step::Open(_, register) => filled.push(*register),
            Step::PrivateProc => filled.push(Reg::Proc),
            Step::Detached(.., register) => filled.push(*register),
            Step::Console { .. } => filled.push(Reg::Console),
            Step::Mount(mount) => {
                filled.extend(mount.keep);
                if let Source::Tree(tree) = mount.source {
                    trees.push(tree);
                }
            }
            _ => {}
        }
    }
    let used = trees.len();
    trees.sort_unstable();
    trees.dedup();
    assert_eq!(trees.len(), used, "a tree is attached twice");
    for (number, descriptor) in plan.slots.iter().enumerate() {
        let tree = matches!(
            descriptor,
            Descriptor::Tree { .. } | Descriptor::Given(Given::RootTree)
        );
        let slot = Slot(u16::try_from(number).unwrap());
        assert_eq!(
            tree,
            trees.contains(&slot),
            "slot {number} of\n{}",
            plan.show()
        );
    }
}
