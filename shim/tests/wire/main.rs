//! The shim as containerd meets it: started by flags and a message, asked over its socket.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod execs;
mod gone;
mod life;
mod node;
mod own;
mod parent;
mod protocol;
mod threads;
