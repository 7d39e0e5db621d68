//! Tells the tests which target they were built for: built binaries lie in its folder.

fn main() {
    let target = std::env::var("TARGET").expect("cargo names the target");
    println!("cargo::rustc-env=DUET_HOST_TUPLE={target}");
    println!("cargo::rerun-if-changed=build.rs");
}
