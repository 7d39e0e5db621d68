//! WASI by groups, as Rust's standard library calls it; compiled for previews 1 and 2.
//!
//!     groups.wasm GROUP DIR    tries what GROUP is for, in the empty folder DIR
//!
//! It panics where something is not as it should be. `calls.c` calls preview 1 itself.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, group, dir] = args.as_slice() else {
        panic!("{args:?}")
    };
    let dir = Path::new(dir);
    match group.as_str() {
        "environ" => environ(),
        "clocks" => clocks(),
        "random" => random(),
        "files" => files(dir),
        "paths" => paths(dir),
        "readdir" => readdir(dir),
        "streams" => streams(),
        "process" => std::process::exit(42),
        other => panic!("no group {other}"),
    }
    println!("well");
}

fn environ() {
    assert_eq!(std::env::var("COLOUR").as_deref(), Ok("blue"));
    assert!(std::env::var("NOTHING").is_err());
    assert_eq!(std::env::vars().filter(|(name, _)| name == "COLOUR").count(), 1);
}

fn clocks() {
    let (before, wall) = (Instant::now(), SystemTime::now());
    thread::sleep(Duration::from_millis(20));
    assert!(before.elapsed() >= Duration::from_millis(20));
    // 2020; the wall clock may be set back meanwhile.
    let epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(epoch > Duration::from_secs(1_577_836_800));
}

fn random() {
    // The keys of a hash are the host's random bytes.
    let number = || RandomState::new().build_hasher().finish();
    assert_ne!(number(), number());
}

fn files(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "0123456789").unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert_eq!(file.seek(SeekFrom::End(-4)).unwrap(), 6);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "6789");
    file.seek(SeekFrom::Start(2)).unwrap();
    file.write_all(b"xy").unwrap();
    file.set_len(6).unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6);
    file.set_len(8).unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"01xy45\0\0");

    let mut appended = OpenOptions::new().append(true).open(&path).unwrap();
    appended.write_all(b"end").unwrap();
    drop(appended);
    assert_eq!(fs::read(&path).unwrap(), b"01xy45\0\0end");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(time).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), time);
    assert!(File::create_new(&path).is_err_and(|error| error.kind() == ErrorKind::AlreadyExists));
    // A descriptor outlives its name.
    let mut gone = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut rest = Vec::new();
    assert_eq!(gone.read_to_end(&mut rest).unwrap(), 11);
}

fn paths(dir: &Path) {
    let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
    let (one, two) = (dir.join("one"), dir.join("one/two"));
    fs::create_dir_all(&two).unwrap();
    assert_eq!(kind(fs::create_dir(&one)), Err(ErrorKind::AlreadyExists));
    fs::write(two.join("file"), "text").unwrap();
    fs::rename(two.join("file"), dir.join("moved")).unwrap();
    fs::hard_link(dir.join("moved"), dir.join("linked")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("linked")).unwrap(), "text");
    assert_eq!(fs::copy(dir.join("moved"), dir.join("copied")).unwrap(), 4);
    assert!(fs::symlink_metadata(dir.join("copied")).unwrap().is_file());
    assert!(fs::metadata(&one).unwrap().is_dir());
    assert!(!fs::exists(dir.join("nothing")).unwrap());
    assert_eq!(kind(fs::remove_dir(&one)), Err(ErrorKind::DirectoryNotEmpty));
    assert_eq!(kind(fs::remove_file(dir.join("nothing"))), Err(ErrorKind::NotFound));
    assert!(File::open(dir.join("moved/below")).is_err());
    for file in ["moved", "linked", "copied"] {
        fs::remove_file(dir.join(file)).unwrap();
    }
    fs::remove_dir_all(&one).unwrap();
}

fn readdir(dir: &Path) {
    for number in 0..500 {
        fs::write(dir.join(format!("a-name-of-some-length-{number}")), "").unwrap();
    }
    fs::create_dir(dir.join("folder")).unwrap();
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 501);
    let folders = entries.iter().filter(|entry| entry.file_type().unwrap().is_dir());
    assert_eq!(folders.count(), 1);
    entries.sort_by_key(|entry| entry.file_name());
    entries.dedup_by_key(|entry| entry.file_name());
    assert_eq!(entries.len(), 501);
}

fn streams() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    for is_terminal in [
        std::io::stdin().is_terminal(),
        std::io::stdout().is_terminal(),
        std::io::stderr().is_terminal(),
    ] {
        assert!(!is_terminal);
    }
    eprintln!("on stderr");
}
