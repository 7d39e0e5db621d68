//! Which devices a container may use.
