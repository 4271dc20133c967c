//! The hash of the routing tables' keys: XXH3, without a secret.
//!
//! The keys of these tables come from the configuration alone. A client only looks keys up, so it can never make them
//! collide, and the cost of a keyed hash buys nothing here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys come from the configuration.
pub(super) type PlainMap<K, V> = HashMap<K, V, BuildHasherDefault<PlainHasher>>;

/// XXH3 over the bytes of one string.
#[derive(Default)]
pub(super) struct PlainHasher(u64);

impl Hasher for PlainHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    // The byte that ends a string keeps apart the parts of a compound key. Ours have one part.
    fn write_u8(&mut self, _end_of_string: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
