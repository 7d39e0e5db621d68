//! What a runner and its shim say to each other of a listening socket that outlives its server.
//!
//! ```text
//!   runner                        shim
//!   KEEP, with its listener  ---> YES: it is kept for a successor; NO: it is not
//!   FIND                     ---> YES, with the one that is kept for this address; NO: there is none
//! ```
//!
//! Each is a message of one byte over a `SOCK_SEQPACKET` pair, and each wish has one answer. Which address is
//! meant nobody says: the shim has read it where the runner has it from ([`Handoff::serves_at`](crate::Handoff::serves_at)).

/// Keep this listener.
pub const KEEP: u8 = b'k';

/// Is there a listener?
pub const FIND: u8 = b'f';

/// The wish is granted.
pub const YES: u8 = b'y';

/// The wish is not granted.
pub const NO: u8 = b'n';
