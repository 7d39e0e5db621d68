//! The sockets a wasm container is born with: who gets them, and where they listen.

use std::net::SocketAddr;

use duet_spec::Container;
use duet_spec::annotations::CONTAINER_TYPE;
use duet_wasm::Format;

use crate::error::Error;
use crate::kind::Kind;

/// The variable of a container's environment that names them as the annotation does.
///
/// CRI gives a pod's annotations to all its containers, and only one can listen at an address.
const VARIABLE: &str = "DUET_LISTEN";

/// The addresses at which `kind` is to find open sockets: the annotation's, else the environment's.
pub(crate) fn addresses(spec: &Container, kind: &Kind) -> Result<Vec<SocketAddr>, Error> {
    let listen = &spec.options.listen;
    let why = match kind {
        Kind::Wasm(guest) => match guest.format {
            Format::Module if listen.is_empty() => return variable(&spec.process.env),
            Format::Module => return Ok(listen.clone()),
            Format::Component => "a component opens its sockets itself",
        },
        Kind::Native => "a native program opens its sockets itself",
    };
    // What is said of a pod is said to those whom it fits.
    match listen.first() {
        Some(address) if !spec.annotations.contains_key(CONTAINER_TYPE) => Err(Error::Invalid {
            field: "annotations.io.containerd.duet.v1.listen",
            value: address.to_string(),
            why,
        }),
        Some(_) | None => Ok(Vec::new()),
    }
}

fn variable(env: &[String]) -> Result<Vec<SocketAddr>, Error> {
    let value = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix(VARIABLE)?.strip_prefix('='));
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(Vec::new());
    };
    let address = |address: &str| address.trim().parse().ok();
    value
        .split(',')
        .map(address)
        .collect::<Option<_>>()
        .ok_or_else(|| Error::Invalid {
            field: "process.env DUET_LISTEN",
            value: value.to_owned(),
            why: "is not a list of IP:port, such as 127.0.0.1:9000,[::1]:9000 (no host names)",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[&str]) -> Result<Vec<String>, String> {
        let env: Vec<_> = env.iter().map(|&entry| entry.to_owned()).collect();
        match variable(&env) {
            Ok(addresses) => Ok(addresses.iter().map(SocketAddr::to_string).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_environment_names_addresses() {
        assert_eq!(read(&["A=B"]), Ok(vec![]));
        assert_eq!(read(&["DUET_LISTEN="]), Ok(vec![]));
        assert_eq!(read(&["DUET_LISTENERS=x"]), Ok(vec![]));
        let two = ["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()];
        assert_eq!(
            read(&["DUET_LISTEN=127.0.0.1:1, [::1]:2"]),
            Ok(two.to_vec())
        );
    }

    #[test]
    fn what_is_no_address_is_named() {
        let words = "process.env DUET_LISTEN \"localhost:1\": is not a list of IP:port, such as 127.0.0.1:9000,[::1]:9000 (no host names)";
        assert_eq!(read(&["DUET_LISTEN=localhost:1"]), Err(words.to_owned()));
    }
}
