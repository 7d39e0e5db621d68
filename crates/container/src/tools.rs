//! The few programs that an exec finds in a wasm container whose image has none: `duet-tools.wasm`,
//! one guest that is the program its first argument names (`crates/wasm/tools`).
//!
//! What is in the image or in a volume comes first. A native container has its own or none, as
//! under runc.

use std::path::Path;

use duet_spec::Process;
use duet_wasm::{Format, HEAD, detect};

use crate::error::WasmError;
use crate::kind::Guest;

/// What it can be.
const NAMES: [&str; 11] = [
    "true", "false", "echo", "env", "sleep", "cat", "ls", "test", "[", "wget", "tar",
];

/// Which of them a process asks for, by its bare name or where systems have it.
pub(crate) fn named(process: &Process) -> Option<&str> {
    let asked = process.args.first()?;
    let name = match asked.rsplit_once('/') {
        None => asked,
        Some((directory, name)) => duet_plan::DEFAULT_PATH
            .split(':')
            .any(|known| known == directory)
            .then_some(name)?,
    };
    NAMES.contains(&name).then_some(name)
}

/// The guest, from the file beside the shim.
pub(crate) fn open(path: &Path, name: &str) -> Result<Guest, WasmError> {
    let failed = |source| WasmError::File {
        step: "open",
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut head = [0; HEAD];
    let read = std::os::unix::fs::FileExt::read_at(&file, &mut head, 0).map_err(failed)?;
    Ok(Guest {
        name: name.to_owned(),
        file,
        // What is none, the compiler refuses with a sentence.
        format: detect(&head[..read]).unwrap_or(Format::Component),
        is_tool: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_and_the_usual_places_are_known() {
        for (asked, name) in [
            ("sleep", Some("sleep")),
            ("/bin/sleep", Some("sleep")),
            ("/usr/bin/[", Some("[")),
            ("/srv/sleep", None),
            ("./sleep", None),
            ("sh", None),
        ] {
            let json = format!(r#"{{"args":["{asked}"],"cwd":"/","user":{{"uid":0,"gid":0}}}}"#);
            let process = Process::parse(json.as_bytes()).unwrap();
            assert_eq!(named(&process), name, "{asked}");
        }
    }
}
