//! The buckets of all limits, by what they belong to: from snapshot to snapshot, and from process to process.
//!
//! A table belongs to a route and to what is counted by there; the second limit of a route that counts by the same has the
//! second table. A changed rate, burst or bound goes on with the buckets that there are. A table lives as long as a snapshot
//! that uses it: here it is only found again.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::table::{Fingerprint, Table};
use crate::base::clock::Moment;
use crate::config::plan::RateKey;

/// What begins every export: a name and the version of what follows.
const HEAD: [u8; 8] = *b"rdl-rl\x00\x01";
const BUCKET: usize = 16;

/// The tables of a process.
#[derive(Debug, Default)]
pub struct Tables {
    secret: Secret,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    made: u64,
    by_owner: HashMap<String, Weak<Table>>,
}

/// The key of the hash by which keys are known: made when it is first needed, so that a process can take over another's.
#[derive(Debug, Clone, Default)]
pub(super) struct Secret(Arc<OnceLock<[u64; 2]>>);

/// Why the buckets of another process could not be taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum RestoreError {
    #[error("rate limits: the other process speaks another version (they begin anew)")]
    Version,
    #[error("rate limits: what came is cut short or damaged (they begin anew)")]
    Damaged,
    #[error("rate limits: this process has counted requests already (it goes on with its own counts)")]
    InUse,
}

impl Tables {
    /// The table of the `nth` limit of a route that counts by `key`.
    pub(super) fn table(&self, route: &str, key: &RateKey, nth: usize) -> Arc<Table> {
        let owner = owner(route, key, nth);
        let known = &mut *self.known.lock();
        if let Some(table) = known.by_owner.get(&owner).and_then(Weak::upgrade) {
            return table;
        }
        known.made += 1;
        let table = Arc::new(Table::new(known.made));
        known.by_owner.insert(owner, Arc::downgrade(&table));
        table
    }

    /// Forgets the tables that no snapshot uses any more.
    pub fn prune(&self) {
        self.known.lock().by_owner.retain(|_, table| table.strong_count() > 0);
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Every bucket that is not full at `now`, for [`Tables::restore`] in another process. Times are told as what is left of
    /// them, for each process has its own clock. The bytes hold the secret: they are for nobody else to read.
    #[must_use]
    pub fn export(&self, now: Moment) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        bytes.extend(self.secret.get().map(u64::to_le_bytes).as_flattened());
        let living: Vec<(String, Arc<Table>)> = {
            let known = self.known.lock();
            known.by_owner.iter().filter_map(|(owner, table)| Some((owner.clone(), table.upgrade()?))).collect()
        };
        for (owner, table) in living {
            push(&mut bytes, owner.as_bytes());
            let mut buckets = Vec::new();
            table.each(now, |Fingerprint(fingerprint), full_at| {
                let left = u64::try_from(full_at.since(now).as_nanos()).unwrap_or(u64::MAX);
                buckets.extend([fingerprint, left].map(u64::to_le_bytes).as_flattened());
            });
            push(&mut bytes, &buckets);
        }
        bytes
    }

    /// Takes over what another process has exported, before the first request: for the tables of the snapshots that are
    /// built. What belongs to no table is left out.
    ///
    /// # Errors
    /// Nothing was taken over; the error says why.
    pub fn restore(&self, bytes: &[u8], now: Moment) -> Result<(), RestoreError> {
        let mut rest = bytes.strip_prefix(&HEAD).ok_or(RestoreError::Version)?;
        let secret = [number(&mut rest)?, number(&mut rest)?];
        let mut exported = Vec::new();
        while !rest.is_empty() {
            let owner = std::str::from_utf8(text(&mut rest)?).map_err(|_| RestoreError::Damaged)?;
            let (buckets, odd) = text(&mut rest)?.as_chunks::<BUCKET>();
            if !odd.is_empty() {
                return Err(RestoreError::Damaged);
            }
            exported.push((owner, buckets));
        }
        self.secret.take_over(secret)?;
        for (owner, buckets) in exported {
            let table = self.known.lock().by_owner.get(owner).and_then(Weak::upgrade);
            if let Some(table) = table {
                buckets.iter().for_each(|bucket| restore(&table, bucket, now, buckets.len()));
            }
        }
        Ok(())
    }
}

