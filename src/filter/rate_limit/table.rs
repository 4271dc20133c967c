//! The buckets of one limit: a moment for each key, in memory that has a bound.
//!
//! A bucket is the moment at which it is full again, so that one whose moment has passed need not be kept at all. It lies in
//! one of two sets of 16 places that its key's fingerprint names (Azar, Broder, Karlin, Upfal: "Balanced Allocations", 1994), in
//! a shard with a lock of its own. Shards grow as keys come, up to the bound; from there on the fullest of the 32 buckets that
//! could make room is forgotten. So who floods the proxy with fresh keys, each of which has used one token, displaces others of
//! its kind long before a client that has used up its own.
//!
//! Of a key only 64 bits of keyed SipHash are kept: two of a million keys share a bucket with a chance of one in 37 million,
//! and nobody who does not know the process's secret can choose them.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::base::clock::Moment;

/// Places in a set: two are nearly never both full before four fifths of all places are taken.
const PLACES: usize = 16;
/// Shards of a table: threads that serve seldom meet in one.
const SHARDS: usize = 64;

/// A key, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

/// The buckets of one limit.
#[derive(Debug)]
pub struct Table {
    number: u64,
    shards: Box<[Padded]>,
    forgotten: AtomicU64,
}

/// Two lines of the processor's cache for each lock, since some processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(Mutex<Shard>);

#[derive(Debug, Default)]
struct Shard {
    sets: Box<[Set]>,
}

#[derive(Debug, Clone)]
#[repr(align(64))]
struct Set {
    fingerprints: [u64; PLACES],
    full_at: [Moment; PLACES],
}

/// One bucket, locked.
#[derive(Debug)]
pub(super) struct Bucket<'t> {
    table: &'t Table,
    shard: MutexGuard<'t, Shard>,
    fingerprint: u64,
    place: Option<(usize, usize)>,
}

impl Table {
    pub(super) fn new(number: u64) -> Self {
        Self { number, shards: (0..SHARDS).map(|_| Padded::default()).collect(), forgotten: AtomicU64::new(0) }
    }

    /// Its number among all tables: where several are locked, that happens in this order.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The bucket of a key. Nobody else can use it, or others of its shard, until it is dropped.
    pub(super) fn bucket(&self, Fingerprint(fingerprint): Fingerprint) -> Bucket<'_> {
        let shard = self.shards[shard_of(fingerprint)].0.lock();
        let place = shard.find(fingerprint);
        Bucket { table: self, shard, fingerprint, place }
    }

    /// How many buckets were forgotten before they were full, because there was no room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Every bucket that is not full at `now`.
    pub(super) fn each(&self, now: Moment, mut visit: impl FnMut(Fingerprint, Moment)) {
        for shard in &self.shards {
            shard.0.lock().each(now, |fingerprint, full_at| visit(Fingerprint(fingerprint), full_at));
        }
    }

    /// The memory of all places in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| size_of::<Padded>() + size_of_val(&*shard.0.lock().sets)).sum()
    }
}

impl Bucket<'_> {
    /// When it is full again; in the past where it is full.
    pub(super) fn full_at(&self) -> Moment {
        self.place.map_or(Moment::START, |(set, place)| self.shard.sets[set].full_at[place])
    }

    /// Keeps the moment at which it is full again, in a table of about `most` keys.
    pub(super) fn keep(&mut self, full_at: Moment, now: Moment, most: usize) {
        let (set, place) = match self.place {
            Some(place) => place,
            None => self.shard.make_room(self.fingerprint, now, sets_for(most)),
        };
        let set = &mut self.shard.sets[set];
        if self.place.is_none() && set.full_at[place] > now {
            self.table.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        set.fingerprints[place] = self.fingerprint;
        set.full_at[place] = full_at;
    }
}

impl Shard {
    /// The set and the place of a fingerprint.
    fn find(&self, fingerprint: u64) -> Option<(usize, usize)> {
        let (first, second) = self.homes(fingerprint)?;
        let find = |set: usize| self.sets[set].find(fingerprint).map(|place| (set, place));
        find(first).or_else(|| find(second))
    }

    /// A place for a fingerprint that has none, at most by forgetting another.
    fn make_room(&mut self, fingerprint: u64, now: Moment, most: usize) -> (usize, usize) {
        if self.sets.len() > most {
            self.resize(most, now);
        }
        loop {
            if let Some((first, second)) = self.homes(fingerprint) {
                let [first, second] = [first, second].map(|set| (self.sets[set].held(now), set));
                let (held, emptier) = first.min(second);
                if held < PLACES {
                    return self.fullest([emptier, emptier]);
                }
                if self.sets.len() == most {
                    return self.fullest([first.1, second.1]);
                }
            }
            self.resize((self.sets.len() * 2).clamp(1, most), now);
        }
    }

    /// The place in these sets whose bucket is full first, or has been for the longest time.
    fn fullest(&self, sets: [usize; 2]) -> (usize, usize) {
        let places = sets.into_iter().flat_map(|set| (0..PLACES).map(move |place| (set, place)));
        places.min_by_key(|(set, place)| self.sets[*set].full_at[*place]).unwrap_or_default()
    }

    /// Moves all buckets that are not full into this many sets; where they are too few, the fullest are left behind.
    fn resize(&mut self, sets: usize, now: Moment) {
        let old = std::mem::replace(&mut self.sets, vec![Set::EMPTY; sets].into());
        Self { sets: old }.each(now, |fingerprint, full_at| {
            let Some((first, second)) = self.homes(fingerprint) else { return };
            let emptier = if self.sets[second].held(now) < self.sets[first].held(now) { second } else { first };
            let (set, place) = self.fullest([emptier, emptier]);
            let set = &mut self.sets[set];
            if set.full_at[place] < full_at {
                set.fingerprints[place] = fingerprint;
                set.full_at[place] = full_at;
            }
        });
    }

