//! What is installed or removed under a pod that runs.

use super::*;

#[test]
fn a_pod_keeps_its_compiler_whatever_is_installed_meanwhile() {
    let node = Node::copying();
    let cache = node.cache();
    let path = node.root.path().join("compiler");
    std::fs::remove_file(&path).unwrap();
    program(&path, "#!/bin/sh\nprintf 'another '; cat\n");
    let compiled = |cache: &Cache, content| {
        let made = cache.compiled(&node.module(content), "/app.wasm", Preview::Two, soon());
        made.unwrap()
    };
    let old = compiled(&cache, "one");
    assert_eq!(content(&old), "code of one");
    let new = compiled(&node.cache(), "one");
    assert_eq!(content(&new), "another one");
    assert_ne!(old.key, new.key);
}

#[test]
fn a_compiler_that_was_overwritten_fills_nothing() {
    let node = Node::copying();
    let cache = node.cache();
    let path = node.root.path().join("compiler");
    program(&path, "#!/bin/sh\nprintf 'another '; cat\n");
    let module = node.module("one");
    let error = cache.compiled(&module, "/app.wasm", Preview::Two, soon());
    let text = chain(&error.unwrap_err());
    let why = "another build was written into its file while this pod runs: start the pod again";
    assert_eq!(text, format!("wasm compiler {}: {why}", path.display()));
}

#[test]
fn a_cache_that_was_removed_under_a_pod_is_made_again() {
    let node = Node::copying();
    let cache = node.cache();
    let module = node.module("one");
    let compiled = || cache.compiled(&module, "/app.wasm", Preview::Two, soon());
    let first = compiled().unwrap();
    assert_eq!(content(&first), "code of one");
    std::fs::remove_dir_all(node.root.path().join("cache")).unwrap();
    let second = compiled().unwrap();
    assert!(matches!(second.source, Source::Fresh(_)), "{second:?}");
    assert_eq!(
        (content(&second).as_str(), second.key),
        ("code of one", first.key)
    );
    assert_eq!(compiled().unwrap().source, Source::Cached);
}
