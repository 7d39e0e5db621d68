//! The sockets a guest is born with.
//!
//! They are opened by the runner, in the container's own network namespace and with its user's rights: a
//! port below 1024 needs what it needs of a native program.

use std::net::{SocketAddr, TcpListener};

use crate::end::End;

/// Opens a socket at each address.
pub(crate) fn listeners(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, End> {
    let open = |address: &SocketAddr| {
        TcpListener::bind(address)
            .map_err(|error| End::Unstarted(format!("cannot listen on {address}: {error}")))
    };
    addresses.iter().map(open).collect()
}
