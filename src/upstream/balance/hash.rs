//! Consistent hashing on a Ketama ring: a key stays with its backend, and when a backend goes, only its keys move.
//!
//! Every backend of the tier has 160 points for each unit of weight on a ring of 32 bits, usable or not: a key belongs to
//! the next point from its own place on whose backend admits it. An outage therefore moves the keys of that backend
//! alone, to many others, and moves them back afterwards; only a change of members or weights builds a new ring.
//! With a load factor, a backend that holds more than its share of all requests in flight times the factor is passed
//! over (Mirrokni et al., "Consistent hashing with bounded loads", 2016). In slow start a backend takes its keys back
//! one by one.
//!
//! Not Pingora's `KetamaHashing`: it leaves unix sockets out, numbers no more than 65,535 backends, knows no load, and
//! its candidates are cloned one by one, point by point. The places of points differ from nginx's, for the same reason:
//! those are hashed from an IP address.

use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Choice, Policy, Usable};
use crate::upstream::backend::{Backend, BackendId};

/// Points on the ring for each unit of weight.
pub const POINTS: u64 = 160;

// Points on a ring in all: beyond, each backend has proportionally fewer.
const MOST_POINTS: u64 = 1 << 21;

// Points that are tried from one place of the ring, and places that are tried, before all backends are gone through.
const WALK: usize = 32;
const PLACES: u64 = 4;

/// Consistent hashing.
pub struct Hash {
    usable: Usable,
    ring: Arc<Ring>,
    load_factor: Option<f64>,
    total_weight: f64,
}

impl Hash {
    /// Without backends yet; `load_factor` bounds the load where it is given.
    #[must_use]
    pub fn new(load_factor: Option<f64>) -> Self {
        Self { usable: Usable::none(), ring: Arc::new(Ring::new(Vec::new())), load_factor, total_weight: 0.0 }
    }

    /// The most requests that `backend` may have in flight after one more of `in_flight` in all.
    #[must_use]
    pub fn bound(load_factor: f64, in_flight: u64, weight: u32, total_weight: f64) -> u64 {
        (load_factor * (in_flight + 1) as f64 * f64::from(weight) / total_weight).ceil() as u64
    }

    fn has_room(&self, backend: &Backend, choice: &Choice<'_>) -> bool {
        let Some(factor) = self.load_factor else { return true };
        let bound = Self::bound(factor, choice.in_flight, backend.weight(), self.total_weight);
        u64::from(backend.in_flight()) < bound
    }

    /// Whether a backend in slow start takes this key already: as many of its keys as its share says, always the same.
    fn takes(backend: &Backend, key: u64) -> bool {
        let share = backend.share();
        share >= 1.0 || (xxh3_64_with_seed(&key.to_le_bytes(), backend.id().0) as f64) < share * u64::MAX as f64
    }

    fn on_ring(&self, key: u64, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        (0..PLACES).find_map(|place| {
            let from = if place == 0 { key } else { xxh3_64_with_seed(&key.to_le_bytes(), place) };
            self.ring
                .from(from)
                .take(WALK)
                .filter_map(|index| self.usable.roll.get(index))
                .find(|backend| choice.admits(backend) && Self::takes(backend, key) && self.has_room(backend, choice))
        })
    }

    fn anywhere(&self, key: u64, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        let backends = &self.usable.backends;
        let start = (key % backends.len().max(1) as u64) as usize;
        let around = || backends[start..].iter().chain(&backends[..start]).filter(|backend| choice.admits(backend));
        // A request that could only be refused is worth more than the bound.
        around().find(|backend| self.has_room(backend, choice)).or_else(|| around().next())
    }
}

impl Policy for Hash {
    fn renew(&self, usable: Usable) -> Arc<dyn Policy> {
        let owners: Vec<_> = usable.roll.iter().map(|backend| (backend.id(), backend.weight())).collect();
        let ring = if owners == self.ring.owners { Arc::clone(&self.ring) } else { Arc::new(Ring::new(owners)) };
        let total_weight = usable.backends.iter().map(|backend| f64::from(backend.weight())).sum();
        Arc::new(Self { usable, ring, load_factor: self.load_factor, total_weight })
    }

    fn pick(&self, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        let key = choice.hash.unwrap_or_else(|| choice.luck.below(u64::MAX));
        // Keys may be anything, small numbers too: the ring wants them spread.
        let key = xxh3_64(&key.to_le_bytes());
        self.on_ring(key, choice).or_else(|| self.anywhere(key, choice))
    }
}

/// The ring.
struct Ring {
    owners: Vec<(BackendId, u32)>,
    // Each point: its place in the upper half, the index of its owner in the lower half; sorted.
    points: Box<[u64]>,
    // For each arc of the ring of equal length, the index of its first point.
    arcs: Box<[u32]>,
    arc_bits: u32,
}

impl Ring {
    fn new(owners: Vec<(BackendId, u32)>) -> Self {
        let wished: u64 = owners.iter().map(|(_, weight)| POINTS * u64::from(*weight)).sum();
        let fitted = |weight: u32| {
            let points = POINTS * u64::from(weight);
            if wished <= MOST_POINTS { points } else { (points * MOST_POINTS / wished).max(1) }
        };
        let mut points: Vec<u64> = Vec::with_capacity(wished.min(MOST_POINTS) as usize + owners.len());
        for (index, (id, weight)) in owners.iter().enumerate() {
            let place = |point| xxh3_64_with_seed(&id.0.to_le_bytes(), point) & !u64::from(u32::MAX);
            points.extend((0..fitted(*weight)).map(|point| place(point) | index as u64));
        }
        points.sort_unstable();
        points.dedup_by_key(|point| *point >> 32);
        let arc_bits = (points.len().max(2).ilog2()).min(31);
        let mut arcs = Vec::with_capacity(1 << arc_bits);
        let mut first = 0;
        for arc in 0..1u64 << arc_bits {
            while points.get(first).is_some_and(|point| point >> (64 - arc_bits) < arc) {
                first += 1;
            }
            arcs.push(first as u32);
        }
        Self { owners, points: points.into(), arcs: arcs.into(), arc_bits }
    }

    /// The owners of the points from the place of `key` on, round and round.
    fn from(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let arc = self.arcs[(key >> (64 - self.arc_bits)) as usize] as usize;
        let ahead = self.points[arc.min(self.points.len())..].iter().take_while(|point| **point >> 32 < key >> 32);
        let first = arc + ahead.count();
        let (before, after) = self.points.split_at(first.min(self.points.len()));
        after.iter().chain(before).cycle().map(|point| (point & u64::from(u32::MAX)) as usize)
    }
}
