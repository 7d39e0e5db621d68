//! What stands between the C of a guest and a component.
//!
//!     bind DIRECTORY         generates, for each world, the C of what it imports: DIRECTORY/WORLD/guest.{c,h}
//!     bind DIRECTORY TO      makes a component TO/c-WORLD.wasm of each module DIRECTORY/WORLD/guest.wasm
//!
//! The interfaces are those that wasmtime's crates carry, in the release that Duet is built with, and Duet's own
//! `wasi:keyvalue`. The second refuses guests that together leave out a function of what their worlds name.
//! It is run in Duet's own folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, ensure, Context as _, Result};
use wasmparser::{Parser, Payload};
use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;
use wit_parser::{PackageId, Resolve, WorldItem};

fn main() -> Result<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (resolve, package) = worlds()?;
    match args.as_slice() {
        [directory] => generate(&resolve, package, directory),
        [directory, to] => assemble(&resolve, package, directory, to),
        _ => bail!("bind DIRECTORY [TO]"),
    }
}

/// The worlds of `worlds.wit`, with all that they name.
fn worlds() -> Result<(Resolve, PackageId)> {
    let mut resolve = Resolve::new();
    resolve.push_dir(released("wasmtime-wasi-http")?.join("wit"))?;
    resolve.push_dir(released("wasmtime-wasi-config")?.join("wit/deps/config"))?;
    resolve.push_dir("crates/runner/wit")?;
    let package = resolve.push_file("crates/wasm/tests/guests/c/worlds.wit")?;
    Ok((resolve, package))
}

/// Where cargo has the source of a crate that Duet is built with.
fn released(name: &str) -> Result<PathBuf> {
    let metadata = Command::new("cargo")
        .args(["metadata", "--locked", "--format-version", "1"])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let package = packages.iter().find(|package| package["name"] == name);
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = Path::new(manifest.with_context(|| format!("no package {name}"))?);
    Ok(manifest.with_file_name(""))
}

fn generate(resolve: &Resolve, package: PackageId, directory: &Path) -> Result<()> {
    for (name, world) in &resolve.packages[package].worlds {
        let options = wit_bindgen_c::Opts {
            // One name for all of them, so that they can share a header.
            rename_world: Some("guest".to_owned()),
            ..Default::default()
        };
        let mut files = Files::default();
        let mut resolve = resolve.clone();
        options.build().generate(&mut resolve, *world, &mut files)?;
        fs::create_dir_all(directory.join(name))?;
        for (file, content) in files.iter() {
            fs::write(directory.join(name).join(file), content)?;
        }
        // For a shell.
        println!("{name}");
    }
    Ok(())
}

fn assemble(resolve: &Resolve, package: PackageId, directory: &Path, to: &Path) -> Result<()> {
    let mut called = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    for (name, world) in &resolve.packages[package].worlds {
        let imports = &resolve.worlds[*world].imports;
        for item in imports.values() {
            let WorldItem::Interface { id, .. } = item else {
                bail!("{name} imports what is no interface");
            };
            let interface = resolve.id_of(*id).context("an interface without a name")?;
            let functions = resolve.interfaces[*id].functions.keys();
            wanted.extend(functions.map(|function| (interface.clone(), function.clone())));
        }
        let path = directory.join(name).join("guest.wasm");
        if !path.exists() {
            // A part of other worlds.
            continue;
        }
        let module = fs::read(&path).with_context(|| path.display().to_string())?;
        for payload in Parser::new(0).parse_all(&module) {
            if let Payload::ImportSection(section) = payload? {
                for import in section.into_imports() {
                    let import = import?;
                    called.insert((import.module.to_owned(), import.name.to_owned()));
                }
            }
        }
        let mut encoder = ComponentEncoder::default();
        let component = encoder.module(&module)?.validate(true).encode()?;
        fs::write(to.join(format!("c-{name}.wasm")), component)?;
    }
    let left: Vec<_> = wanted.difference(&called).collect();
    ensure!(left.is_empty(), "called by no guest: {left:#?}");
    Ok(())
}
