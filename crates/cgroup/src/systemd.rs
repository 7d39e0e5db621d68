//! The cgroup as a unit of systemd: what `slice:prefix:name` in `linux.cgroupsPath` asks for.
//!
//! ```text
//!   Scope::start   StartTransientUnit(prefix-name.scope, Slice, Delegate, limits, PIDs = [pid])
//!                  JobRemoved: the cgroup is there, and pid is in it
//!   Scope::update  SetUnitProperties
//!   stop           StopUnit, JobRemoved: the unit is gone
//! ```
//!
//! systemd owns the directory: it makes it, and writes the limits that it knows of whenever it likes
//! (a unit beside it, `daemon-reload`). So it is told of them, and then they are written once more as
//! everywhere else, because it rounds the quota of processors and lacks the rest. A scope needs a process
//! to be made of, which the caller supplies (decision 22).
//!
//! | File | What it holds |
//! | --- | --- |
//! | `scope` | the unit: its name, its path, its life |
//! | `properties` | limits in systemd's words |
//! | `asked`, `variant` | properties that annotations ask for, and their values |
//! | `bus` | the connection, for the time of one request |
//! | `message` | D-Bus, as far as it is needed for that |

mod asked;
mod bus;
mod message;
mod properties;
mod scope;
mod variant;

pub use asked::Property;
pub use scope::{Scope, slice_path, stop};
