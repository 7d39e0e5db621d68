//! `wasi:keyvalue`: one store in memory, for as long as the process lives.
//!
//! All instances of a server see the same values; a bucket is a name for the store and nothing more
//! (decision 29). What is kept is in `keyvalue/shelf.rs`.

mod shelf;

use std::sync::{Mutex, MutexGuard, PoisonError};

use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};

use self::bindings::wasi::keyvalue::{atomics, batch, store};
use self::shelf::{Full, Shelf};
use crate::guest::Guest;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wasi:keyvalue/imports",
        imports: { default: trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::Refusal },
    });
}

/// What is kept for all instances of this process.
static SHELF: Mutex<Shelf> = Mutex::new(Shelf::new());

/// How many bytes of keys one answer of `list-keys` has, about: 64 KiB. The guest asks for the rest.
const PAGE: usize = 64 << 10;

/// The name of the store; the empty name, which the proposal's own host uses, is the same store.
const DEFAULT: &str = "default";

/// An open store.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub struct Bucket;

/// Why a call has no answer.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub enum Refusal {
    /// There is one store, and this is not its name.
    NoSuchStore,
    /// In words, for the guest.
    Said(String),
}

type Answer<T> = std::result::Result<T, Refusal>;

/// Links the interface of this name.
pub(crate) fn link(linker: &mut Linker<Guest>, interface: &str) -> Result<()> {
    let view: fn(&mut Guest) -> &mut Guest = |guest| guest;
    match interface {
        "wasi:keyvalue/store" => store::add_to_linker::<_, Keyvalue>(linker, view),
        "wasi:keyvalue/atomics" => atomics::add_to_linker::<_, Keyvalue>(linker, view),
        "wasi:keyvalue/batch" => batch::add_to_linker::<_, Keyvalue>(linker, view),
        _ => Ok(()),
    }
}

struct Keyvalue;

impl HasData for Keyvalue {
    type Data<'a> = &'a mut Guest;
}

// No call leaves it half changed.
fn shelf() -> MutexGuard<'static, Shelf> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Guest ===

impl store::Host for Guest {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        if !identifier.is_empty() && identifier != DEFAULT {
            return Err(Refusal::NoSuchStore);
        }
        let pushed = self.table().push(Bucket);
        pushed.map_err(|error| Refusal::Said(error.to_string()))
    }

    fn convert_error(&mut self, refusal: Refusal) -> Result<store::Error> {
        Ok(match refusal {
            Refusal::NoSuchStore => store::Error::NoSuchStore,
            Refusal::Said(words) => store::Error::Other(words),
        })
    }
}

impl store::HostBucket for Guest {
    fn get(&mut self, _: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let shelf = shelf();
        let value = shelf.get(&key);
        shelf::fits(value)?;
        Ok(value.map(<[u8]>::to_vec))
    }

    fn set(&mut self, _: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        Ok(shelf().set(key, value)?)
    }

    fn delete(&mut self, _: Resource<Bucket>, key: String) -> Answer<()> {
        shelf().delete(&key);
        Ok(())
    }

    fn exists(&mut self, _: Resource<Bucket>, key: String) -> Answer<bool> {
        Ok(shelf().get(&key).is_some())
    }

    fn list_keys(
        &mut self,
        _: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Answer<store::KeyResponse> {
        let (keys, cursor) = shelf().keys(cursor.unwrap_or(0), PAGE);
        Ok(store::KeyResponse { keys, cursor })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.table().delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for Guest {
    /// Numbers are kept as decimal text, as in the proposal's own host: what `get` returns can be read.
    fn increment(&mut self, _: Resource<Bucket>, key: String, delta: u64) -> Answer<u64> {
        let mut shelf = shelf();
        let number = match shelf.get(&key) {
            None => 0,
            Some(value) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(|| Refusal::Said(format!("the value of {key:?} is not a number")))?,
        };
        let sum = number.checked_add(delta);
        let sum = sum.ok_or_else(|| {
            Refusal::Said(format!(
                "the value of {key:?}, {number}, plus {delta} is not a u64"
            ))
        })?;
        shelf.set(key, sum.to_string().into_bytes())?;
        Ok(sum)
    }
}

impl batch::Host for Guest {
    fn get_many(
        &mut self,
        _: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let shelf = shelf();
        // One key may be asked for many times.
        shelf::fits(keys.iter().filter_map(|key| shelf.get(key)))?;
        let pair = |key: String| {
            let value = shelf.get(&key)?.to_vec();
            Some((key, value))
        };
        Ok(keys.into_iter().map(pair).collect())
    }

    fn set_many(&mut self, _: Resource<Bucket>, pairs: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let mut shelf = shelf();
        for (key, value) in pairs {
            shelf.set(key, value)?;
        }
        Ok(())
    }

    fn delete_many(&mut self, _: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let mut shelf = shelf();
        for key in &keys {
            shelf.delete(key);
        }
        Ok(())
    }
}

// === impl Refusal ===

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::Said(full.to_string())
    }
}
