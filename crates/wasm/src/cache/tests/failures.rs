//! What cannot be compiled is not compiled again and again.

use super::*;

/// A compiler that refuses what it is given.
const REFUSING: &str = "echo run >> RUNS; echo 'invalid at byte 0x8' >&2; exit 1";

/// One that breaks down.
const BREAKING: &str = "echo run >> RUNS; echo oh >&2; exit 101";

impl Node {
    /// Whether nothing is there but locks and what is remembered of failures.
    pub(super) fn has_only_failed(&self) -> bool {
        let is_failed = |name: &String| name.ends_with(".lock") || name.ends_with(".failed");
        self.names().iter().all(is_failed)
    }

    fn failure(&self, content: &str) -> String {
        chain(&self.compiled(content).unwrap_err())
    }

    /// The failures that are remembered.
    fn failures(&self) -> Vec<PathBuf> {
        let cache = self.root.path().join("cache");
        let mut names = self.names();
        names.retain(|name| name.ends_with(".failed"));
        names.into_iter().map(|name| cache.join(name)).collect()
    }
}

#[test]
fn a_module_that_is_refused_is_refused_again_without_being_compiled() {
    let node = Node::new(REFUSING);
    let words = "/app.wasm: invalid at byte 0x8";
    assert_eq!(node.failure("one"), words);
    // By another shim, each time.
    assert_eq!(node.failure("one"), words);
    assert_eq!(node.failure("one"), words);
    assert_eq!(node.runs(), 1);
    // The same module by another name, and as another preview's.
    let compiled = |name, preview| {
        let module = node.module("one");
        let error = node.cache().compiled(&module, name, preview, soon());
        error.unwrap_err().to_string()
    };
    assert_eq!(
        compiled("/other.wasm", Preview::Two),
        "/other.wasm: invalid at byte 0x8"
    );
    assert_eq!(node.runs(), 1);
    assert_eq!(compiled("/app.wasm", Preview::Three), words);
    assert_eq!(node.runs(), 2);
    // Another module, and another compiler.
    assert_eq!(node.failure("two"), words);
    assert_eq!(node.runs(), 3);
    let compiler = node.root.path().join("compiler");
    let script = std::fs::read_to_string(&compiler).unwrap();
    program(&compiler, &format!("{script}# more is valid now\n"));
    assert_eq!(node.failure("one"), words);
    assert_eq!(node.runs(), 4);
}

#[test]
fn a_compiler_that_breaks_down_is_not_tried_again_at_once_and_the_same_is_said() {
    let node = Node::new(BREAKING);
    let first = node.failure("one");
    let words = "/app.wasm: the compiler ended with 101: oh; not tried again before 2";
    assert!(first.starts_with(words), "{first}");
    assert_eq!(node.failure("one"), first);
    assert_eq!(node.runs(), 1);
}

#[test]
fn what_the_compiler_cannot_help_is_tried_again() {
    let node = Node::new("echo run >> RUNS; echo 'threads: EAGAIN' >&2; exit 2");
    let words = "/app.wasm: the compiler ended with 2: threads: EAGAIN";
    assert_eq!(node.failure("one"), words);
    assert_eq!(node.failure("one"), words);
    assert_eq!(node.runs(), 2);
    assert_eq!(node.failures(), Vec::<PathBuf>::new());
}

#[test]
fn who_waits_for_a_compilation_that_fails_hears_the_same() {
    for script in [REFUSING, BREAKING] {
        let node = Node::new(&script.replace("; echo", "; sleep 0.3; echo"));
        let module = node.module("one");
        let told = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let cache = node.cache();
                        let compiled = cache.compiled(&module, "/app.wasm", Preview::Two, soon());
                        compiled.unwrap_err().to_string()
                    })
                })
                .collect();
            let told = starts.into_iter().map(|start| start.join().unwrap());
            told.collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!((told.len(), node.runs()), (1, 1), "{told:?}");
    }
}

