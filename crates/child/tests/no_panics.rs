//! The child half has no way to panic: its compiled code names none of the functions that do.
#![cfg(not(debug_assertions))]

use std::fs;

/// Every panic goes through a function of `core::panicking` or its kin.
const WAYS: [&[u8]; 3] = [b"9panicking", b"unwrap_failed", b"expect_failed"];

/// Without optimisation every slice pattern still carries its check, so this runs with
/// `--release` only.
#[test]
fn no_object_of_the_library_names_a_panic() {
    // Linked, so that the library is built as it is for the shim.
    let _ = duet_child::Code::FIRST_OWN;
    let deps = std::env::current_exe().unwrap();
    let deps = fs::read_dir(deps.parent().unwrap()).unwrap();
    let libraries = deps.map(|entry| entry.unwrap()).filter(|entry| {
        let name = entry.file_name().into_string().unwrap();
        name.starts_with("libduet_child-") && name.ends_with(".rlib")
    });
    let newest = libraries.max_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
    let library = fs::read(newest.unwrap().path()).unwrap();
    for way in WAYS {
        let found = library.windows(way.len()).any(|bytes| bytes == way);
        assert!(!found, "{}", String::from_utf8_lossy(way));
    }
}
