//! What a process has learnt, on its way to the next one.

use std::collections::BTreeMap;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::exchange::snapshot::Snapshot;
use crate::filter::rate_limit::tables::Tables;
use crate::upstream::pool::BackendSnapshot;

/// The version of what is written; a process that does not know it begins afresh.
const VERSION: u32 = 1;

/// What a process has learnt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estate {
    version: u32,
    /// The health of the backends by the name of their upstream.
    #[serde(default)]
    upstreams: BTreeMap<String, Vec<BackendSnapshot>>,
    /// The buckets of rate limits, as they export themselves, in base64.
    #[serde(default)]
    rate_limits: String,
}

impl Estate {
    /// All of it.
    #[must_use]
    pub fn of(snapshot: &Snapshot, limits: &Tables) -> Self {
        let health = snapshot.targets.iter().map(|target| (target.plan.name.to_string(), target.pool.snapshot()));
        let rate_limits = BASE64.encode(limits.export(snapshot.clock.now()));
        Self { version: VERSION, upstreams: health.collect(), rate_limits }
    }

    /// Its text.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is damaged, or of a version that this process does not know.
    pub fn from_text(text: &[u8]) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(text)?;
        if version != VERSION {
            return Err(io::Error::other(format!("it is of version {version}, and version {VERSION} is known here")));
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Lets what is built go on from there. What the new configuration does not name is passed over.
    pub fn settle(mut self, snapshot: &Snapshot, limits: &Tables) {
        if let Err(error) = self.settle_limits(snapshot, limits) {
            log::warn!("rate limits begin anew: {error}");
        }
        for target in &snapshot.targets {
            if let Some(backends) = self.upstreams.remove(&*target.plan.name) {
                target.pool.restore(backends);
            }
        }
    }
}

impl Estate {
    fn settle_limits(&self, snapshot: &Snapshot, limits: &Tables) -> io::Result<()> {
        if self.rate_limits.is_empty() {
            return Ok(());
        }
        let exported = BASE64.decode(&self.rate_limits).map_err(io::Error::other)?;
        limits.restore(&exported, snapshot.clock.now()).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_version_is_refused_and_an_unknown_key_is_not() {
        let read = |text: &str| Estate::from_text(text.as_bytes());
        assert!(read(r#"{"version": 1, "upstreams": {}, "of_tomorrow": [1]}"#).is_ok());
        let refusal = read(r#"{"version": 2, "upstreams": 7}"#).unwrap_err().to_string();
        assert!(refusal.contains("version 2"), "{refusal}");
        assert!(read("{").is_err());
    }
}