#[test]
fn who_could_not_wait_hears_how_it_failed_at_the_next_try() {
    let script = "until [ -e RUNS.go ]; do sleep 0.01; done; exit 101";
    let node = Node::new(&format!("echo run >> RUNS; {script}"));
    let (cache, module) = (node.cache(), node.module("one"));
    let compiled = |deadline| {
        let compiled = cache.compiled(&module, "/app.wasm", Preview::Two, deadline);
        compiled.unwrap_err().to_string()
    };
    let first = compiled(Instant::now() + Duration::from_millis(100));
    assert!(first.ends_with("try again later"), "{first}");
    std::fs::write(node.root.path().join("runs.go"), "").unwrap();
    let second = compiled(soon());
    assert!(second.contains("ended with 101: it said nothing; not tried again before 2"));
    assert_eq!(node.runs(), 1);
}

#[test]
fn a_failure_that_is_unfit_is_discarded_and_the_module_compiled() {
    let node = Node::new(REFUSING);
    let words = node.failure("one");
    let [record] = node.failures().try_into().unwrap();
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(node.failure("one"), words);
    assert_eq!(node.runs(), 2);
    // What it left is whole again.
    assert_eq!(node.failures(), [record]);
    assert_eq!(node.failure("one"), words);
    assert_eq!(node.runs(), 2);
}

#[test]
fn what_is_compiled_after_all_has_no_failure_any_more() {
    let node = Node::new("[ -e RUNS ] && exec cat; echo run >> RUNS; exit 101");
    let first = node.failure("one");
    // Whoever has more time is not told of it.
    let mut cache = node.cache();
    cache.patience *= 2;
    let module = node.module("one");
    let compiled = cache.compiled(&module, "/app.wasm", Preview::Two, soon());
    let key = compiled.unwrap_or_else(|_| panic!("{first}")).key;
    assert_eq!(node.names(), [key.to_string(), format!("{key}.lock")]);
}

#[test]
fn only_so_many_failures_are_kept_and_a_full_cache_keeps_them() {
    let node = Node::new(REFUSING);
    let cache = node.cache().with_size(0);
    let path = |number: usize, what| {
        let name = format!("{number:064x}.{what}");
        node.root.path().join("cache").join(name)
    };
    for number in 0..failure::MOST + 2 {
        std::fs::write(path(number, "failed"), "x").unwrap();
        std::fs::write(path(number, "lock"), "").unwrap();
        let then = SystemTime::now() - Duration::from_secs(1 + number as u64);
        let file = File::options().write(true).open(path(number, "failed"));
        file.unwrap().set_modified(then).unwrap();
    }
    let compiled = cache.compiled(&node.module("one"), "/app.wasm", Preview::Two, soon());
    compiled.unwrap_err();
    assert_eq!(node.failures().len(), failure::MOST);
    // The longest unused are gone, and their locks; the new one is there.
    let last = failure::MOST - 2;
    for (number, expected) in [(last, true), (last + 1, false), (last + 3, false)] {
        for what in ["failed", "lock"] {
            assert_eq!(path(number, what).exists(), expected, "{number} {what}");
        }
    }
    let compiled = cache.compiled(&node.module("one"), "/app.wasm", Preview::Two, soon());
    compiled.unwrap_err();
    assert_eq!(node.runs(), 1);
}

#[test]
fn a_failure_that_is_told_again_is_young_again() {
    let node = Node::new(REFUSING);
    let words = node.failure("one");
    let [record] = node.failures().try_into().unwrap();
    let file = File::options().write(true).open(&record).unwrap();
    let then = SystemTime::now() - Duration::from_secs(300);
    file.set_modified(then).unwrap();
    assert_eq!(node.failure("one"), words);
    let now = file.metadata().unwrap().modified().unwrap();
    assert!(now > then + Duration::from_secs(200), "{now:?}");
}
