//! The device rules of v2 as an eBPF program.
