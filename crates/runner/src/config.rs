//! `wasi:config`: names and values from the annotations of the container, and below them its environment.

use std::sync::OnceLock;

use duet_wasm::Handoff;
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};

use crate::guest::Guest;

/// The same for all instances of this process, none of which can change it.
static VALUES: OnceLock<WasiConfigVariables> = OnceLock::new();

/// Keeps what `handoff` says, for a component that will ask.
pub(crate) fn remember(handoff: &Handoff) {
    let annotated = handoff
        .config
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let all = handoff.variables().chain(annotated);
    // Of a name that is given twice, the last value counts.
    VALUES.get_or_init(|| all.collect());
}

/// What an instance is told.
pub(crate) fn view(_: &mut Guest) -> WasiConfig<'_> {
    VALUES.get_or_init(WasiConfigVariables::new).into()
}
