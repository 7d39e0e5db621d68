//! When whoever compiles leaves the room that it is given.

use super::*;
use crate::Room;

/// Rooms whose end tells whether there was an entry by then.
#[derive(Debug)]
struct Rooms {
    cache: PathBuf,
    left: mpsc::Sender<bool>,
}

struct Leaving(PathBuf, mpsc::Sender<bool>);

impl Workshop for Rooms {
    fn open(&self) -> io::Result<Room> {
        Ok(Room {
            tasks: Vec::new(),
            kept: Box::new(Leaving(self.cache.clone(), self.left.clone())),
        })
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut entries = std::fs::read_dir(&self.0).unwrap();
        let finished = |entry: &std::fs::DirEntry| entry.file_name().len() == 64;
        let there = entries.any(|entry| finished(&entry.unwrap()));
        self.1.send(there).unwrap();
    }
}

#[test]
fn where_it_is_compiled_is_left_before_the_disk_has_it() {
    let node = Node::copying();
    let (left, told) = mpsc::channel();
    let cache = node.root.path().join("cache");
    let with = node.cache().with_workshop(Arc::new(Rooms { cache, left }));
    let compiled = with
        .compiled(&node.module("one"), "/app.wasm", Preview::Two, soon())
        .unwrap();
    // It is what the finished entry is told by.
    assert_eq!(compiled.key.to_string().len(), 64);
    assert!(!told.recv().unwrap(), "the entry was there first");
}
