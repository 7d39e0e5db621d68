//! `duet image`: image archives, made and read without a daemon.

pub(crate) mod archive;
pub(crate) mod build;
pub(crate) mod layer;
pub(crate) mod libraries;
pub(crate) mod name;
