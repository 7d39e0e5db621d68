//! The network devices of a container, from the pause of its birth to the moment when it is served.

use std::sync::PoisonError;

use super::Linux;
use crate::error::Error;
use crate::net_devices::{self, HandedOver};

impl Linux {
    /// Gives the process `pid`, which is the container's first, what it asks for.
    pub(super) fn hand_over_net_devices(&self, pid: i32) -> Result<(), Error> {
        if self.spec.net_devices.is_empty() {
            return Ok(());
        }
        let handed = net_devices::hand_over(&self.spec.net_devices, pid)?;
        self.handed(|kept| *kept = Some(handed));
        Ok(())
    }

    /// They are the container's, and end with its network.
    pub(super) fn keep_net_devices(&self) {
        self.handed(|kept| drop(kept.take()));
    }

    /// There will be no container.
    pub(super) fn return_net_devices(&self) {
        if let Some(mut handed) = self.handed(Option::take) {
            handed.give_back();
        }
    }

    fn handed<T>(&self, work: impl FnOnce(&mut Option<HandedOver>) -> T) -> T {
        let kept = self.net_devices.lock();
        work(&mut kept.unwrap_or_else(PoisonError::into_inner))
    }
}
