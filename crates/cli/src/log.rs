//! Containers' output: the CRI log format, and following its files.

pub(crate) mod follow;
pub(crate) mod line;
