//! Whether a container that ended is started again, and when: the kubelet's rules.

use std::time::Duration;

/// The back-off before the second restart, unless `--restart-base` says otherwise: 10 s.
///
/// The first restart is immediate; from the second on the kubelet waits this long, then
/// twice as long each time (`pkg/kubelet/kubelet.go`, `backOffPeriod`).
pub(crate) const BASE: Duration = Duration::from_secs(10);

/// The longest back-off: 300 s, `MaxContainerBackOff` of the kubelet.
const LONGEST: Duration = Duration::from_secs(300);

/// A container that ran this long starts from the beginning again: twice [`LONGEST`].
const FORGIVEN: Duration = Duration::from_secs(600);

/// What the manifest says about restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before what stands below it starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts among them and stays.
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// What happens after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is started again after this long.
    Restart(Duration),
    /// It stays ended.
    Done,
}

/// How often a container has failed lately.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restarts {
    policy: Policy,
    base: Duration,
    wait: Option<Duration>,
}

// === impl Policy ===

impl Policy {
    /// The pod's policy, from the text of the manifest.
    pub(crate) fn named(name: Option<&str>) -> Option<Self> {
        Some(match name {
            None | Some("Always") => Self::Always,
            Some("OnFailure") => Self::OnFailure,
            Some("Never") => Self::Never,
            Some(_) => return None,
        })
    }

    /// What the pod's policy means for a container of this role.
    pub(crate) fn of(self, role: Role) -> Self {
        match (role, self) {
            (Role::Sidecar, _) => Self::Always,
            // An init container that succeeded is never run again.
            (Role::Init, Self::Always) => Self::OnFailure,
            (Role::Init | Role::Main, policy) => policy,
        }
    }
}

// === impl Restarts ===

impl Restarts {
    pub(crate) fn new(policy: Policy, base: Duration) -> Self {
        Self {
            policy,
            base,
            wait: None,
        }
    }

    /// Decides after an exit with `code` and a run of length `ran`.
    pub(crate) fn exited(&mut self, code: i32, ran: Duration) -> Next {
        let again = match self.policy {
            Policy::Always => true,
            Policy::OnFailure => code != 0,
            Policy::Never => false,
        };
        if !again {
            return Next::Done;
        }
        if ran >= FORGIVEN {
            self.wait = None;
        }
        let wait = self.wait.unwrap_or(Duration::ZERO);
        self.wait = Some(if wait.is_zero() {
            self.base
        } else {
            wait.saturating_mul(2).min(LONGEST)
        });
        Next::Restart(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::{BASE, Next, Policy, Restarts, Role};
    use std::time::Duration;

    const MOMENT: Duration = Duration::from_secs(1);

    fn waits(restarts: &mut Restarts, times: usize) -> Vec<u64> {
        (0..times)
            .map(|_| match restarts.exited(1, MOMENT) {
                Next::Restart(wait) => wait.as_secs(),
                Next::Done => panic!("not restarted"),
            })
            .collect()
    }

    #[test]
    fn the_back_off_doubles_up_to_five_minutes() {
        let mut restarts = Restarts::new(Policy::Always, BASE);
        assert_eq!(
            waits(&mut restarts, 9),
            [0, 10, 20, 40, 80, 160, 300, 300, 300]
        );
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let mut restarts = Restarts::new(Policy::Always, BASE);
        waits(&mut restarts, 4);
        assert_eq!(
            restarts.exited(1, Duration::from_secs(600)),
            Next::Restart(Duration::ZERO)
        );
        assert_eq!(waits(&mut restarts, 2), [10, 20]);
    }

    #[test]
    fn the_policy_decides_who_comes_back() {
        for (policy, code, again) in [
            (Policy::Always, 0, true),
            (Policy::Always, 1, true),
            (Policy::OnFailure, 0, false),
            (Policy::OnFailure, 137, true),
            (Policy::Never, 0, false),
            (Policy::Never, 1, false),
        ] {
            let next = Restarts::new(policy, BASE).exited(code, MOMENT);
            assert_eq!(next != Next::Done, again, "{policy:?} {code}");
        }
    }

    #[test]
    fn an_init_container_is_retried_but_not_repeated_and_a_sidecar_always_returns() {
        assert_eq!(Policy::Always.of(Role::Init), Policy::OnFailure);
        assert_eq!(Policy::Never.of(Role::Init), Policy::Never);
        assert_eq!(Policy::Never.of(Role::Sidecar), Policy::Always);
        assert_eq!(Policy::Always.of(Role::Main), Policy::Always);
    }
}