    /// The two sets in which a fingerprint may lie; none as long as there are no sets.
    fn homes(&self, fingerprint: u64) -> Option<(usize, usize)> {
        let sets = self.sets.len() as u64;
        // The upper bits of each half decide (Lemire: "Fast Random Integer Generation in an Interval", 2019); the top six,
        // which chose the shard, are left out.
        let of = |bits: u64| (((bits & 0xffff_ffff) * sets) >> 32) as usize;
        (sets > 0).then(|| (of(fingerprint), of(fingerprint >> 26)))
    }

    fn each(&self, now: Moment, mut visit: impl FnMut(u64, Moment)) {
        for set in &self.sets {
            for (fingerprint, full_at) in set.fingerprints.iter().zip(set.full_at) {
                if full_at > now {
                    visit(*fingerprint, full_at);
                }
            }
        }
    }
}

impl Set {
    /// What never was is full.
    const EMPTY: Self = Self { fingerprints: [0; PLACES], full_at: [Moment::START; PLACES] };

    fn find(&self, fingerprint: u64) -> Option<usize> {
        self.fingerprints.iter().position(|other| *other == fingerprint)
    }

    /// How many buckets are not full.
    fn held(&self, now: Moment) -> usize {
        self.full_at.iter().filter(|full_at| **full_at > now).count()
    }
}

/// The sets of a shard that hold so many keys: one place in five stays free, so that two choices find room.
fn sets_for(keys: usize) -> usize {
    keys.saturating_add(keys / 4).div_ceil(SHARDS * PLACES).max(1)
}

fn shard_of(fingerprint: u64) -> usize {
    (fingerprint >> 58) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_nanos(1_000_000);

    fn later(nanos: u64) -> Moment {
        NOW + Duration::from_nanos(nanos)
    }

    fn numbered(number: u64) -> Fingerprint {
        // A spread such as the keyed hash gives.
        let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Fingerprint(mixed ^ (mixed >> 31))
    }

    fn fill(table: &Table, keys: std::ops::Range<u64>, full_at: Moment, most: usize) {
        keys.for_each(|key| table.bucket(numbered(key)).keep(full_at, NOW, most));
    }

    fn kept(table: &Table, keys: std::ops::Range<u64>) -> usize {
        keys.filter(|key| table.bucket(numbered(*key)).full_at() > NOW).count()
    }

    #[test]
    fn nothing_is_forgotten_up_to_the_bound() {
        for most in [1_000, 50_000, 300_000] {
            let table = Table::new(0);
            fill(&table, 0..most, later(9), most as usize);
            assert!(table.forgotten() <= most / 10_000, "{} of {most}", table.forgotten());
            assert!(kept(&table, 0..most) as u64 >= most - table.forgotten());
        }
    }

    #[test]
    fn memory_has_a_bound_and_begins_with_next_to_none() {
        let table = Table::new(0);
        assert_eq!(table.bytes(), SHARDS * 128);
        fill(&table, 0..1_000_000, later(9), 100_000);
        assert!(table.bytes() <= SHARDS * 128 + 100_000 * 21, "{}", table.bytes());
        assert!(table.forgotten() >= 1_000_000 - 130_000);
    }

    #[test]
    fn a_flood_of_fresh_keys_displaces_its_own_kind() {
        let table = Table::new(0);
        fill(&table, 0..1_000, later(1_000_000), 10_000);
        fill(&table, 1_000..500_000, later(1_000), 10_000);
        assert_eq!(kept(&table, 0..1_000), 1_000);
    }

    #[test]
    fn full_buckets_make_room_before_anything_grows_or_is_forgotten() {
        let table = Table::new(0);
        fill(&table, 0..100_000, later(9), 1_000_000);
        let bytes = table.bytes();
        let then = later(9);
        (100_000..200_000).for_each(|key| table.bucket(numbered(key)).keep(later(99), then, 1_000_000));
        assert_eq!((table.bytes(), table.forgotten()), (bytes, 0));
    }

    #[test]
    fn a_smaller_bound_holds_from_the_next_new_keys_on() {
        let table = Table::new(0);
        fill(&table, 0..100_000, later(9), 100_000);
        fill(&table, 100_000..101_000, later(99), 1_000);
        assert!(table.bytes() <= SHARDS * (128 + 2 * size_of::<Set>()), "{}", table.bytes());
        assert_eq!(kept(&table, 100_000..101_000), 1_000);
    }

    proptest! {
        /// As long as there is room, a table is a map.
        #[test]
        fn with_room_it_is_a_map(steps in prop::collection::vec((0..300_u64, 0..50_u64, 0..5_u64), 1..1_000)) {
            let (table, mut map, mut now) = (Table::new(0), std::collections::HashMap::new(), NOW);
            for (key, ahead, pause) in steps {
                now = now + Duration::from_nanos(pause);
                let mut bucket = table.bucket(numbered(key));
                let expected = map.get(&key).copied().filter(|full_at| *full_at > now);
                prop_assert_eq!(Some(bucket.full_at()).filter(|full_at| *full_at > now), expected);
                bucket.keep(now + Duration::from_nanos(ahead), now, 100_000);
                map.insert(key, now + Duration::from_nanos(ahead));
            }
            prop_assert_eq!(table.forgotten(), 0);
        }
    }
}
