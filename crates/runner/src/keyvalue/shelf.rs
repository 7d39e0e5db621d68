//! What `wasi:keyvalue` keeps, and how much of it there may be.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::limits;

/// How many bytes all keys and values may take: 64 MiB, or less if the container has less memory.
const LIMIT: u64 = 64 << 20;

/// What an entry takes besides its key and value: its places in two maps, and the allocator's share.
const ENTRY: u64 = 160;

/// Copies of less are not worth asking the container's limit about: 64 KiB.
const SMALL: u64 = 64 << 10;

/// Keys and values.
pub(super) struct Shelf {
    entries: BTreeMap<Arc<str>, Entry>,
    /// Each key by its entry's number, so that a list can be gone on with whatever was deleted since.
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
    held: u64,
}

struct Entry {
    number: u64,
    value: Vec<u8>,
}

/// Why something is not kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// [`LIMIT`].
    Store,
    /// The container's.
    Container,
}

// === impl Shelf ===

impl Shelf {
    /// Nothing; and it takes no memory.
    pub(super) const fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            next: 0,
            held: 0,
        }
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let entry = self.entries.get(key)?;
        Some(&entry.value)
    }

    /// Gives `key` this value. If there is no room for it, everything is as before.
    pub(super) fn set(&mut self, key: String, mut value: Vec<u8>) -> Result<(), Full> {
        // What is counted is what is held.
        value.shrink_to_fit();
        if let Some(entry) = self.entries.get_mut(key.as_str()) {
            let (old, new) = (size(entry.value.len()), size(value.len()));
            let held = self.held.saturating_sub(old).saturating_add(new);
            room(held, new.saturating_sub(old))?;
            limits::give_back(old.saturating_sub(new));
            self.held = held;
            entry.value = value;
            return Ok(());
        }
        let more = cost(&key, &value);
        let held = self.held.saturating_add(more);
        room(held, more)?;
        self.held = held;
        let (number, key) = (self.next, Arc::from(key));
        self.next += 1;
        self.order.insert(number, Arc::clone(&key));
        self.entries.insert(key, Entry { number, value });
        Ok(())
    }

    /// Forgets `key`.
    pub(super) fn delete(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.number);
            let less = cost(key, &entry.value);
            self.held = self.held.saturating_sub(less);
            limits::give_back(less);
        }
    }

    /// The keys from `cursor` on, as far as `bytes` of them are full, and where to go on.
    pub(super) fn keys(&self, cursor: u64, bytes: usize) -> (Vec<String>, Option<u64>) {
        let mut left = bytes;
        let mut keys = Vec::new();
        for (number, key) in self.order.range(cursor..) {
            if left == 0 {
                return (keys, Some(*number));
            }
            left = left.saturating_sub(key.len() + size_of::<String>());
            keys.push(key.as_ref().to_owned());
        }
        (keys, None)
    }
}

/// Whether so many copies of values are made at once.
///
/// They are not counted longer: the guest takes them over, and what its own memory grows by for them has to fit beside
/// them, which the cgroup counts.
pub(super) fn fits<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Full> {
    let sizes = values.into_iter().map(|value| size(value.len()));
    let copies = sizes.fold(0, u64::saturating_add);
    if copies > LIMIT {
        return Err(Full::Store);
    }
    if copies > SMALL {
        if !limits::take(copies, "copies of values") {
            return Err(Full::Container);
        }
        limits::give_back(copies);
    }
    Ok(())
}

/// Takes `more`, of which there are then `held`.
fn room(held: u64, more: u64) -> Result<(), Full> {
    if held > LIMIT && more > 0 {
        return Err(Full::Store);
    }
    if more > 0 && !limits::take(more, "key-value store") {
        return Err(Full::Container);
    }
    Ok(())
}

fn cost(key: &str, value: &[u8]) -> u64 {
    ENTRY
        .saturating_add(size(key.len()))
        .saturating_add(size(value.len()))
}

fn size(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

// === impl Full ===

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => write!(
                f,
                "this is more than the store has room for: {} MiB",
                LIMIT >> 20
            ),
            Self::Container => write!(f, "the container's memory limit leaves no room for it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: usize) -> Shelf {
        let mut shelf = Shelf::new();
        for number in 0..count {
            shelf.set(format!("key{number}"), vec![0; 10]).unwrap();
        }
        shelf
    }

    #[test]
    fn what_is_set_anew_or_deleted_is_no_longer_counted() {
        let mut shelf = filled(3);
        let held = shelf.held;
        shelf.set("key1".into(), vec![0; 30]).unwrap();
        assert_eq!(shelf.held, held + 20);
        shelf.set("key1".into(), vec![0; 10]).unwrap();
        for key in ["key0", "key1", "key2", "key2"] {
            shelf.delete(key);
        }
        assert_eq!((shelf.held, shelf.order.len()), (0, 0));
    }

    #[test]
    fn a_full_store_keeps_what_it_has() {
        let mut shelf = filled(1);
        let limit = usize::try_from(LIMIT).unwrap();
        assert_eq!(shelf.set("key0".into(), vec![0; limit]), Err(Full::Store));
        assert_eq!(shelf.set("key1".into(), vec![0; limit]), Err(Full::Store));
        assert_eq!(shelf.get("key0"), Some([0; 10].as_slice()));
        assert_eq!(shelf.get("key1"), None);
    }

    #[test]
    fn copies_are_counted_before_they_are_made() {
        let mut shelf = Shelf::new();
        shelf.set("key".into(), vec![0; 1 << 20]).unwrap();
        let value = shelf.get("key").unwrap();
        assert_eq!(fits(shelf.get("key")), Ok(()));
        assert_eq!(fits(std::iter::repeat_n(value, 65)), Err(Full::Store));
    }

    #[test]
    fn a_list_goes_on_where_it_ended_whatever_was_deleted() {
        let mut shelf = filled(4);
        let (keys, cursor) = shelf.keys(0, 50);
        assert_eq!(keys, ["key0", "key1"]);
        for key in keys {
            shelf.delete(&key);
        }
        let (keys, cursor) = shelf.keys(cursor.unwrap(), 50);
        assert_eq!((keys, cursor), (vec!["key2".into(), "key3".into()], None));
        assert_eq!(shelf.keys(u64::MAX, 50), (Vec::new(), None));
    }
}