fn restore(table: &Table, mut bucket: &[u8], now: Moment, most: usize) {
    if let (Ok(fingerprint), Ok(left)) = (number(&mut bucket), number(&mut bucket)) {
        table.bucket(Fingerprint(fingerprint)).keep(now + Duration::from_nanos(left), now, most);
    }
}

/// Whom a table belongs to. No name of a route has a line break.
fn owner(route: &str, key: &RateKey, nth: usize) -> String {
    match key {
        RateKey::ClientIp { ipv4_prefix, ipv6_prefix } => {
            format!("{route}\n{key}/{ipv4_prefix}/{ipv6_prefix}\n{nth}")
        }
        _ => format!("{route}\n{key}\n{nth}"),
    }
}

impl Secret {
    pub(super) fn get(&self) -> [u64; 2] {
        // The standard library's own keys are random; hashed once, they betray nothing of themselves.
        *self.0.get_or_init(|| [1_u8, 2].map(|half| RandomState::new().hash_one(half)))
    }

    fn take_over(&self, secret: [u64; 2]) -> Result<(), RestoreError> {
        if *self.0.get_or_init(|| secret) == secret { Ok(()) } else { Err(RestoreError::InUse) }
    }
}

fn push(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
}

fn number(rest: &mut &[u8]) -> Result<u64, RestoreError> {
    let (number, after) = rest.split_first_chunk().ok_or(RestoreError::Damaged)?;
    *rest = after;
    Ok(u64::from_le_bytes(*number))
}

fn text<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], RestoreError> {
    let length = usize::try_from(number(rest)?).map_err(|_| RestoreError::Damaged)?;
    let (text, after) = rest.split_at_checked(length).ok_or(RestoreError::Damaged)?;
    *rest = after;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_nanos(1_000);
    const FAR: Duration = Duration::from_secs(9);

    fn with(tables: &Tables, keys: u64) -> Arc<Table> {
        let table = tables.table("api", &RateKey::Route, 0);
        (0..keys).for_each(|key| table.bucket(fingerprint(key)).keep(NOW + FAR, NOW, 10_000));
        table
    }

    fn fingerprint(key: u64) -> Fingerprint {
        Fingerprint(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn a_table_is_found_again_as_long_as_somebody_uses_it() {
        let tables = Tables::default();
        let first = with(&tables, 0);
        assert!(Arc::ptr_eq(&first, &with(&tables, 0)));
        for (route, key, nth) in
            [("web", RateKey::Route, 0), ("api", RateKey::Query("q".into()), 0), ("api", RateKey::Route, 1)]
        {
            assert!(!Arc::ptr_eq(&first, &tables.table(route, &key, nth)));
        }
        let number = first.number();
        drop(first);
        tables.prune();
        assert!(tables.known.lock().by_owner.is_empty());
        assert!(with(&tables, 0).number() > number);
    }

    #[test]
    fn another_process_goes_on_where_this_one_stands() {
        let (old, new, then) = (Tables::default(), Tables::default(), Moment::from_nanos(50));
        let _kept = with(&old, 1_000);
        let table = with(&new, 0);
        new.restore(&old.export(NOW + Duration::from_secs(4)), then).unwrap();
        assert!((0..1_000).all(|key| table.bucket(fingerprint(key)).full_at() == then + Duration::from_secs(5)));
        assert_eq!(new.secret.get(), old.secret.get());
        let everything_full = old.export(NOW + FAR);
        assert!(everything_full.len() < 100);
    }

    #[test]
    fn who_has_counted_already_takes_nothing_over() {
        let (old, new) = (Tables::default(), Tables::default());
        let _ = new.secret.get();
        assert_eq!(new.restore(&old.export(NOW), NOW), Err(RestoreError::InUse));
        assert_eq!(new.restore(b"rdl-rl\x00\x02", NOW), Err(RestoreError::Version));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(cut in 0..2_000_usize, flipped in 0..2_000_usize, noise: Vec<u8>) {
            let old = Tables::default();
            let _kept = with(&old, 100);
            let mut bytes = old.export(NOW);
            let length = bytes.len();
            bytes[flipped % length] ^= 1;
            bytes.truncate(cut % length);
            let _ = Tables::default().restore(&bytes, NOW);
            let _ = Tables::default().restore(&[&HEAD[..], &noise].concat(), NOW);
        }
    }
}
